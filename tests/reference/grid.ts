/**
 * Codes on grids in f64, one weight after the other.
 *
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */

import type { GridKind } from "~/codecs/grid/grid.ts";

/** The values that codes stand for: scale · (code - offset), or offset ± scale. */
export interface Grid {
	scale: number;
	/** Zero of "range", mean of "mean", 0 of "sign". */
	offset: number;
}

/** The nearest f16 that is finite. */
function half(value: number): number {
	return Math.f16round(Math.min(Math.max(value, -65504), 65504));
}

/** Rounds like IEEE 754: halves to the even neighbour. */
function roundEven(value: number): number {
	const below = Math.floor(value);
	const off = value - below;
	if (off !== 0.5) return off < 0.5 ? below : below + 1;
	return below % 2 === 0 ? below : below + 1;
}

/** The grid of some weights, with numbers as they are stored; with costs, sums of the last two are weighted. */
export function fitGridReference(
	kind: GridKind,
	bits: number,
	weights: readonly number[],
	costs: readonly number[] = weights.map(() => 1),
): Grid {
	if (kind === "range") {
		let [least, most] = [Math.min(0, ...weights), Math.max(0, ...weights)];
		if (least === 0 && most === 0) [least, most] = [-1, 1];
		const top = 2 ** bits - 1;
		const scale = Math.max(half((most - least) / top), 2 ** -24);
		return { scale, offset: Math.min(Math.max(roundEven(-least / scale), 0), top) };
	}
	const n = costs.reduce((sum, cost) => sum + cost, 0) || 1;
	const mean = kind === "mean" ? weights.reduce((sum, w, i) => sum + costs[i] * w, 0) / n : 0;
	const spread = weights.reduce((sum, w, i) => sum + costs[i] * Math.abs(w - mean), 0) / n;
	return { scale: half(spread), offset: half(mean) };
}

export function gridValues(kind: GridKind, bits: number, { scale, offset }: Grid): number[] {
	if (kind !== "range") return [offset - scale, offset + scale];
	return Array.from({ length: 2 ** bits }, (_, code) => scale * (code - offset));
}

export function nearestCode(weight: number, values: readonly number[]): number {
	let best = 0;
	values.forEach((value, code) => {
		if (Math.abs(weight - value) < Math.abs(weight - values[best])) best = code;
	});
	return best;
}

/** Rounds halves up. */
function nearest(value: number): number {
	return Math.floor(value + 0.5);
}

/** The weighted squared error of the nearest levels, Σ h (w - scale · (code - zero))². */
export function gridLoss(
	weights: ArrayLike<number>,
	costs: ArrayLike<number>,
	bits: number,
	{ scale, offset }: Grid,
): number {
	const top = 2 ** bits - 1;
	let loss = 0;
	for (let i = 0; i < weights.length; i++) {
		const code = Math.min(Math.max(nearest(weights[i] / scale + offset), 0), top);
		loss += costs[i] * (weights[i] - scale * (code - offset)) ** 2;
	}
	return loss;
}

/** The real zero of least loss for a scale: between breakpoints, at which a code changes, it is a parabola. */
function bestZero(
	weights: readonly number[],
	costs: readonly number[],
	bits: number,
	scale: number,
): number {
	const levels = weights.map((w) => w / scale);
	const steps = levels.flatMap((t, j) =>
		Array.from({ length: 2 ** bits - 1 }, (_, i) => ({ at: i + 0.5 - t, i, j }))
	).sort((a, b) => a.at - b.at);
	const total = costs.reduce((a, b) => a + b, 0);
	let linear = levels.reduce((sum, t, j) => sum + costs[j] * t, 0);
	let constant = levels.reduce((sum, t, j) => sum + costs[j] * t * t, 0);
	let best = { loss: Infinity, zero: 0 };
	for (let k = 0; k <= steps.length; k++) {
		const zero = Math.min(
			Math.max(-linear / total, steps[k - 1]?.at ?? -Infinity),
			steps[k]?.at ?? Infinity,
		);
		const loss = total * zero * zero + 2 * linear * zero + constant;
		if (loss < best.loss) best = { loss, zero };
		if (k === steps.length) break;
		const { i, j } = steps[k];
		constant += costs[j] * (1 - 2 * (levels[j] - i));
		linear -= costs[j];
	}
	return best.zero;
}

/**
 * The searched grid of some weights: 35 scales with every zero, then least squares for fixed codes.
 *
 * @param zeros The zeros to try, or "free" for the best real one.
 */
export function searchGridReference(
	weights: readonly number[],
	costs: readonly number[],
	bits: number,
	zeros: readonly number[] | "free",
): Grid {
	const top = 2 ** bits - 1;
	const sum = (term: (i: number) => number) => weights.reduce((all, _, i) => all + term(i), 0);
	let best: Grid & { loss: number } = { loss: Infinity, scale: 1, offset: 0 };
	const offer = (scale: number, zero: number) => {
		const grid = {
			scale: Math.max(half(scale), 2 ** -24),
			offset: zeros === "free" ? half(zero) : zero,
		};
		const loss = gridLoss(weights, costs, bits, grid);
		if (loss < best.loss) best = { loss, ...grid };
	};
	const [least, most] = [Math.min(...weights), Math.max(...weights)];
	for (let step = 0; step < 35; step++) {
		const factor = 0.2 + 0.85 * step / 34;
		if (zeros === "free") {
			const scale = Math.max(factor * (most - least) / top, 2 ** -24);
			offer(scale, bestZero(weights, costs, bits, scale));
		} else {
			for (const zero of zeros) {
				offer(factor * Math.max(most, -least) / Math.max(zero, top - zero), zero);
			}
		}
	}
	for (let round = 0; round < 3; round++) {
		const { scale, offset } = best;
		const codes = weights.map((w) => Math.min(Math.max(nearest(w / scale + offset), 0), top));
		if (zeros === "free") {
			const [a, b, c] = [0, 1, 2].map((power) => sum((i) => costs[i] * codes[i] ** power));
			const [y, x] = [0, 1].map((power) => sum((i) => costs[i] * codes[i] ** power * weights[i]));
			const fitted = (a * x - b * y) / (a * c - b * b);
			if (fitted > 0) offer(fitted, (b * fitted - y) / (a * fitted));
		} else {
			const square = sum((i) => costs[i] * (codes[i] - offset) ** 2);
			const fitted = sum((i) => costs[i] * weights[i] * (codes[i] - offset)) / square;
			if (fitted > 0) offer(fitted, offset);
		}
	}
	return { scale: best.scale, offset: best.offset };
}
