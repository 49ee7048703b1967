import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import { withReduction } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./fit_grid.wgsl" with { type: "text" };
import { GRID_NUMBERS, type GridKind, topCode } from "./grid.ts";

/** The input and output of {@link fitGrid}. */
export interface GridFit {
	grid: GridKind;
	/** Bits of a code; 1 for "mean" and "sign". */
	bits: number;
	/** The columns of one scale group, f32 `[rows, cols]`. */
	weight: Tensor;
	/** Bit mask of the weights to exclude, u32 `[rows, words]`; none if absent. */
	mask?: Tensor;
	/** The column of `mask` that corresponds to the first column of `weight`, a multiple of 32. */
	first?: number;
	/** The costs of a squared error in each column, f32 `[cols]`, of "mean" and "sign"; all 1 if absent. */
	costs?: Tensor;
	/** Receives the scale, and the zero or mean, f32 `[rows, groups, 2]`. */
	fits: Tensor;
	/** The index of the scale group in `fits`; 0 if absent. */
	group?: number;
}

/**
 * Fits the grid of each row of a scale group. Scales and means are rounded to f16, as they are stored.
 */
export async function fitGrid(gpu: Gpu, fit: GridFit): Promise<void> {
	const { grid, bits, weight, mask, first = 0, costs, fits, group = 0 } = fit;
	const [rows, cols] = weight.shape;
	const kernel = await gpu.kernel(withReduction(gpu, {
		name: "fit_grid",
		source: roundF16 + source,
		constants: {
			GRID: GRID_NUMBERS[grid],
			TOP: topCode(bits),
			HAS_MASK: Number(!!mask),
			HAS_COSTS: Number(!!costs),
		},
	}));
	const words = mask?.shape[1] ?? 0;
	kernel.dispatch({
		params: uniform([rows, cols, group, fits.size / (2 * rows), words, first / 32]),
		tensors: [weight, mask ?? weight, costs ?? weight, fits],
		workgroups: rows,
	});
}
