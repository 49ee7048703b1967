import { decimal, NONE } from "../base/figures.ts";
import { timeText } from "../base/units.ts";
import { type Figure, type Pair, pairsIn } from "../stages/metrics/metric.ts";
import { METRICS } from "../stages/metrics/mod.ts";
import type { RunRecord } from "../pipeline/run/record.ts";
import type { Table } from "./table.ts";

/** A finished run with the name of its method. */
export interface MethodRun {
	name: string;
	record: RunRecord;
}

/**
 * The runs of a model as papers print them: the bits that they claim and those that are stored, perplexity
 * by data set, the mean accuracy of zero-shot tasks. Undefined if no run has any of these figures.
 */
export function paperTable(model: string, runs: readonly MethodRun[]): Table | undefined {
	const columns = METRICS.flatMap((metric) => {
		const pairs = runs.flatMap(({ record }) => pairsIn<Figure>(metric, record.evaluation));
		const own = pairs.length > 0 ? metric.published?.(pairs) ?? [] : [];
		return own.map((column) => ({ metric, ...column }));
	});
	if (columns.length === 0) return undefined;
	type Columns = typeof columns[number];
	const pairsOf = ({ metric }: Columns, { record }: MethodRun) =>
		pairsIn<Figure>(metric, record.evaluation);
	const original = columns.map((column) => {
		const found = runs.map((run) =>
			pairsOf(column, run)
				.filter(({ before }) => before).map(({ before }): Pair<Figure> => ({ after: before }))
		);
		const texts = found.map((pairs) => column.text(pairs));
		return texts.find((text) => text !== NONE) ?? NONE;
	});
	return {
		caption: `${model}, as papers print it`,
		head: ["Method", "Claimed bits", "Stored bits", ...columns.map(({ head }) => head), "Time"],
		hints: {
			"Claimed bits": "Signs alone, as papers count: without scales, zones and masks",
			"Stored bits": "All bytes of the linear layers, per weight",
		},
		rows: [
			["original", NONE, NONE, ...original, NONE],
			...runs.map((run) => {
				const { packed, seconds } = run.record;
				return [
					run.name,
					decimal(packed?.paperBits, 2),
					decimal(packed?.storedBits, 2),
					...columns.map((column) => column.text(pairsOf(column, run))),
					seconds === undefined ? NONE : timeText(seconds),
				];
			}),
		],
	};
}
