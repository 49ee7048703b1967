import { UserError } from "../../base/errors.ts";
import type { Evaluation, RunRecord } from "../../pipeline/run/record.ts";
import { figureProblem, type Metric, pairsIn } from "./metric.ts";
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

/**
 * Checks the figures of a record that was read from a file.
 *
 * @param path The file, for messages.
 * @throws {UserError} If a metric cannot present one of its figures.
 */
export function checkFigures({ evaluation }: RunRecord, path: string): void {
	for (const metric of METRICS) {
		const problem = figureProblem(metric, evaluation);
		if (problem === undefined) continue;
		throw new UserError(`"${path}" is not a record of this program: ${problem}`);
	}
}

/** The warnings of all metrics about the figures of a run. */
export function warningsOf(evaluation: Evaluation | undefined): string[] {
	return METRICS.flatMap((metric) =>
		pairsIn(metric, evaluation).flatMap((pair) => metric.warnings?.(pair) ?? [])
	);
}
