import { dateText, percent } from "../base/figures.ts";
import type { Evaluation } from "../pipeline/run/record.ts";
import { measuredIn, type Metric, type Pair, pairsIn } from "../stages/metrics/metric.ts";
import { METRICS } from "../stages/metrics/mod.ts";

/** A metric with the figures of a run. */
export interface MeasuredMetric {
	metric: Metric;
	/** At least one. */
	pairs: Pair<unknown>[];
}

export function measuredMetrics(evaluation: Evaluation | undefined): MeasuredMetric[] {
	return METRICS.map((metric) => ({ metric, pairs: pairsIn(metric, evaluation) }))
		.filter(({ pairs }) => pairs.length > 0);
}

/** The origins of cached figures, one sentence each. */
export function earlierMeasurements(evaluation: Evaluation | undefined): string[] {
	const all = METRICS.flatMap((metric) => measuredIn(metric, evaluation).original)
		.map(({ cached }) => cached).filter((cached) => cached !== undefined)
		.map(({ measured, adapter }) =>
			`Figures of the original were measured ${dateText(measured)} on ${adapter}.`
		);
	return [...new Set(all)];
}

/** A size relative to another, "22.6 % of 11.5 MB"; empty if unknown. */
export function shareText(bytes: number, of: number, text: (bytes: number) => string): string {
	return of > 0 ? `${percent(bytes / of)} of ${text(of)}` : "";
}
