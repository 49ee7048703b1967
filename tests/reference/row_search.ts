/**
 * Refits, coordinate descent and tabu search over whole rows in f64, one weight after the other. Values of
 * codes are sums in f32, as they are dequantized.
 */

import { inverse } from "./linear_algebra.ts";

/** A linear layer while it is searched: two zones, and two planes of salient columns or none. */
export interface SearchedLayer {
	rows: number;
	cols: number;
	blockSize: number;
	/** 1 for a salient column. */
	salient: ArrayLike<number>;
	/** First bit + 2 · second bit of each weight, `[rows, cols]`. */
	codes: Uint8Array;
	/** Mean and scale of each zone; mean and both scales of the salient columns, `[rows, blocks, 7]`. */
	scales: Float64Array;
}

export const PARAMETERS = 7;
const RIDGE = 1e-5;
const TENURE = 10;

/** The place of the parameters of a column's block. */
export function parametersAt({ cols, blockSize }: SearchedLayer, row: number, col: number): number {
	return (row * Math.ceil(cols / blockSize) + Math.floor(col / blockSize)) * PARAMETERS;
}

/** How much of each parameter a weight with a code is. */
function pattern(isSalient: boolean, code: number): number[] {
	const first = code & 1 ? 1 : -1;
	const second = code & 2 ? 1 : -1;
	if (isSalient) return [0, 0, 0, 0, 1, first, second];
	return code & 2 ? [0, 0, 1, first, 0, 0, 0] : [1, first, 0, 0, 0, 0, 0];
}

/** The values of the codes 0 .. 3 of a column. */
export function valuesOf(layer: SearchedLayer, row: number, col: number): number[] {
	const at = parametersAt(layer, row, col);
	return [0, 1, 2, 3].map((code) =>
		pattern(layer.salient[col] === 1, code).reduce(
			(sum, part, i) => part === 0 ? sum : Math.fround(sum + part * layer.scales[at + i]),
			0,
		)
	);
}

/** The values of all weights, `[rows, cols]`. */
export function valuesOfLayer(layer: SearchedLayer): Float64Array {
	const { rows, cols, codes } = layer;
	return Float64Array.from(
		{ length: rows * cols },
		(_, i) => valuesOf(layer, Math.floor(i / cols), i % cols)[codes[i]],
	);
}

/** tr(E H Eᵀ) with E = W - Q. */
export function lossOf(
	target: ArrayLike<number>,
	quantized: ArrayLike<number>,
	hessian: ArrayLike<number>,
	cols: number,
): number {
	let loss = 0;
	for (let row = 0; row < target.length; row += cols) {
		const e = Array.from({ length: cols }, (_, j) => target[row + j] - quantized[row + j]);
		for (let i = 0; i < cols; i++) {
			for (let j = 0; j < cols; j++) loss += e[i] * e[j] * hessian[i * cols + j];
		}
	}
	return loss;
}

/** r = (w - q) H of a row. */
function residualOf(
	layer: SearchedLayer,
	row: number,
	target: ArrayLike<number>,
	hessian: ArrayLike<number>,
): Float64Array {
	const { cols, codes } = layer;
	const r = new Float64Array(cols);
	for (let i = 0; i < cols; i++) {
		const at = row * cols + i;
		const e = target[at] - valuesOf(layer, row, i)[codes[at]];
		for (let j = 0; j < cols; j++) r[j] += e * hessian[i * cols + j];
	}
	return r;
}

/** The nearest f16 that is not infinite. */
export function nearestHalf(value: number): number {
	return Math.f16round(Math.min(Math.max(value, -65504), 65504));
}

/** One sweep over the blocks of a layer, in place: each weight's best value, then the parameters of the block. */
export function sweepReference(
	layer: SearchedLayer,
	target: ArrayLike<number>,
	hessian: ArrayLike<number>,
): void {
	const { rows, cols, blockSize, salient, codes, scales } = layer;
	for (let row = 0; row < rows; row++) {
		const r = residualOf(layer, row, target, hessian);
		const move = (col: number, step: number) => {
			for (let j = 0; j < cols; j++) r[j] -= step * hessian[col * cols + j];
		};
		for (let first = 0; first < cols; first += blockSize) {
			const end = Math.min(first + blockSize, cols);
			const columns = Array.from({ length: end - first }, (_, i) => first + i);
			for (const col of columns) {
				const values = valuesOf(layer, row, col);
				const at = row * cols + col;
				const old = values[codes[at]];
				const wish = old + r[col] / hessian[col * (cols + 1)];
				let best = 0;
				values.forEach((value, code) => {
					if (Math.abs(value - wish) < Math.abs(values[best] - wish)) best = code;
				});
				codes[at] = best;
				move(col, values[best] - old);
			}
			const before = columns.map((col) => valuesOf(layer, row, col)[codes[row * cols + col]]);
			const parts = columns.map((col) => pattern(salient[col] === 1, codes[row * cols + col]));
			const place = parametersAt(layer, row, first);
			const own = scales.subarray(place, place + PARAMETERS);
			refit(own, parts, columns, hessian, cols, r);
			columns.forEach((col) => {
				const at = row * cols + col;
				const isSalient = salient[col] === 1;
				if (own[isSalient ? 5 : codes[at] & 2 ? 3 : 1] < 0) codes[at] ^= 1;
				if (isSalient && own[6] < 0) codes[at] ^= 2;
			});
			for (const i of [1, 3, 5, 6]) own[i] = Math.abs(own[i]);
			columns.forEach((col, i) =>
				move(col, valuesOf(layer, row, col)[codes[row * cols + col]] - before[i])
			);
		}
	}
}

