import { z } from "zod";
import { decimal, growthText, isNumber, NONE } from "../../base/figures.ts";
import { DATASETS } from "../../data/datasets.ts";
import type { Perplexity } from "../../models/metrics/figures.ts";
import { perplexity as measure } from "../../models/metrics/perplexity.ts";
import type { ModelContext } from "../../pipeline/stage.ts";
import { datasetOption, evaluationWindows } from "../data.ts";
import { type Column, figuresOf, lastOf, type Metric, type Pair } from "./metric.ts";

const entry = z.strictObject({
  "dataset": datasetOption,
  "sequence-length": z.int().min(2).max(65535).default(2048).describe("Tokens per window"),
  "windows": z.int().min(1).optional().describe("Maximum number of windows; default all"),
});

type Entry = z.output<typeof entry>;

/** The perplexity over windows of a text. */
export const perplexity: Metric<Entry, Perplexity> = {
  option: "perplexity",
  description: "Texts to measure perplexity on",
  entry,
  noun: "perplexity",

  async inputs(context, { dataset }) {
    return (await context.dataset(dataset, "evaluation")).files;
  },

  async check(context, text) {
    await windowsOf(context, text);
  },

  dataset: ({ dataset }) => dataset,

  key(_context, { dataset, "sequence-length": sequenceLength, windows = null }, data) {
    return {
      // The name decides how rows are joined.
      dataset: Object.hasOwn(DATASETS, dataset) ? dataset : null,
      data,
      sequenceLength,
      windows,
    };
  },

  async measure({ context, model, batchTokens, progress }, [text]) {
    const { dataset } = text;
    const windows = await windowsOf(context, text);
    const onProgress = progress(dataset);
    return [await measure(context.gpu, model, { windows, dataset, batchTokens, onProgress })];
  },

  subject: ({ dataset, sequenceLength, windows }) =>
    JSON.stringify([dataset, sequenceLength, windows]),

  values: ({ perplexity: value, dataset, windows, sequenceLength }) => [{
    name: "perplexity",
    value,
    text: `${terminalText(value)} on ${dataset}, ${windows} windows of ${sequenceLength} tokens`,
  }],

  terminal: {
    name: "Perplexity",
    line(pair) {
      const values = figuresOf(pair).map(({ perplexity }) => terminalText(perplexity));
      return `${values.join(" -> ")} on ${lastOf(pair).dataset}`;
    },
    columns: [
      {
        head: "perplexity",
        text: ([{ after } = {}]) => after ? terminalText(after.perplexity) : "",
      },
      {
        head: "before",
        text: ([{ before } = {}]) => before ? terminalText(before.perplexity) : "",
      },
    ],
  },

  tile([pair]) {
    const { before, after } = pair;
    return {
      value: figuresOf(pair).map(({ perplexity }) => perplexityText(perplexity)).join(" → "),
      note: before && after
        ? `${growthText(before.perplexity, after.perplexity)} on ${after.dataset}`
        : `of the ${after ? "packed" : "original"} model on ${lastOf(pair).dataset}`,
    };
  },

  table: (pairs) => ({
    caption: "Perplexity before and after",
    head: ["Text", "Windows", "Original", "Packed", "Growth", "Loss, nats"],
    rows: pairs.map((pair) => {
      const { before, after } = pair;
      const { dataset, windows, sequenceLength } = lastOf(pair);
      const added = isNumber(before?.loss) && isNumber(after?.loss)
        ? `+${decimal(after.loss - before.loss, 3)}`.replace("+-", "−")
        : NONE;
      return [
        dataset,
        `${windows} × ${sequenceLength}`,
        perplexityText(before?.perplexity),
        perplexityText(after?.perplexity),
        growthText(before?.perplexity, after?.perplexity),
        added,
      ];
    }),
  }),

  columns(pairs) {
    const all = pairs.map(lastOf);
    const texts = [...new Map(all.map((text) => [perplexity.subject(text), text])).values()];
    return texts.flatMap((text): Column<Perplexity>[] => {
      const subject = perplexity.subject(text);
      const pairOf = (pairs: readonly Pair<Perplexity>[]) =>
        pairs.find((pair) => perplexity.subject(lastOf(pair)) === subject);
      return [
        {
          head: `Perplexity, ${shortText(text, texts)}`,
          text: (pairs) => perplexityText(pairOf(pairs)?.after?.perplexity),
        },
        {
          head: "Growth",
          text(pairs) {
            const { before, after } = pairOf(pairs) ?? {};
            return growthText(before?.perplexity, after?.perplexity);
          },
        },
      ];
    });
  },

  chart: {
    value: ({ perplexity }) => perplexity,
    text: perplexityText,
    tick(value) {
      if (value >= 1e6) return value.toExponential(0);
      return decimal(value, value >= 10 || Number.isInteger(value) ? 0 : 1);
    },
  },
};

function windowsOf(
  context: ModelContext,
  { dataset, windows: limit, "sequence-length": length }: Entry,
): Promise<Int32Array[]> {
  return evaluationWindows(context, dataset, length, limit);
}

/** The heading of a text's column, with its windows where that is needed to tell texts apart. */
function shortText(text: Perplexity, texts: readonly Perplexity[]): string {
  const { dataset, windows, sequenceLength } = text;
  const isAlone = texts.filter((other) => other.dataset === dataset).length === 1;
  const name = dataset.slice(dataset.lastIndexOf("/") + 1);
  return isAlone ? name : `${name}, ${windows} × ${sequenceLength}`;
}

/** A perplexity in a terminal; an infinite one is null in JSON. */
function terminalText(value: number | null): string {
  return value === null || !Number.isFinite(value) ? "infinite" : value.toFixed(2);
}

/** A perplexity in a report: large ones of broken models need no decimals. */
export function perplexityText(value: number | null | undefined): string {
  if (value === undefined) return NONE;
  if (!isNumber(value)) return "not finite";
  if (value >= 1e6) return value.toExponential(2);
  return decimal(value, value < 1000 ? 2 : 0);
}
