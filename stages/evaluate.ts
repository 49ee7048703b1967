import { z } from "zod";
import { ModelFiles } from "../models/model_files.ts";
import { perplexity } from "../models/perplexity.ts";
import type { Perplexity } from "../pipeline/record.ts";
import { defineStage, type ModelContext } from "../pipeline/stage.ts";
import { datasetOption, evaluationWindows } from "./data.ts";

const perplexityOptions = z.strictObject({
  "dataset": datasetOption,
  "sequence-length": z.int().min(2).max(65535).default(2048).describe("Tokens of a window"),
  "windows": z.int().min(1).optional().describe("Only the first windows; all if absent"),
});

/** Measures what was lost: the perplexity of the original and of the packed files. */
export const evaluate = defineStage({
  name: "evaluate",
  scope: "model",
  summary: "Measure the perplexity of the original and of the packed model",
  options: z.strictObject({
    "perplexity": z.array(perplexityOptions).min(1).describe("Texts to measure on"),
    "original": z.boolean().default(true).describe("Measure the original model too"),
    "batch-tokens": z.int().min(1).max(65535).default(8192).describe(
      "Tokens that go through a layer together",
    ),
  }),
  needs: ["model-files"],
  gives: ["evaluation"],
  async inputs(context, options) {
    const files: string[] = [];
    for (const { dataset } of options.perplexity) {
      files.push(...(await context.dataset(dataset, "evaluation")).files);
    }
    return files;
  },

  async check(context, options) {
    for (const text of options.perplexity) await windowsOf(context, text);
  },

  async run(context, options) {
    const { gpu } = context;
    const original = context.get("model-files");
    const packedModel = context.find("packed-model");
    using packed = packedModel && ModelFiles.open(packedModel.folder);

    const measure = async (model: ModelFiles, label: string): Promise<Perplexity[]> => {
      const results: Perplexity[] = [];
      for (const text of options.perplexity) {
        const { dataset } = text;
        const windows = await windowsOf(context, text);
        const result = await perplexity(gpu, model, {
          windows,
          dataset,
          batchTokens: options["batch-tokens"],
          onProgress: async (done, total) => {
            const what = `${label}, ${dataset}`;
            context.report({ type: "progress", stage: "evaluate", done, total, text: what });
            await context.pause();
          },
        });
        gpu.trim();
        context.report({
          type: "metric",
          stage: "evaluate",
          name: `perplexity of the ${label}`,
          value: result.perplexity,
          text: `${result.perplexity.toFixed(2)} on ${dataset}, ` +
            `${result.windows} windows of ${result.sequenceLength} tokens`,
        });
        results.push(result);
      }
      return results;
    };
    context.set("evaluation", {
      original: options.original ? await measure(original, "original model") : [],
      ...(packed && { packed: await measure(packed, "packed model") }),
    });
  },
});

function windowsOf(
  context: ModelContext,
  { dataset, windows: limit, "sequence-length": length }: z.output<typeof perplexityOptions>,
): Promise<Int32Array[]> {
  return evaluationWindows(context, dataset, length, limit);
}
