/** The scale of an axis and its ticks. */
export interface Scale {
	/** Position of a value, from 0 to 1 between the ends of the axis. */
	at(value: number): number;
	ticks: number[];
}

/**
 * A linear scale, with a margin around the values.
 *
 * @param count Approximate number of ticks.
 */
export function linearScale(values: readonly number[], count: number, margin = 0.06): Scale {
	const [least, most] = [Math.min(...values), Math.max(...values)];
	const spread = most - least || Math.abs(most) || 1;
	const low = least - margin * spread;
	const high = most + margin * spread;
	const step = niceStep((high - low) / count);
	// Neither numbers that are too close for f64 nor those near its end may make this endless.
	const first = Math.ceil(low / step);
	const ticks = Array.from({ length: 4 * count }, (_, i) => (first + i) * step)
		.filter((tick, i, all) => tick <= high && tick !== all[i - 1]);
	return { at: (value) => (value - low) / (high - low), ticks };
}

/** A logarithmic scale for positive values. */
export function logScale(values: readonly number[], margin = 0.08): Scale {
	const logs = values.map(Math.log);
	const [least, most] = [Math.min(...logs), Math.max(...logs)];
	const spread = most - least || 1;
	const low = least - margin * spread;
	const high = most + margin * spread;
	const wide = high - low > Math.log(300);
	const ticks: number[] = [];
	for (let power = Math.floor(low / Math.LN10); power <= high / Math.LN10; power++) {
		for (const digit of wide ? [1] : [1, 2, 3, 5]) {
			const tick = digit * 10 ** power;
			if (Math.log(tick) >= low && Math.log(tick) <= high) ticks.push(tick);
		}
	}
	return { at: (value) => (Math.log(value) - low) / (high - low), ticks };
}

/** The smallest of 1, 2 or 5 times a power of ten from `step` on. */
export function niceStep(step: number): number {
	const power = 10 ** Math.floor(Math.log10(step));
	const digit = [1, 2, 5, 10].find((digit) => digit * power >= step * (1 - 1e-9)) ?? 10;
	return digit * power;
}
