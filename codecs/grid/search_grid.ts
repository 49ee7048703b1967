import { constant } from "../../gpu/constant.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import { reductionLanes, withReduction } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { topCode, type Zeros, zerosOf } from "./grid.ts";
import source from "./search_grid.wgsl" with { type: "text" };

/** The input and output of {@link searchGrid}. */
export interface GridSearch {
	bits: number;
	zeros: Zeros;
	/** f32 `[rows, stride]`. */
	weight: Tensor;
	/** The columns of `weight` to search grids for; all if absent. */
	first?: number;
	cols?: number;
	/** Columns of a scale group; the last one may have fewer. */
	groupSize: number;
	/** The cost of a squared error in each column, f32 `[stride]`, not negative. */
	costs: Tensor;
	/** If present, the cost is √(costs · otherCosts), f32 `[stride]`. */
	otherCosts?: Tensor;
	/** Receives scales and zeros, f32 `[rows, groups, 2]`. */
	fits: Tensor;
	/** The index of the first scale group in `fits`; 0 if absent. */
	group?: number;
}

/** Threads per row and group on a GPU: few have more candidates. */
const LANES = 32;

/** Columns in workgroup memory. */
const MOST_TILE = 256;

/**
 * Searches scale and zero of the grid of each row and scale group, such that the weighted squared error of
 * the nearest levels is least. Scales, and zeros that are no codes, are rounded to f16, as they are stored.
 */
export async function searchGrid(gpu: Gpu, search: GridSearch): Promise<void> {
	const { bits, zeros, weight, first = 0, groupSize, costs, otherCosts, fits, group = 0 } = search;
	const [rows, stride] = weight.shape;
	const cols = search.cols ?? stride;
	const { candidates, inWindows } = candidatesFor(zeros, bits);
	const neighbours = NEIGHBOURS[zeros === "free" ? "free" : "fixed"];
	const size = Math.min(groupSize, cols);
	const { constants, ...text } = withReduction(gpu, {
		name: "search_grid",
		source: roundF16 + source,
		constants: {
			TOP: topCode(bits),
			FREE: Number(zeros === "free"),
			WINDOWS: Number(inWindows),
			TILE: Math.ceil(Math.min(size, MOST_TILE) / 4),
			GEOMETRIC: Number(otherCosts !== undefined),
		},
	});
	const lanes = { LANES: reductionLanes(gpu, LANES) };
	const kernel = await gpu.kernel({ ...text, constants: { ...constants, ...lanes } });
	const table = constant(gpu, Float32Array.from([...candidates, ...neighbours].flat()));
	const groups = Math.ceil(cols / groupSize);
	kernel.dispatch({
		params: uniform([
			rows,
			stride,
			first,
			cols,
			size,
			group,
			fits.size / (2 * rows),
			candidates.length,
			neighbours.length,
		]),
		tensors: [weight, costs, otherCosts ?? costs, table, fits],
		workgroups: rows * groups,
	});
}

/**
 * Two numbers of a candidate: its scale as a fraction of the largest magnitude, and its zero; or its
 * scale as a fraction of the range of the weights, and the place of its window in it (0: beginning at
 * the smallest weight, 1: ending at the largest). -1 - place is a place in the range with 0.
 */
type Candidate = [scale: number, zero: number];

/** The least part of the range that levels span: the fewer levels, the more weights lie beyond them. */
const LEAST_SPAN: Record<number, number> = { 1: 0.2, 2: 0.35, 3: 0.45, 4: 0.55, 8: 0.9 };
/** The same and the number of spans for zeros in windows, where clipping one side suffices. */
const LEAST_WINDOW: Record<number, number> = {
	1: 0.2,
	2: 0.35,
	3: 0.5,
	4: 0.65,
	5: 0.75,
	6: 0.82,
	8: 0.9,
};
const WINDOWS: Record<number, number> = { 1: 12, 2: 12, 3: 14, 4: 16, 5: 14, 6: 12, 8: 12 };
const MOST_SPAN = 1.05;
const SPANS = 10;

/** Factors of the scale and terms of the zero that are tried about the best fit. */
const NEIGHBOURS: Record<"fixed" | "free", Candidate[]> = {
	fixed: [1, 0.92, 0.96, 1.04, 1.08, 0.98, 1.02, 1.12].map((factor) => [factor, 0]),
	free: [[1, 0], [1, 0.25], [1, -0.25], [0.96, 0], [1.04, 0], [0.98, 0.1], [1.02, -0.1], [1, 0.5]],
};

/** Equally spaced numbers. */
function spaced(from: number, to: number, count: number): number[] {
	return Array.from({ length: count }, (_, i) => from + (to - from) * i / Math.max(count - 1, 1));
}

/** The candidates of a search. They only have to lead to good codes: a fit to these follows. */
function candidatesFor(
	zeros: Zeros,
	bits: number,
): { candidates: Candidate[]; inWindows: boolean } {
	const top = topCode(bits);
	if (zeros === "free" || (zeros === "any" && bits > 4)) return { ...windows(), inWindows: true };
	const all = zeros === "any" ? spaced(0, top, top + 1) : zerosOf(zeros, bits);
	const spans = spaced(LEAST_SPAN[bits], MOST_SPAN, SPANS);
	const candidates = spans.flatMap((span) =>
		all.map((zero): Candidate => [span / Math.max(zero, top - zero), zero])
	);
	return { candidates, inWindows: false };

	/** Windows at steps of about half a level, not at the ends of the range. */
	function windows() {
		const step = Math.max(0.5, top / 128);
		const candidates = spaced(LEAST_WINDOW[bits], 1, WINDOWS[bits]).flatMap((span) => {
			const count = Math.floor(0.7 * (1 - span) / span * top / step) + 1;
			const places = count === 1 ? [0.5] : spaced(0.15, 0.85, count);
			return places.map((place): Candidate => [span / top, zeros === "free" ? place : -1 - place]);
		});
		return { candidates: [...candidates, [1 / top, -1] satisfies Candidate] };
	}
}
