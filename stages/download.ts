import { z } from "zod";
import { ModelFiles } from "../models/model_files.ts";
import { defineStage } from "../pipeline/stage.ts";

/** Opens the model's folder and checks its files. */
export const download = defineStage({
  name: "download",
  scope: "model",
  summary: "Find the model's files and check them",
  options: z.strictObject({}),
  needs: [],
  gives: ["model-files"],

  async run(context) {
    const model = ModelFiles.open(context.model);
    const { modelType, layers, hiddenSize } = model.architecture;
    context.set("model-files", model);
    context.report({
      type: "stage",
      stage: "download",
      text: `${context.model}: ${modelType}, ${layers} layers, ${hiddenSize} wide`,
    });
  },
});
