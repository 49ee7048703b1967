import { basename, extname } from "node:path";
import { z } from "zod";
import { percentText, perplexityText } from "../base/units.ts";
import { DATASETS } from "../data/datasets.ts";
import { tuningFolder } from "../hosts/deno_gpu.ts";
import { perplexity } from "../models/metrics/perplexity.ts";
import { zeroShot } from "../models/metrics/zero_shot.ts";
import { ModelFiles } from "../models/model_files.ts";
import type { CachedFigure, Perplexity, ZeroShot } from "../models/metrics/figures.ts";
import { defineStage, type ModelContext } from "../pipeline/stage.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { datasetOption, evaluationWindows } from "./data.ts";
import { FigureCache, type FigureKey } from "./figure_cache.ts";
import { preparedTask, questionFile, type TaskOption, taskOption } from "./zero_shot_data.ts";

const perplexityOptions = z.strictObject({
  "dataset": datasetOption,
  "sequence-length": z.int().min(2).max(65535).default(2048).describe("Tokens of a window"),
  "windows": z.int().min(1).optional().describe("Only the first windows; all if absent"),
});

type TextOption = z.output<typeof perplexityOptions>;

const options = z.strictObject({
  "perplexity": z.array(perplexityOptions).min(1).optional().describe("Texts to measure on"),
  "zero-shot": z.array(taskOption).min(1).optional().describe(
    "Tasks of lm-evaluation-harness to measure on: a name, or a map with task, dataset, limit",
  ),
  "original": z.boolean().default(true).describe("Measure the original model too"),
  "cache": z.boolean().default(true).describe(
    "Take figures of the original that an earlier run has measured from where they are kept",
  ),
  "batch-tokens": z.int().min(1).max(65535).default(8192).describe(
    "Tokens that go through a layer together",
  ),
}).refine(
  (options) => options.perplexity ?? options["zero-shot"],
  'must have "perplexity", "zero-shot" or both',
);

type Options = z.output<typeof options>;

/** Measures what was lost: perplexity and accuracy of the original and of the packed files. */
export const evaluate = defineStage({
  name: "evaluate",
  scope: "model",
  summary: "Measure perplexity and zero-shot accuracy of the original and of the packed model",
  options,
  needs: ["model-files"],
  gives: ["evaluation"],
  async inputs(context, options) {
    const files: string[] = [];
    for (const text of options.perplexity ?? []) files.push(...await textFiles(context, text));
    for (const task of options["zero-shot"] ?? []) files.push(await questionFile(context, task));
    return files;
  },

  async check(context, options) {
    for (const text of options.perplexity ?? []) await windowsOf(context, text);
    for (const task of options["zero-shot"] ?? []) await preparedTask(context, task);
  },

  async run(context, options) {
    const originalFiles = context.get("model-files");
    const packedModel = context.find("packed-model");
    using packedFiles = packedModel && ModelFiles.open(denoFolder(packedModel.folder));
    const cache = new FigureCache(options.cache ? tuningFolder() : undefined);
    const original = options.original &&
      await new Measurement(context, options, originalFiles, "original model", cache).run();
    const packed = packedFiles &&
      await new Measurement(context, options, packedFiles, "packed model").run();
    context.set("evaluation", {
      original: original ? original.perplexities : [],
      ...(packed && { packed: packed.perplexities }),
      ...(options["zero-shot"] && {
        zeroShot: {
          original: original ? original.zeroShots : [],
          ...(packed && { packed: packed.zeroShots }),
        },
      }),
    });
  },
});

/** What is measured on a model. */
class Measurement {
  constructor(
    readonly context: ModelContext,
    readonly options: Options,
    readonly model: ModelFiles,
    /** What messages call it. */
    readonly label: string,
    /** Where its figures are kept, if they are. */
    readonly cache?: FigureCache,
  ) {}

  async run(): Promise<{ perplexities: Perplexity[]; zeroShots: ZeroShot[] }> {
    const { perplexity: texts = [], "zero-shot": tasks = [] } = this.options;
    const perplexities: Perplexity[] = [];
    for (const text of texts) perplexities.push(await this.#perplexity(text));
    return { perplexities, zeroShots: await this.#zeroShot(tasks) };
  }

  async #perplexity(text: TextOption): Promise<Perplexity> {
    const { context, model, label } = this;
    const { dataset } = text;
    const key = await this.#perplexityKey(text);
    let result = this.#find<Perplexity>(key, dataset);
    if (!result) {
      const windows = await windowsOf(context, text);
      result = await perplexity(context.gpu, model, {
        windows,
        dataset,
        batchTokens: this.options["batch-tokens"],
        onProgress: this.#progress(dataset),
      });
      context.gpu.trim();
      this.#keep(key, result);
    }
    const { windows, sequenceLength, cached } = result;
    this.#metric(
      `perplexity of the ${label}`,
      result.perplexity,
      `${
        perplexityText(result.perplexity)
      } on ${dataset}, ${windows} windows of ${sequenceLength} tokens`,
      cached,
    );
    return result;
  }

