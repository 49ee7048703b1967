/**
 * ARB-LLM's alternating fits in f64, one weight after the other.
 *
 * @see ARB-LLM, https://arxiv.org/abs/2410.03129
 */
import { signOf } from "./billm.ts";

/** A block of weights with the classes of its columns and weights. */
export interface ArbCase {
	/** `[rows][cols]`. */
	weight: number[][];
	salient: readonly number[];
	/** 0 or 1, `[rows][cols]`; of salient columns, too, with a bitmap. */
	zones: number[][];
	costs: ArrayLike<number>;
	bitmap: boolean;
	/** Whether weights take the nearest value of any zone. */
	nearest: boolean;
}

/** Signs of both planes and zones of a weight. */
interface Bits {
	zone: number;
	signs: [number, number];
}

/** The bits of the nearest value; `valueOf` gives that of bits, of a plane or of two. */
function nearestBits(
	w: number,
	zones: readonly number[],
	planes: number,
	valueOf: (bits: Bits) => number,
): Bits {
	const seconds = planes === 2 ? [1, -1] : [1];
	const all = zones.flatMap((zone) =>
		[1, -1].flatMap((first) => seconds.map((second): Bits => ({ zone, signs: [first, second] })))
	);
	return all.reduce((best, bits) =>
		Math.abs(w - valueOf(bits)) < Math.abs(w - valueOf(best)) ? bits : best
	);
}

function ratio(pairs: readonly (readonly [number, number])[], old: number): number {
	const [top, bottom] = pairs.reduce(([a, b], [x, y]) => [a + x, b + y], [0, 0]);
	return bottom > 0 ? top / bottom : old;
}

/** ARB-RC: W ≈ Σ over planes of row scale · column scale · sign. */
export function arbScalesReference(block: ArbCase, iterations: number) {
	const { weight, salient, costs, bitmap, nearest } = block;
	const [rows, cols] = [weight.length, salient.length];
	const zones = block.zones.map((row) => row.map((z, c) => salient[c] && !bitmap ? 0 : z));
	const signs = weight.map((row) => row.map((): [number, number] => [1, 1]));
	// [row or column][zone][plane], of ordinary and of salient columns
	const scales = (n: number, fill: number) =>
		Array.from({ length: n }, () => [0, 1].map(() => [[fill, fill], [fill, fill]]));
	const [r, c] = [scales(rows, 0), scales(cols, 1)];
	const term = (i: number, j: number, zone: number, plane: number) =>
		r[i][salient[j]][zone][plane] * c[j][salient[j]][zone][plane];
	const valueOf = (i: number, j: number, { zone, signs }: Bits) =>
		signs[0] * term(i, j, zone, 0) + (salient[j] ? signs[1] * term(i, j, zone, 1) : 0);
	const assign = () => {
		for (let i = 0; i < rows; i++) {
			for (let j = 0; j < cols; j++) {
				const mayMove = nearest && (!salient[j] || bitmap);
				const choices = mayMove ? [zones[i][j], 1 - zones[i][j]] : [zones[i][j]];
				const found = nearestBits(
					weight[i][j],
					choices,
					salient[j] + 1,
					(bits) => valueOf(i, j, bits),
				);
				zones[i][j] = found.zone;
				signs[i][j] = found.signs;
			}
		}
	};
	const step = (plane: 0 | 1, isFirst: boolean) => {
		const target = weight.map((row, i) =>
			row.map((w, j) => {
				if (!salient[j] || (isFirst && plane === 0)) return w;
				return w - signs[i][j][1 - plane] * term(i, j, zones[i][j], 1 - plane);
			})
		);
		if (isFirst) target.forEach((row, i) => row.forEach((t, j) => signs[i][j][plane] = signOf(t)));
		const isMember = (i: number, j: number, kind: number, zone: number) =>
			salient[j] === kind && zones[i][j] === zone;
		for (const kind of plane === 1 ? [1] : [0, 1]) {
			for (const zone of [0, 1]) {
				for (let i = 0; i < rows; i++) {
					const pairs = [];
					for (let j = 0; j < cols; j++) {
						if (!isMember(i, j, kind, zone)) continue;
						const k = isFirst ? 1 : c[j][kind][zone][plane];
						pairs.push(
							[costs[j] * k * signs[i][j][plane] * target[i][j], costs[j] * k * k] as const,
						);
					}
					r[i][kind][zone][plane] = ratio(pairs, r[i][kind][zone][plane]);
				}
				for (let j = 0; j < cols; j++) {
					const pairs = [];
					for (let i = 0; i < rows; i++) {
						if (!isMember(i, j, kind, zone)) continue;
						const own = r[i][kind][zone][plane];
						const t = signs[i][j][plane] * target[i][j];
						pairs.push(isFirst ? [t / own, 1] as const : [own * t, own * own] as const);
					}
					c[j][kind][zone][plane] = ratio(pairs, c[j][kind][zone][plane]);
				}
			}
		}
	};
	step(0, true);
	step(1, true);
	for (let i = 0; i < iterations; i++) {
		if (i > 0) assign();
		step(0, false);
		step(1, false);
	}
	if (iterations > 0) assign();
	const value = weight.map((row, i) =>
		row.map((_, j) => valueOf(i, j, { zone: zones[i][j], signs: signs[i][j] }))
	);
	return { r, c, zones, signs, value };
}

