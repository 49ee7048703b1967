/**
 * BiLLM's arithmetic in f64, one weight after the other.
 *
 * @see BiLLM, https://arxiv.org/abs/2402.04291
 */

/** One plane: mean ± scale. */
export interface Fit {
	mean: number;
	scale: number;
}

/** One bit has no zero: 0 counts as positive. */
export function signOf(value: number): 1 | -1 {
	return value >= 0 ? 1 : -1;
}

function average(values: readonly number[]): number {
	return values.length ? values.reduce((sum, v) => sum + v, 0) / values.length : 0;
}

/** mean = average, scale = average distance from it; zeros for an empty group. */
export function fitPlane(values: readonly number[]): Fit {
	const mean = average(values);
	return { mean, scale: average(values.map((v) => Math.abs(v - mean))) };
}

/** Fits planes one after the other, each to what those before it left over. */
export function fitPlanes(values: readonly number[], planes: number): Fit[] {
	const fits: Fit[] = [];
	let left = [...values];
	for (let plane = 0; plane < planes; plane++) {
		const fit = fitPlane(left);
		fits.push(fit);
		left = left.map((v) => v - (fit.mean + fit.scale * signOf(v - fit.mean)));
	}
	return fits;
}

/** What {@link fitPlanes} makes of the values themselves. */
export function binarize(values: readonly number[], planes: number): number[] {
	const fits = fitPlanes(values, planes);
	return values.map((value) => {
		let left = value;
		for (const { mean, scale } of fits) left -= mean + scale * signOf(left - mean);
		return value - left;
	});
}

export function rowsOf(matrix: ArrayLike<number>, cols: number): number[][] {
	return Array.from(
		{ length: matrix.length / cols },
		(_, r) => Array.from({ length: cols }, (_, c) => matrix[r * cols + c]),
	);
}

/** Σ |w² · cost| of each column, or Σ |w| without costs. */
export function columnSaliency(
	weight: ArrayLike<number>,
	cols: number,
	cost?: ArrayLike<number>,
): number[] {
	const sums = new Array<number>(cols).fill(0);
	for (const row of rowsOf(weight, cols)) {
		row.forEach((w, c) => sums[c] += cost ? w * w * cost[c] : Math.abs(w));
	}
	return sums;
}

/** Σ cost · (x - binarize(group of x))² over a row's group of columns. */
function groupError(
	row: readonly number[],
	group: readonly number[],
	cost: ArrayLike<number>,
	planes: number,
): number {
	const values = group.map((c) => row[c]);
	const fitted = binarize(values, planes);
	return group.reduce((sum, c, i) => sum + cost[c] * (values[i] - fitted[i]) ** 2, 0);
}

/**
 * The error of taking the first 1, 2 ... `candidates` columns of `order` for salient, when they and
 * the other columns are each binarized twice.
 */
export function salientErrors(
	values: ArrayLike<number>,
	cols: number,
	order: readonly number[],
	cost: ArrayLike<number>,
	candidates: number,
): number[] {
	const rows = rowsOf(values, cols);
	return Array.from({ length: candidates }, (_, i) => {
		const salient = order.slice(0, i + 1);
		const others = order.slice(i + 1);
		return rows.reduce(
			(sum, row) => sum + groupError(row, salient, cost, 2) + groupError(row, others, cost, 2),
			0,
		);
	});
}

/**
 * The error of splitting the columns that are not salient at each threshold of |value|, when both
 * zones are binarized once.
 */
export function splitErrors(
	values: ArrayLike<number>,
	cols: number,
	salient: ArrayLike<number>,
	cost: ArrayLike<number>,
	thresholds: readonly number[],
): number[] {
	const rows = rowsOf(values, cols);
	const others = Array.from({ length: cols }, (_, c) => c).filter((c) => salient[c] === 0);
	return thresholds.map((threshold) =>
		rows.reduce((sum, row) => {
			const low = others.filter((c) => Math.abs(row[c]) < threshold);
			const high = others.filter((c) => Math.abs(row[c]) >= threshold);
			return sum + groupError(row, low, cost, 1) + groupError(row, high, cost, 1);
		}, 0)
	);
}

/**
 * Quantiles of |values|, the salient columns counted as zeros: linear between the two order
 * statistics around probability · (count - 1). Each step is rounded to f32, as on the device.
 */
export function quantilesReference(
	values: ArrayLike<number>,
	cols: number,
	salient: ArrayLike<number>,
	probabilities: readonly number[],
): number[] {
	const { fround } = Math;
	const sorted = Float32Array.from(values, (v, i) => salient[i % cols] ? 0 : Math.abs(v)).sort();
	const last = sorted.length - 1;
	return probabilities.map((probability) => {
		const rank = fround(fround(probability) * fround(last));
		const below = Math.min(Math.floor(rank), last);
		const above = Math.min(below + 1, last);
		const step = fround(fround(sorted[above] - sorted[below]) * fround(rank - below));
		return fround(sorted[below] + step);
	});
}

/** The fits of a row of a block, as found and as stored. */
export interface RowFits {
	zones: Fit[];
	salient: Fit[];
	storedZones: Fit[];
	/** The salient means added up. */
	storedCenter: number;
	storedScales: number[];
}

