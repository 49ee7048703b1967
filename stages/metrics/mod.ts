import type { Metric } from "./metric.ts";
import { perplexity } from "./perplexity.ts";
import { zeroShot } from "./zero_shot.ts";

const table: Metric[] = [
  perplexity,
  zeroShot,
];

/**
 * The metrics that `evaluate` knows, in the order in which they are measured and shown. They lie among
 * the stages because they read options and data as stages do; their work on the GPU is in
 * `models/metrics`.
 */
export const METRICS: readonly Metric[] = table;

/**
 * Adds a metric of a program's own: pipeline files can ask for it, runs record it and reports show it.
 *
 * @returns Takes it out of the table again when it is disposed of.
 * @throws {Error} If a metric has its option or its place in the record already.
 */
export function addMetric<Entry>(metric: Metric<Entry>): Disposable {
  const isTaken = METRICS.some(({ option, recordKey }) =>
    option === metric.option || recordKey === metric.recordKey
  );
  if (isTaken) throw new Error(`There is a metric "${metric.option}" already, or one in its place`);
  table.push(metric);
  return { [Symbol.dispose]: () => void table.splice(table.indexOf(metric), 1) };
}