/** Adds the solution of (B H Bᵀ + ridge) δ = B rᵀ to the parameters of a block, and rounds. */
function refit(
	own: Float64Array,
	parts: number[][],
	columns: number[],
	hessian: ArrayLike<number>,
	cols: number,
	r: Float64Array,
): void {
	const used = [...own.keys()].filter((i) => parts.some((part) => part[i] !== 0));
	const matrix = new Float64Array(used.length ** 2);
	const side = used.map((i) => columns.reduce((sum, col, k) => sum + parts[k][i] * r[col], 0));
	columns.forEach((col, k) => {
		const product = used.map((j) =>
			columns.reduce((sum, other, l) => sum + hessian[col * cols + other] * parts[l][j], 0)
		);
		used.forEach((i, a) => {
			product.forEach((value, b) => matrix[a * used.length + b] += parts[k][i] * value);
		});
	});
	const trace = used.reduce((sum, _, i) => sum + matrix[i * (used.length + 1)], 0);
	used.forEach((_, i) => {
		const at = i * (used.length + 1);
		matrix[at] += RIDGE * matrix[at] + 1e-12 * trace + 1e-30;
	});
	const inverted = inverse(matrix, used.length);
	used.forEach((i, a) => {
		const step = side.reduce((sum, value, b) => sum + inverted[a * used.length + b] * value, 0);
		own[i] = nearestHalf(own[i] + step);
	});
}

function hash(value: number): number {
	let h = value >>> 0;
	h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
	h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
	return (h ^ (h >>> 16)) >>> 0;
}

/** A gain in f32 of which the last ten bits are cleared, in the order of integers. */
function coarse(gain: number): number {
	const word = new Uint32Array(Float32Array.of(gain).buffer)[0];
	return ((word >>> 31 ? ~word : word | 0x80000000) & 0xfffffc00) >>> 0;
}

/**
 * Tabu search for the bits of each row, in place; parameters stay.
 *
 * @param lanes The threads of a row, if they compare coarse gains; absent if gains are exact.
 */
export function tabuReference(
	layer: SearchedLayer,
	target: ArrayLike<number>,
	hessian: ArrayLike<number>,
	moves: number,
	seed: number,
	lanes?: number,
): void {
	const { rows, cols, codes } = layer;
	for (let row = 0; row < rows; row++) {
		const r = residualOf(layer, row, target, hessian);
		const values = Array.from({ length: cols }, (_, col) => valuesOf(layer, row, col));
		const own = codes.subarray(row * cols, (row + 1) * cols);
		tabuOfRow(own, values, () => true, r, hessian, moves, seed, lanes);
	}
}

/**
 * Tabu search for the codes of a row, in place.
 *
 * @param values Those of the codes of each column.
 * @param isMove Whether a code may change to another one.
 * @param r (w - q) H; updated.
 * @param lanes The threads of a row, if they compare coarse gains; absent if gains are exact.
 */
export function tabuOfRow(
	codes: Uint8Array,
	values: readonly (readonly number[])[],
	isMove: (from: number, to: number) => boolean,
	r: Float64Array,
	hessian: ArrayLike<number>,
	moves: number,
	seed: number,
	lanes?: number,
): void {
	const cols = codes.length;
	const now = codes.slice();
	const kept = now.slice();
	const until = new Uint32Array(cols);
	let [change, best] = [0, 0];
	for (let turn = 1; turn <= moves; turn++) {
		const isBetter = (loss: number) => loss < best - 1e-6 * Math.abs(best);
		const offers = [];
		for (let col = 0; col < cols; col++) {
			const steps = values[col].map((value) => value - values[col][now[col]]);
			const gains = steps.map((d, code) =>
				d === 0 || !isMove(now[col], code) ? 1e30 : d * (hessian[col * (cols + 1)] * d - 2 * r[col])
			);
			const code = gains.indexOf(Math.min(...gains));
			const gain = gains[code];
			if (gain < 1e30 && (until[col] <= turn || isBetter(change + gain))) {
				offers.push({ gain, col, code, step: steps[code] });
			}
		}
		if (offers.length === 0) continue;
		// Of a thread's own columns the best, exactly; of these the best, coarsely.
		let chosen = offers[0];
		if (lanes === undefined) {
			for (const offer of offers) if (offer.gain < chosen.gain) chosen = offer;
		} else {
			const own = new Map<number, typeof chosen>();
			for (const offer of offers) {
				const lane = offer.col % lanes;
				if (!own.has(lane) || offer.gain < own.get(lane)!.gain) own.set(lane, offer);
			}
			[[, chosen]] = [...own].sort(([a, x], [b, y]) => coarse(x.gain) - coarse(y.gain) || a - b);
		}
		const { col, code, gain, step } = chosen;
		now[col] = code;
		for (let j = 0; j < cols; j++) r[j] -= step * hessian[col * cols + j];
		until[col] = turn + TENURE +
			hash(Math.imul(col, 0x9e3779b9) + turn + 1 + seed) % (TENURE / 2 + 1);
		change += gain;
		if (isBetter(change)) {
			best = change;
			kept.set(now);
		}
	}
	codes.set(kept);
}
