/** Levels of rows in f64: Lloyd's fit, rounding with feedback, refits and coordinate descent. */

import type { LevelKind } from "~/codecs/levels/levels.ts";
import { levelValues } from "../codecs/levels/random_levels.ts";
import { inverse } from "./linear_algebra.ts";
import { nearestHalf } from "./row_search.ts";

/** The levels of unit normal numbers by count. */
const NORMAL: Record<number, number[]> = {
	2: [-0.7979, 0.7979],
	3: [-1.224, 0, 1.224],
	4: [-1.51, -0.4528, 0.4528, 1.51],
	5: [-1.724, -0.7646, 0, 0.7646, 1.724],
	8: [-2.152, -1.344, -0.756, -0.2451, 0.2451, 0.756, 1.344, 2.152],
};

/** The factors of a, and of b if there is one, in each level: `[parameters][count]`. */
function patternOf(kind: LevelKind): number[][] {
	const parameters = kind.pattern === "free" ? Math.floor(kind.count / 2) : 1;
	return Array.from(
		{ length: parameters },
		(_, i) => levelValues(kind, [Number(i === 0), Number(i === 1)]),
	);
}

/** The code of the nearest level, the first of several. */
function nearest(values: readonly number[], x: number): number {
	let best = 0;
	values.forEach((value, code) => {
		if (Math.abs(x - value) < Math.abs(x - values[best])) best = code;
	});
	return best;
}

/** The solution of (matrix + ridge) x = side + ridge · old for one or two unknowns. */
function solveWithRidge(
	matrix: number[][],
	side: number[],
	old: readonly number[],
	ridge: readonly number[],
): number[] {
	const n = side.length;
	const inverted = inverse(
		matrix.flatMap((row, i) => row.map((value, j) => value + (i === j ? ridge[i] : 0))),
		n,
	);
	const right = side.map((value, i) => value + ridge[i] * old[i]);
	return right.map((_, i) => right.reduce((sum, value, j) => sum + inverted[i * n + j] * value, 0));
}

/** The parameters of a row after 15 steps of Lloyd's method, f16. */
export function lloydReference(
	kind: LevelKind,
	row: readonly number[],
	costs: ArrayLike<number>,
): number[] {
	const pattern = patternOf(kind);
	const sumOf = (value: (x: number, col: number) => number) =>
		row.reduce((sum, x, col) => sum + costs[col] * value(x, col), 0);
	const total = sumOf(() => 1);
	const mean = sumOf((x) => x) / total;
	const deviation = Math.sqrt(sumOf((x) => (x - mean) ** 2) / total);
	const normal = NORMAL[kind.count];
	let theta = pattern.map((factors) => {
		const square = factors.reduce((sum, factor) => sum + factor * factor, 0);
		return deviation * factors.reduce((sum, factor, i) => sum + factor * normal[i], 0) / square;
	});
	for (let step = 0; step < 15; step++) {
		const levels = levelValues(kind, theta);
		const codes = row.map((x) => nearest(levels, x));
		const matrix = pattern.map((a) =>
			pattern.map((b) => sumOf((_, i) => a[codes[i]] * b[codes[i]]))
		);
		const side = pattern.map((a) => sumOf((x, i) => a[codes[i]] * x));
		const trace = matrix.reduce((sum, own, i) => sum + own[i], 0);
		const ridge = pattern.map(() => 1e-6 * trace / pattern.length + 1e-30);
		theta = solveWithRidge(matrix, side, theta, ridge);
	}
	return theta.map(nearestHalf);
}

/** The codes of a row that is rounded column by column; later columns compensate. `factor` is U. */
export function feedbackReference(
	kind: LevelKind,
	row: readonly number[],
	theta: readonly number[],
	factor: ArrayLike<number>,
): number[] {
	const n = row.length;
	const levels = levelValues(kind, theta);
	const w = [...row];
	return row.map((_, j) => {
		const code = nearest(levels, w[j]);
		const error = (w[j] - levels[code]) / factor[j * n + j];
		for (let k = j + 1; k < n; k++) w[k] -= error * factor[j * n + k];
		return code;
	});
}

/** (w - q) H of a row. */
export function residualReference(
	kind: LevelKind,
	row: readonly number[],
	codes: ArrayLike<number>,
	theta: ArrayLike<number>,
	hessian: ArrayLike<number>,
): Float64Array {
	const n = row.length;
	const levels = levelValues(kind, theta);
	const residual = new Float64Array(n);
	row.forEach((w, i) => {
		for (let j = 0; j < n; j++) residual[j] += (w - levels[codes[i]]) * hessian[i * n + j];
	});
	return residual;
}

/** The parameters of a row that are best for its codes, f16. */
export function refitReference(
	kind: LevelKind,
	row: readonly number[],
	codes: readonly number[],
	old: readonly number[],
	hessian: ArrayLike<number>,
): number[] {
	const n = row.length;
	const parts = patternOf(kind).map((factors) => codes.map((code) => factors[code]));
	const times = (vector: readonly number[]) =>
		Array.from(
			{ length: n },
			(_, j) => vector.reduce((sum, value, i) => sum + value * hessian[i * n + j], 0),
		);
	const dot = (a: readonly number[], b: readonly number[]) =>
		a.reduce((sum, value, i) => sum + value * b[i], 0);
	const products = parts.map(times);
	const matrix = parts.map((part) => products.map((product) => dot(part, product)));
	const side = products.map((product) => dot(row, product));
	const mean = matrix.reduce((sum, own, i) => sum + own[i], 0) / parts.length;
	const ridge = matrix.map((own, i) => 1e-5 * own[i] + 1e-12 * mean + 1e-30);
	return solveWithRidge(matrix, side, old, ridge).map(nearestHalf);
}

/** One sweep of coordinate descent over a row, in place. */
export function descendReference(
	kind: LevelKind,
	residual: Float64Array,
	codes: number[],
	theta: readonly number[],
	hessian: ArrayLike<number>,
): void {
	const n = codes.length;
	const levels = levelValues(kind, theta);
	codes.forEach((code, j) => {
		const chosen = nearest(levels, levels[code] + residual[j] / hessian[j * n + j]);
		const step = levels[chosen] - levels[code];
		codes[j] = chosen;
		for (let k = 0; k < n; k++) residual[k] -= step * hessian[j * n + k];
	});
}
