/**
 * The trellis codec in f64, one tile and one state after the other.
 *
 * @see QTIP, https://arxiv.org/abs/2406.11235
 */

import { damped, inverse, inverseFactorReference, matmul } from "./linear_algebra.ts";

/** A trellis with its table. */
export interface TrellisReference {
	stateBits: number;
	stepBits: number;
	stepWeights: number;
	/** `[2^stateBits, stepWeights]`. */
	table: ArrayLike<number>;
}

/**
 * The states of the walk that is nearest to the weights.
 *
 * @param overlap If given, the first state begins and the last state ends with these bits.
 */
function nearestWalk(
	weights: ArrayLike<number>,
	{ stateBits, stepBits, stepWeights, table }: TrellisReference,
	overlap?: number,
): number[] {
	const states = 2 ** stateBits;
	const overlaps = 2 ** (stateBits - stepBits);
	const steps = weights.length / stepWeights;
	const distance = (step: number, state: number) => {
		let sum = 0;
		for (let v = 0; v < stepWeights; v++) {
			sum += (weights[step * stepWeights + v] - table[state * stepWeights + v]) ** 2;
		}
		return sum;
	};
	let costs = Float64Array.from({ length: states }, (_, state) => {
		const isAllowed = overlap === undefined || state >> stepBits === overlap;
		return isAllowed ? distance(0, state) : Infinity;
	});
	const origins: Int32Array[] = [];
	for (let step = 1; step < steps; step++) {
		const next = new Float64Array(states).fill(Infinity);
		const origin = new Int32Array(states);
		for (let state = 0; state < states; state++) {
			for (let from = state >> stepBits; from < states; from += overlaps) {
				if (costs[from] >= next[state]) continue;
				next[state] = costs[from];
				origin[state] = from;
			}
			next[state] += distance(step, state);
		}
		costs = next;
		origins.push(origin);
	}
	let last = -1;
	for (let state = 0; state < states; state++) {
		if (overlap !== undefined && state % overlaps !== overlap) continue;
		if (last < 0 || costs[state] < costs[last]) last = state;
	}
	const walk = [last];
	for (const origin of origins.reverse()) walk.unshift(origin[walk[0]]);
	return walk;
}

/**
 * The states of a walk whose last state overlaps with the first: the overlap is that of the middle of the
 * nearest walk through the weights turned by half.
 */
export function tailBitingWalk(weights: ArrayLike<number>, trellis: TrellisReference): number[] {
	const half = weights.length / 2;
	const turned = Array.from(weights, (_, i) => weights[(i + half) % weights.length]);
	const walk = nearestWalk(turned, trellis);
	return nearestWalk(weights, trellis, walk[walk.length / 2] >> trellis.stepBits);
}

/** The new bits of each state in words, the first bit highest. */
export function walkBits(walk: readonly number[], { stepBits }: TrellisReference): Uint32Array {
	const bits = walk.map((state) => (state % 2 ** stepBits).toString(2).padStart(stepBits, "0"))
		.join("");
	return Uint32Array.from(bits.match(/.{32}/g)!, (word) => parseInt(word, 2));
}

/** A linear layer as its encoder leaves it. */
export interface EncodedReference {
	/** The column of each place. */
	order: number[];
	/** The bits of each tile, row of tiles after row of tiles. */
	streams: Uint32Array[];
	/** Not rounded. */
	scales: number[];
}

/**
 * Encodes a linear layer 16 columns after the other; later columns compensate.
 *
 * @param weight `[rows, cols]`.
 * @param hessian Symmetric, `[cols, cols]`.
 */
export function encodeReference(
	weight: ArrayLike<number>,
	hessian: ArrayLike<number>,
	rows: number,
	trellis: TrellisReference,
	{ isOrdered, damping, scaleDamping }: {
		isOrdered: boolean;
		damping: number;
		scaleDamping: number;
	},
): EncodedReference {
	const cols = weight.length / rows;
	const { stepWeights, table } = trellis;
	const natural = damped(hessian, cols, damping);
	const order = Array.from({ length: cols }, (_, col) => col);
	if (isOrdered) order.sort((a, b) => natural[b * cols + b] - natural[a * cols + a] || a - b);
	const h = Float64Array.from(
		{ length: cols * cols },
		(_, at) => natural[order[Math.floor(at / cols)] * cols + order[at % cols]],
	);
	const w = Float64Array.from(
		{ length: rows * cols },
		(_, at) => weight[Math.floor(at / cols) * cols + order[at % cols]],
	);
	const u = inverseFactorReference(h, cols);
	const spread = Array.from({ length: rows }, (_, row) => {
		const values = w.subarray(row * cols, (row + 1) * cols);
		return Math.max(Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0) / cols), 1e-20);
	});
	const work = w.slice();
	const z = new Float64Array(rows * cols);
	const [below, beside] = [Math.ceil(rows / 16), Math.ceil(cols / 16)];
	const streams: Uint32Array[] = Array(below * beside);
	for (let first = 0; first < cols; first += 16) {
		const width = Math.min(16, cols - first);
		for (let tile = 0; tile < below; tile++) {
			const tileWeights = Array.from({ length: 256 }, (_, e) => {
				const [row, j] = [16 * tile + (e >> 4), e & 15];
				return row < rows && j < width ? work[row * cols + first + j] / spread[row] : 0;
			});
			const walk = tailBitingWalk(tileWeights, trellis);
			streams[tile * beside + first / 16] = walkBits(walk, trellis);
			for (let e = 0; e < 256; e++) {
				const [row, j] = [16 * tile + (e >> 4), e & 15];
				if (row >= rows || j >= width) continue;
				const state = walk[Math.floor(e / stepWeights)];
				z[row * cols + first + j] = table[state * stepWeights + e % stepWeights];
			}
		}
		const block = (from: number, to: number) =>
			Float64Array.from(
				{ length: width * (to - from) },
				(_, at) => u[(first + Math.floor(at / (to - from))) * cols + from + at % (to - from)],
			);
		const later = first + width;
		const difference = Float64Array.from({ length: rows * width }, (_, at) => {
			const [row, j] = [Math.floor(at / width), at % width];
			const i = row * cols + first + j;
			return work[i] - z[i] * spread[row];
		});
		const own = inverse(block(first, later), width);
		const change = matmul(
			matmul(difference, own, rows, width, width),
			block(later, cols),
			rows,
			cols - later,
			width,
		);
		change.forEach((value, at) => {
			const [row, j] = [Math.floor(at / (cols - later)), at % (cols - later)];
			work[row * cols + later + j] -= value;
		});
	}
	const forScales = damped(hessian, cols, scaleDamping);
	const g = h.map((_, at) => forScales[order[Math.floor(at / cols)] * cols + order[at % cols]]);
	const turned = matmul(z, g, rows, cols, cols);
	const scales = Array.from({ length: rows }, (_, row) => {
		let [along, square] = [0, 0];
		for (let i = row * cols; i < (row + 1) * cols; i++) {
			along += w[i] * turned[i];
			square += z[i] * turned[i];
		}
		return along / square;
	});
	return { order, streams, scales };
}
