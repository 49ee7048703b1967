import type { Evaluation } from "../../pipeline/run/record.ts";
import { type Metric, pairsIn } from "./metric.ts";
import { perplexity } from "./perplexity.ts";
import { zeroShot } from "./zero_shot.ts";

const table: Metric[] = [
  perplexity,
  zeroShot,
];

/**
 * The metrics of `evaluate`, in the order of measurement and presentation. They belong to the stages
 * because they read options and data as stages do; their GPU work is in `models/metrics`.
 */
export const METRICS: readonly Metric[] = table;

/**
 * Adds a custom metric, for use in pipeline files, records and reports.
 *
 * @returns A handle that removes the metric when disposed.
 * @throws {Error} If another metric has the same option or record key.
 */
export function addMetric<Entry>(metric: Metric<Entry>): Disposable {
  const isTaken = METRICS.some(({ option, recordKey }) =>
    option === metric.option || recordKey === metric.recordKey
  );
  if (isTaken) throw new Error(`There is a metric "${metric.option}" already, or one in its place`);
  table.push(metric);
  return { [Symbol.dispose]: () => void table.splice(table.indexOf(metric), 1) };
}

/** The warnings of all metrics about the figures of a run. */
export function warningsOf(evaluation: Evaluation | undefined): string[] {
  return METRICS.flatMap((metric) =>
    pairsIn(metric, evaluation).flatMap((pair) => metric.warnings?.(pair) ?? [])
  );
}
