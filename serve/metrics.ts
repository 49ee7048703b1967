/** What a metric counts, by its name without the prefix. */
const METRICS = {
	requests_total: ["counter", "Requests by path and status"],
	cancelled_total: ["counter", "Requests whose client has left or did not read"],
	prompt_tokens_total: ["counter", "Tokens of prompts"],
	prompt_tokens_reused_total: ["counter", "Tokens of prompts that were in a KV cache already"],
	generated_tokens_total: ["counter", "Generated tokens"],
	texts_running: ["gauge", "Texts that are being generated"],
	texts_waiting: ["gauge", "Texts that wait for a place"],
	gpu_bytes: ["gauge", "Bytes of GPU memory in use and kept"],
	resident_bytes: ["gauge", "Bytes of the process in main memory"],
	heap_bytes: ["gauge", "Bytes of objects in main memory"],
	first_token_seconds: ["histogram", "Seconds from a request to the first token of a text"],
	request_seconds: ["histogram", "Seconds from a request to the end of its response"],
} as const satisfies Record<string, readonly [type: string, help: string]>;

export type MetricName = keyof typeof METRICS;
type OfType<Type extends string> = {
	[Name in MetricName]: typeof METRICS[Name][0] extends Type ? Name : never;
}[MetricName];

/** Upper bounds of a histogram's buckets in seconds. */
const BOUNDS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

/**
 * Counters and histograms, written in Prometheus' text format.
 *
 * @see https://prometheus.io/docs/instrumenting/exposition_formats/
 */
export class Metrics {
	/** Values by name, then by labels as written. */
	readonly #counters = new Map<string, Map<string, number>>();
	readonly #histograms = new Map<string, { counts: number[]; sum: number }>();

	/** Adds to a counter. The values of labels come from a small set. */
	count(name: OfType<"counter">, by = 1, labels: Record<string, string | number> = {}): void {
		const written = Object.entries(labels).map(([key, value]) => `${key}="${value}"`).join(",");
		const values = this.#counters.get(name) ?? new Map();
		this.#counters.set(name, values);
		values.set(written, (values.get(written) ?? 0) + by);
	}

	/** Adds a time in seconds to a histogram. */
	observe(name: OfType<"histogram">, seconds: number): void {
		const found = this.#histograms.get(name);
		const histogram = found ?? { counts: new Array(BOUNDS.length + 1).fill(0), sum: 0 };
		this.#histograms.set(name, histogram);
		const bucket = BOUNDS.findIndex((bound) => seconds <= bound);
		histogram.counts[bucket < 0 ? BOUNDS.length : bucket]++;
		histogram.sum += seconds;
	}

	/** All metrics as text. @param gauges Their values now. */
	text(gauges: Record<OfType<"gauge">, number>): string {
		const lines = Object.entries(METRICS).flatMap(([name, [type, help]]) => [
			`# HELP billm_${name} ${help}`,
			`# TYPE billm_${name} ${type}`,
			...this.#samples(name, type, gauges),
		]);
		return lines.join("\n") + "\n";
	}

	#samples(name: string, type: string, gauges: Record<string, number>): string[] {
		if (type === "gauge") return [`billm_${name} ${gauges[name]}`];
		if (type === "counter") {
			const values = this.#counters.get(name) ?? new Map([["", 0]]);
			return [...values].map(([labels, value]) =>
				`billm_${name}${labels ? `{${labels}}` : ""} ${value}`
			);
		}
		const { counts, sum } = this.#histograms.get(name) ?? { counts: [], sum: 0 };
		let total = 0;
		const buckets = [...BOUNDS, "+Inf"].map((bound, i) => {
			total += counts[i] ?? 0;
			return `billm_${name}_bucket{le="${bound}"} ${total}`;
		});
		return [...buckets, `billm_${name}_sum ${sum}`, `billm_${name}_count ${total}`];
	}
}
