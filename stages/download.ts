import { existsSync } from "node:fs";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { isPackedTable } from "../codecs/embedding/packed_table.ts";
import { codecOf } from "../codecs/mod.ts";
import { weightedModules } from "../models/architectures/architecture.ts";
import { STORED_DTYPES } from "../models/decoder.ts";
import { ModelFiles, readConfig } from "../models/model_files.ts";
import { HUB_ID } from "../pipeline/run/hub_access.ts";
import { defineStage } from "../pipeline/stage.ts";
import { denoFolder } from "../storage/deno_folder.ts";

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
      const check = (folder: string) => void readConfig(denoFolder(folder), name);
      const snapshot = await context.hub.model(name, revision ?? "main", check);
      folder = snapshot.folder;
      label = `${name}@${snapshot.commit.slice(0, 7)}`;
    }
    const model = ModelFiles.open(denoFolder(folder), name);
    checkTensors(model);
    const { modelType, layers, hiddenSize } = model.architecture;
    context.set("model-files", model);
    context.emit({
      type: "stage",
      stage: "download",
      text: `${label}: ${modelType}, ${layers} layers, ${hiddenSize} wide`,
    });
  },
});

/**
 * @throws {UserError} If a weight or bias is missing or of a type that is not supported: found later,
 *   it would end a run after hours.
 */
function checkTensors({ architecture, checkpoint, folder }: ModelFiles): void {
  const { names, layers, norm } = architecture;
  const modules = weightedModules(architecture);
  const isBiased = norm === "layer";
  const check = (name: string, bias: boolean) => {
    const isStored = !codecOf(checkpoint, name) && !isPackedTable(checkpoint, name);
    const tensors = isStored ? [`${name}.weight`] : [];
    if (bias) tensors.push(`${name}.bias`);
    for (const tensor of tensors) {
      const { dtype } = checkpoint.get(tensor);
      if (STORED_DTYPES.includes(dtype)) continue;
      throw new UserError(
        `Cannot use "${tensor}" of "${folder}": it is stored as ${dtype}; supported are ` +
          STORED_DTYPES.join(", "),
      );
    }
  };
  const { embedding, positions, projectIn, projectOut, finalNorm, head } = names;
  for (const name of [embedding, positions?.name, projectIn]) if (name) check(name, false);
  for (let i = 0; i < layers; i++) {
    for (const { module, bias } of modules) check(names.layer(i) + module, bias);
  }
  if (projectOut) check(projectOut, false);
  if (finalNorm) check(finalNorm, isBiased);
  if (head) check(head, false);
}
