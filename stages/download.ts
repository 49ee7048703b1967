import { existsSync } from "node:fs";
import { z } from "zod";
import { ModelFiles } from "../models/model_files.ts";
import { isPacked } from "../models/packed_format.ts";
import { UserError } from "../pipeline/errors.ts";
import { defineStage } from "../pipeline/stage.ts";

/** A name on the hub: "gpt2" or "facebook/opt-125m". */
const HUB_ID = /^[A-Za-z0-9][\w.-]*(\/[\w.-]+)?$/;

/** Finds the model, a folder or a name on the hub, and checks its files. */
export const download = defineStage({
  name: "download",
  scope: "model",
  summary: "Find the model's files and check them",
  options: z.strictObject({
    "revision": z.string().min(1).optional().describe(
      "Branch, tag or commit of a model on the hub; main if left out",
    ),
  }),
  needs: [],
  gives: ["model-files"],

  async run(context, { revision }) {
    const { model: name } = context;
    let folder = name;
    let label = name;
    if (existsSync(name)) {
      if (revision) {
        throw new UserError(
          `The model "${name}" is a folder, so it has no revision "${revision}"; ` +
            `leave download.revision out`,
        );
      }
    } else if (HUB_ID.test(name)) {
      const snapshot = await context.hub.model(name, revision ?? "main").catch((error) => {
        if (!(error instanceof UserError)) throw error;
        throw new UserError(`${error.message}; a folder "${name}" is not there either`);
      });
      folder = snapshot.folder;
      label = `${name}@${snapshot.commit.slice(0, 7)}`;
    }
    const model = ModelFiles.open(folder);
    checkNames(model);
    const { modelType, layers, hiddenSize } = model.architecture;
    context.set("model-files", model);
    context.report({
      type: "stage",
      stage: "download",
      text: `${label}: ${modelType}, ${layers} layers, ${hiddenSize} wide`,
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