  /** Tasks whose figures are not known go through the model together. */
  async #zeroShot(options: readonly TaskOption[]): Promise<ZeroShot[]> {
    const { context, model } = this;
    const entries = [];
    for (const option of options) {
      const prepared = await preparedTask(context, option);
      const key = await this.#zeroShotKey(option);
      entries.push({ prepared, key, found: this.#find<ZeroShot>(key, prepared.dataset) });
    }
    const missing = entries.filter(({ found }) => !found);
    if (missing.length > 0) {
      const tasks = missing.map(({ prepared }) => prepared);
      const measured = await zeroShot(context.gpu, model, tasks, {
        batchTokens: this.options["batch-tokens"],
        onProgress: this.#progress(tasks.map(({ task }) => task.name).join(", ")),
      });
      context.gpu.trim();
      for (const [i, entry] of missing.entries()) {
        entry.found = measured[i];
        this.#keep(entry.key, measured[i]);
      }
    }
    return entries.map(({ found }) => {
      this.#report(found!);
      return found!;
    });
  }

  #report(result: ZeroShot): void {
    const { label } = this;
    const { acc, accStderr, accNorm, accNormStderr, task, questions, truncated, cached } = result;
    const rest = `on ${task}, ${questions} questions` +
      (truncated > 0 ? `, ${truncated} requests cut to what the model takes` : "");
    const text = (value: number, error: number) =>
      `${percentText(value, 2)} ± ${percentText(error, 2)} ${rest}`;
    this.#metric(`acc of the ${label}`, acc, text(acc, accStderr), cached);
    if (accNorm === undefined) return;
    this.#metric(`acc_norm of the ${label}`, accNorm, text(accNorm, accNormStderr!), cached);
  }

  #metric(name: string, value: number, text: string, cached?: CachedFigure): void {
    const origin = cached ? " (kept from an earlier run)" : "";
    const type = "metric";
    this.context.report({ type, stage: "evaluate", name, value, text: text + origin });
  }

  #progress(what: string): (done: number, total: number) => Promise<void> {
    const { context, label } = this;
    const text = `${label}, ${what}`;
    return async (done, total) => {
      context.report({ type: "progress", stage: "evaluate", done, total, text });
      await context.pause();
    };
  }

  #find<Figure extends Perplexity | ZeroShot>(
    key: FigureKey | undefined,
    dataset: string,
  ): Figure | undefined {
    const found = key && this.cache?.find<Figure>(key);
    return found && { ...found.figure, dataset, cached: found.cached };
  }

  #keep(key: FigureKey | undefined, figure: Perplexity | ZeroShot): void {
    if (key) this.cache?.keep(key, figure, this.context.gpu.name);
  }

  async #perplexityKey(text: TextOption): Promise<FigureKey | undefined> {
    if (!this.cache) return undefined;
    const { dataset, "sequence-length": sequenceLength, windows = null } = text;
    return {
      figure: "perplexity",
      model: this.#modelHashes(),
      // Of a named data set the rows are joined in a way of its own.
      dataset: Object.hasOwn(DATASETS, dataset) ? dataset : null,
      data: this.#hashes(await textFiles(this.context, text)),
      sequenceLength,
      windows,
    };
  }

  async #zeroShotKey(option: TaskOption): Promise<FigureKey | undefined> {
    if (!this.cache) return undefined;
    const { task, limit = null, specialTokens } = await preparedTask(this.context, option);
    return {
      figure: "zero-shot",
      model: this.#modelHashes(),
      task: task.name,
      version: task.version,
      data: this.#hashes([await questionFile(this.context, option)]),
      limit,
      specialTokens,
    };
  }

  #modelHashes(): Record<string, string> {
    const hashes = this.model.files.map((file) => [basename(file), this.context.sha256(file)]);
    return Object.fromEntries(hashes);
  }

  /** What files of data hold, and how they are read: their names are of no account. */
  #hashes(files: readonly string[]): string[] {
    return files.map((file) => `${this.context.sha256(file)}${extname(file).toLowerCase()}`);
  }
}

async function textFiles(context: ModelContext, { dataset }: TextOption): Promise<string[]> {
  return (await context.dataset(dataset, "evaluation")).files;
}

function windowsOf(
  context: ModelContext,
  { dataset, windows: limit, "sequence-length": length }: TextOption,
): Promise<Int32Array[]> {
  return evaluationWindows(context, dataset, length, limit);
}
