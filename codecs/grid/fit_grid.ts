import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import { withReduction } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./fit_grid.wgsl" with { type: "text" };
import { GRID_NUMBERS, type GridKind, topCode } from "./grid.ts";

/** What a grid is fitted to, and where it goes. */
export interface GridFit {
  grid: GridKind;
  /** Of a code; "mean" and "sign" have one. */
  bits: number;
  /** The columns that share a grid, f32 `[rows, cols]`. */
  weight: Tensor;
  /** Weights that are left out, as bits, u32 `[rows, words]`; none if absent. */
  mask?: Tensor;
  /** Column of `mask` that `weight` begins with, a multiple of 32. */
  first?: number;
  /** Receives scale, and zero or mean, f32 `[rows, groups, 2]`. */
  fits: Tensor;
  /** The group among those of `fits`; 0 if absent. */
  group?: number;
}

/** Finds the grid of each row of a group of columns. Its numbers are those that are stored. */
export async function fitGrid(gpu: Gpu, fit: GridFit): Promise<void> {
  const { grid, bits, weight, mask, first = 0, fits, group = 0 } = fit;
  const [rows, cols] = weight.shape;
  const kernel = await gpu.kernel(withReduction(gpu, {
    name: "fit_grid",
    source: roundF16 + source,
    constants: { GRID: GRID_NUMBERS[grid], TOP: topCode(bits), HAS_MASK: Number(!!mask) },
  }));
  const words = mask?.shape[1] ?? 0;
  kernel.dispatch({
    params: uniform([rows, cols, group, fits.size / (2 * rows), words, first / 32]),
    tensors: [weight, mask ?? weight, fits],
    workgroups: rows,
  });
}
