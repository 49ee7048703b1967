import { z } from "zod";
import { ModelFiles } from "../models/model_files.ts";
import { isPacked } from "../models/packed_format.ts";
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
    checkNames(model);
    const { modelType, layers, hiddenSize } = model.architecture;
    context.set("model-files", model);
    context.report({
      type: "stage",
      stage: "download",
      text: `${context.model}: ${modelType}, ${layers} layers, ${hiddenSize} wide`,
    });
  },
});

/** @throws {UserError} If a weight is missing: found later, it would end a run after hours. */
function checkNames({ architecture, checkpoint }: ModelFiles): void {
  const { names, steps, layers } = architecture;
  const modules = steps.flatMap((step) => {
    if (step.op === "norm") return [step.module];
    return step.op === "linear" ? step.linears.map(({ module }) => module) : [];
  });
  const { embedding, positions, projectIn, projectOut, finalNorm, head } = names;
  const all = [embedding, positions?.name, projectIn];
  for (let i = 0; i < layers; i++) all.push(...modules.map((module) => names.layer(i) + module));
  for (const name of [...all, projectOut, finalNorm, head]) {
    if (name && !isPacked(checkpoint, name)) checkpoint.get(`${name}.weight`);
  }
}