/** The value that stands for weight `w`, with the signs that the fits as found give it. */
export function quantizeWeight(w: number, salient: boolean, zone: number, fits: RowFits): number {
	if (!salient) {
		const { mean, scale } = fits.storedZones[zone];
		return mean + scale * signOf(w - fits.zones[zone].mean);
	}
	let left = w;
	let value = fits.storedCenter;
	fits.salient.forEach(({ mean, scale }, plane) => {
		const sign = signOf(left - mean);
		left -= mean + scale * sign;
		value += fits.storedScales[plane] * sign;
	});
	return value;
}

/** The stored value nearest to `w`, of all signs and zones. */
export function nearestValue(w: number, salient: boolean, fits: RowFits): number {
	let values: number[] = [];
	if (salient) {
		values = fits.storedScales.reduce(
			(sums, scale) => sums.flatMap((sum) => [sum - scale, sum + scale]),
			[fits.storedCenter],
		);
	} else {
		values = fits.storedZones.flatMap(({ mean, scale }) => [mean - scale, mean + scale]);
	}
	return values.reduce((best, value) => Math.abs(w - value) < Math.abs(w - best) ? value : best);
}

/** What {@link refineFits} works on: a row's weights, their costs, and what is fitted to them. */
export interface RefinedFits {
	zones: Fit[];
	/** Planes of the salient weights; the means add up. */
	salient: Fit[];
}

/**
 * Alternates between giving each weight a value and moving the values to where the squared errors,
 * weighted by cost, are least. The planes of salient weights take their signs one after the other.
 */
export function refineReference(
	row: readonly number[],
	salient: ArrayLike<number>,
	cost: ArrayLike<number>,
	{ zones, salient: planes }: RefinedFits,
	rounds: number,
): RefinedFits {
	const columns = row.map((_, c) => c);
	let levels = zones.map(({ mean, scale }) => [mean - scale, mean + scale]);
	for (let round = 0; round < rounds; round++) {
		const taken: number[][][] = levels.map(() => [[], []]);
		for (const c of columns.filter((c) => !salient[c])) {
			let [bestZone, bestSide] = [0, 0];
			levels.forEach((sides, zone) =>
				sides.forEach((value, side) => {
					const least = Math.abs(row[c] - levels[bestZone][bestSide]);
					if (Math.abs(row[c] - value) < least) [bestZone, bestSide] = [zone, side];
				})
			);
			taken[bestZone][bestSide].push(c);
		}
		levels = levels.map((sides, zone) =>
			sides.map((value, side) => weightedMean(row, cost, taken[zone][side]) ?? value)
				.sort((a, b) => a - b)
		);
	}
	let center = planes.reduce((sum, { mean }) => sum + mean, 0);
	const scales = planes.map(({ scale }) => scale);
	const marked = columns.filter((c) => salient[c]);
	for (let turn = 0; planes.length && turn < rounds * (planes.length + 1); turn++) {
		const moving = turn % (planes.length + 1);
		const pulls = columns.map((c) => {
			let left = row[c] - center;
			let pull = 1;
			scales.forEach((scale, plane) => {
				const sign = signOf(left);
				if (plane + 1 === moving) pull = sign;
				left -= sign * scale;
			});
			return left * pull;
		});
		const step = weightedMean(pulls, cost, marked) ?? 0;
		if (moving === 0) center += step;
		else scales[moving - 1] = Math.max(scales[moving - 1] + step, 0);
	}
	return {
		zones: levels.map(([low, high]) => ({ mean: (low + high) / 2, scale: (high - low) / 2 })),
		salient: scales.map((scale, plane) => ({ mean: plane === 0 ? center : 0, scale })),
	};
}

function weightedMean(
	values: readonly number[],
	cost: ArrayLike<number>,
	columns: readonly number[],
): number | undefined {
	const total = columns.reduce((sum, c) => sum + cost[c], 0);
	return total > 0 ? columns.reduce((sum, c) => sum + cost[c] * values[c], 0) / total : undefined;
}

/** The weights of packed bits: what `codecs/billm/dequantize.wgsl` must give, with every f32 rounding. */
export function dequantizeReference(
	{ rows, cols, blockSize, zones, planes }: {
		rows: number;
		cols: number;
		blockSize: number;
		zones: number;
		planes: number;
	},
	bits: Uint32Array,
	scales: Float32Array,
	salient: ArrayLike<number>,
): Float32Array {
	const words = Math.ceil(cols / 32);
	const blocks = Math.ceil(cols / blockSize);
	const perBlock = 2 * zones + (planes > 0 ? 1 + planes : 0);
	const out = new Float32Array(rows * cols);
	for (let r = 0; r < rows; r++) {
		for (let c = 0; c < cols; c++) {
			const bit = (plane: number) =>
				(bits[(plane * rows + r) * words + Math.floor(c / 32)] >>> (c % 32)) & 1;
			const at = (r * blocks + Math.floor(c / blockSize)) * perBlock;
			let value: number;
			if (planes > 0 && salient[c]) {
				value = scales[at + 2 * zones];
				for (let plane = 0; plane < planes; plane++) {
					const scale = scales[at + 2 * zones + 1 + plane];
					value = Math.fround(bit(plane) ? value + scale : value - scale);
				}
			} else {
				const zone = zones === 2 ? bit(1) : 0;
				const scale = scales[at + 2 * zone + 1];
				value = Math.fround(scales[at + 2 * zone] + (bit(0) ? scale : -scale));
			}
			out[r * cols + c] = value;
		}
	}
	return out;
}
