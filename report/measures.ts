import type { Evaluation, RunRecord } from "../pipeline/run/record.ts";
import type { Perplexity, ZeroShot } from "../models/metrics/figures.ts";
import {
  dateText,
  decimal,
  growthText,
  isNumber,
  NONE,
  percent,
  perplexityText,
  sum,
} from "./figures.ts";
import type { Cell, Table } from "./table.ts";

/** A measurement of a model before and after. */
export interface Pair<Result> {
  before?: Result;
  after?: Result;
}

/** Whether two perplexities are of the same text, cut in the same way. */
export function isSameText(a: Perplexity, b: Perplexity): boolean {
  return textKey(a) === textKey(b);
}

/** What tells texts, and ways to cut them, apart. */
export function textKey({ dataset, sequenceLength, windows }: Perplexity): string {
  return JSON.stringify([dataset, sequenceLength, windows]);
}

/** Perplexities by text, in the order of the pipeline file. */
export function perplexityPairs(evaluation: Evaluation | undefined): Pair<Perplexity>[] {
  const { original = [], packed = [] } = evaluation ?? {};
  const pairs = packed.map((after): Pair<Perplexity> => ({
    before: original.find((before) => isSameText(before, after)),
    after,
  }));
  const alone = original.filter((before) => !packed.some((after) => isSameText(before, after)));
  return [...pairs, ...alone.map((before) => ({ before }))];
}

/** Zero-shot results by task, in the order of the pipeline file. */
export function taskPairs(evaluation: Evaluation | undefined): Pair<ZeroShot>[] {
  const { original = [], packed = [] } = evaluation?.zeroShot ?? {};
  const isSame = (a: ZeroShot, b: ZeroShot) =>
    a.task === b.task && a.dataset === b.dataset && a.questions === b.questions &&
    a.specialTokens === b.specialTokens;
  const pairs = packed.map((after): Pair<ZeroShot> => ({
    before: original.find((before) => isSame(before, after)),
    after,
  }));
  const alone = original.filter((before) => !packed.some((after) => isSame(before, after)));
  return [...pairs, ...alone.map((before) => ({ before }))];
}

/** The accuracy that papers report of a task: the normalized one where there is one. */
export function mainAccuracy({ acc, accNorm }: ZeroShot): number {
  return accNorm ?? acc;
}

/** The mean of a model's accuracies over tasks; undefined if it lacks one. */
export function meanAccuracy(results: readonly (ZeroShot | undefined)[]): number | undefined {
  const known = results.filter((result) => result !== undefined);
  if (known.length === 0 || known.length < results.length) return undefined;
  return sum(known.map(mainAccuracy)) / known.length;
}

/** Where figures come from that another run has measured, a sentence each. */
export function earlierMeasurements(evaluation: Evaluation | undefined): string[] {
  const { original = [], zeroShot } = evaluation ?? {};
  const all = [...original, ...zeroShot?.original ?? []].map(({ cached }) => cached)
    .filter((cached) => cached !== undefined)
    .map(({ measured, adapter }) =>
      `Figures of the original were measured ${dateText(measured)} on ${adapter}.`
    );
  return [...new Set(all)];
}

export function perplexityTable(record: RunRecord): Table {
  return {
    caption: "Perplexity before and after",
    head: ["Text", "Windows", "Original", "Packed", "Growth", "Loss, nats"],
    rows: perplexityPairs(record.evaluation).map(({ before, after }) => {
      const { dataset, windows, sequenceLength } = (after ?? before)!;
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
  };
}

/** An accuracy in percent with its standard error. */
function accuracyText(value: number | undefined, error: number | undefined): string {
  if (!isNumber(value)) return NONE;
  return isNumber(error)
    ? `${decimal(100 * value, 1)} ± ${decimal(100 * error, 1)}`
    : decimal(100 * value, 1);
}

export function taskTable(pairs: readonly Pair<ZeroShot>[]): Table {
  const rows: Cell[][] = pairs.map(({ before, after }) => {
    const { task, version, questions } = (after ?? before)!;
    return [
      version === undefined ? task : `${task} (${version})`,
      decimal(questions, 0),
      accuracyText(before?.acc, before?.accStderr),
      accuracyText(after?.acc, after?.accStderr),
      accuracyText(before?.accNorm, before?.accNormStderr),
      accuracyText(after?.accNorm, after?.accNormStderr),
    ];
  });
  const mean = (results: (ZeroShot | undefined)[], of: (result: ZeroShot) => number) => {
    const known = results.filter((result) => result !== undefined);
    if (known.length < pairs.length) return NONE;
    return decimal(100 * sum(known.map(of)) / known.length, 1);
  };
  const [before, after] = [pairs.map((pair) => pair.before), pairs.map((pair) => pair.after)];
  rows.push([
    "mean (normalized where there is one)",
    "",
    mean(before, ({ acc }) => acc),
    mean(after, ({ acc }) => acc),
    mean(before, mainAccuracy),
    mean(after, mainAccuracy),
  ]);
  return {
    caption: "Zero-shot accuracy in percent, with standard errors",
    head: [
      "Task (version)",
      "Questions",
      "acc original",
      "acc packed",
      "acc_norm original",
      "acc_norm packed",
    ],
    rows,
    total: true,
  };
}

/** "22.6 % of 11.5 MB" as far as it is known. */
export function shareText(bytes: number, of: number, text: (bytes: number) => string): string {
  return of > 0 ? `${percent(bytes / of)} of ${text(of)}` : "";
}
