import { existsSync } from "node:fs";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { isPackedEmbedding } from "../codecs/embedding/embedding.ts";
import { codecOf } from "../codecs/mod.ts";
import { ModelFiles, readConfig } from "../models/model_files.ts";
import { layerPlaces, outsidePlaces, type Place } from "../models/places.ts";
import { STORED_DTYPES } from "../models/stored_tensors.ts";
import { HUB_ID } from "../pipeline/run/hub_access.ts";
import { defineStage } from "../pipeline/stage.ts";
import { denoFolder } from "../storage/deno_folder.ts";

/** The stage that finds the model, a folder or a name on the hub, and checks its files. */
export const download = defineStage({
  name: "download",
  scope: "model",
  summary: "Find or download the model's files and check them",
  options: z.strictObject({
    "revision": z.string().min(1).optional().describe(
      "Branch, tag or commit of a model on the hub; default main",
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
 * Checks all weights and biases before any long work.
 *
 * @throws {UserError} If a weight or bias is missing or of an unsupported type.
 */
function checkTensors({ architecture, checkpoint, folder }: ModelFiles): void {
  const check = ({ name }: Place) => {
    const { dtype } = checkpoint.get(name);
    if (STORED_DTYPES.includes(dtype)) return;
    throw new UserError(
      `Cannot use "${name}" of "${folder}": it is stored as ${dtype}; supported are ` +
        STORED_DTYPES.join(", "),
    );
  };
  for (const place of Object.values(outsidePlaces(architecture)).flat()) {
    if (place && !isPackedEmbedding(checkpoint, place.name.replace(/\.weight$/, ""))) check(place);
  }
  for (let i = 0; i < architecture.layers; i++) {
    for (const { linear, ...place } of layerPlaces(architecture, i)) {
      if (!linear || !codecOf(checkpoint, linear)) check(place);
    }
  }
}