/**
 * ARB-X of one row: mean and scales of each class (low, high, salient low, salient high), first fitted to
 * the weights, then to w S wᵀ of the class with signs fixed.
 */
export function arbRowReference(
	block: Omit<ArbCase, "weight" | "zones"> & { row: number[]; zones: number[] },
	moments: number[][],
	iterations: number,
) {
	const { row, salient, costs, bitmap, nearest } = block;
	const classes = row.map((_, j) =>
		salient[j] ? 2 + (bitmap ? block.zones[j] : 0) : block.zones[j]
	);
	const signs = row.map((): [number, number] => [1, 1]);
	const fits = [0, 1, 2, 3].map(() => ({ mean: 0, scales: [0, 0] }));
	const valueOf = (k: number, [a, b]: readonly number[]) =>
		fits[k].mean + a * fits[k].scales[0] + b * fits[k].scales[1];
	const members = (k: number) => [...row.keys()].filter((j) => classes[j] === k);
	const mean = (k: number, of: (j: number) => number, old: number) =>
		ratio(members(k).map((j) => [costs[j] * of(j), costs[j]] as const), old);
	for (const k of [0, 1, 2, 3]) {
		const fit = fits[k];
		fit.mean = mean(k, (j) => row[j], 0);
		for (const j of members(k)) signs[j][0] = signOf(row[j] - fit.mean);
		fit.scales[0] = mean(k, (j) => Math.abs(row[j] - fit.mean), 0);
		if (k < 2) continue;
		const left = (j: number) => row[j] - valueOf(k, [signs[j][0], 0]);
		fit.mean += mean(k, left, 0);
		for (const j of members(k)) signs[j][1] = signOf(left(j));
		fit.scales[1] = mean(k, (j) => Math.abs(left(j)), 0);
	}
	const partOf = (k: number, plane: number, j: number) =>
		row[j] - valueOf(k, plane === 0 ? [0, signs[j][1]] : [signs[j][0], 0]);
	for (let i = 0; i < iterations; i++) {
		for (const k of [0, 1, 2, 3]) {
			const fit = fits[k];
			fit.mean += mean(k, (j) => row[j] - valueOf(k, signs[j]), 0);
			for (const plane of k < 2 ? [0] : [0, 1]) {
				const old = fit.scales[plane];
				fit.scales[plane] = mean(k, (j) => signs[j][plane] * partOf(k, plane, j), old);
			}
		}
		row.forEach((w, j) => {
			const k = classes[j];
			const mayMove = nearest && (k < 2 || bitmap);
			const found = nearestBits(
				w,
				mayMove ? [k, k ^ 1] : [k],
				k < 2 ? 1 : 2,
				({ zone, signs }) => valueOf(zone, signs),
			);
			classes[j] = found.zone;
			signs[j] = found.signs;
		});
	}
	const form = (k: number, a: (j: number) => number, b: (j: number) => number) => {
		const own = members(k);
		return own.reduce(
			(sum, i) => sum + own.reduce((s, j) => s + a(i) * moments[i][j] * b(j), 0),
			0,
		);
	};
	for (let i = 0; i < iterations; i++) {
		for (const k of [0, 1, 2, 3]) {
			if (members(k).length === 0) continue;
			const fit = fits[k];
			const one = () => 1;
			fit.mean = form(k, one, (j) => row[j] - valueOf(k, signs[j]) + fit.mean) / form(k, one, one);
			for (const plane of k < 2 ? [0] : [0, 1]) {
				const sign = (j: number) => signs[j][plane];
				fit.scales[plane] = form(k, sign, (j) => partOf(k, plane, j)) / form(k, sign, sign);
			}
		}
	}
	return { fits, classes, signs };
}

/** The error of two planes on each half of the values, split at a threshold of the magnitude. */
export function halvesError(
	row: readonly number[],
	costs: readonly number[],
	threshold: number,
	binarize: (values: readonly number[], planes: number) => number[],
): number {
	return [false, true].reduce((sum, high) => {
		const own = [...row.keys()].filter((j) => (Math.abs(row[j]) >= threshold) === high);
		const fitted = binarize(own.map((j) => row[j]), 2);
		return sum + own.reduce((s, j, i) => s + costs[j] * (row[j] - fitted[i]) ** 2, 0);
	}, 0);
}
