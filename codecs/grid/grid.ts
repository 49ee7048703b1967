import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/**
 * The values that codes stand for. "range": equal steps from the least weight to the greatest, 0 among
 * them. "mean": mean ± scale. "sign": ± scale. The last two have codes of one bit.
 */
export type GridKind = "range" | "mean" | "sign";

/** The number of a {@link GridKind} in the kernels. */
export const GRID_NUMBERS: Record<GridKind, number> = { range: 0, mean: 1, sign: 2 };

/** Bits that the codes of ordinary weights may have. */
export const GRID_BITS = [1, 2, 3, 4, 8] as const;
export type GridBits = typeof GRID_BITS[number];

/** Bits of the codes of salient weights, which are on the grid "range" of their whole row. */
export const SALIENT_BITS = 8;

/** The form of a linear layer whose weights are codes on grids. */
export interface GridLayout {
  rows: number;
  cols: number;
  /** Columns that share a grid, a multiple of 32; all columns of a row if it is not below `cols`. */
  groupSize: number;
  grid: GridKind;
  /** Of the code of a weight. */
  bits: GridBits;
  /** Whether some weights, anywhere, are salient and have codes of {@link SALIENT_BITS} bits. */
  salient: boolean;
}

/** The code that is the greatest in so many bits. */
export function topCode(bits: number): number {
  return 2 ** bits - 1;
}

/** Grids of a row. */
export function groupsOf({ cols, groupSize }: GridLayout): number {
  return Math.ceil(cols / groupSize);
}

/** Words of u32 that hold a bit for each column. */
export function maskWords({ cols }: GridLayout): number {
  return Math.ceil(cols / 32);
}

/** Words of u32 that hold the codes of 32 neighbouring columns: ordinary ones, then salient ones. */
export function codeWords({ bits, salient }: GridLayout): number {
  return bits + (salient ? SALIENT_BITS : 0);
}

/** A linear layer on grids, in GPU memory. */
export interface LinearGrid extends GridLayout {
  /**
   * u32 `[rows, ⌈cols / 32⌉, codeWords]`: code `i` of 32 begins at bit `i * bits` of its words. A weight
   * has one of the two codes, the other is 0.
   */
  codes: Tensor;
  /** Scale, and zero (of "range") or mean, f32 `[rows, groups, 2]`. Scales and means are f16 values. */
  fits: Tensor;
  /** A bit for each salient weight, u32 `[rows, ⌈cols / 32⌉]`; absent if there are none. */
  mask?: Tensor;
  /** Scale and zero of a row's salient weights, f32 `[rows, 2]`; absent if there are none. */
  salientFits?: Tensor;
}

/** Allocates a linear layer on grids. */
export function emptyGrid(gpu: Gpu, layout: GridLayout): LinearGrid {
  const { rows } = layout;
  const words = maskWords(layout);
  return {
    ...layout,
    codes: gpu.empty([rows, words, codeWords(layout)], "u32"),
    fits: gpu.empty([rows, groupsOf(layout), 2]),
    ...(layout.salient && {
      mask: gpu.empty([rows, words], "u32"),
      salientFits: gpu.empty([rows, 2]),
    }),
  };
}

/** Hands a linear layer on grids back. */
export function freeGrid(gpu: Gpu, { codes, fits, mask, salientFits }: LinearGrid): void {
  gpu.free(codes, fits, ...(mask ? [mask] : []), ...(salientFits ? [salientFits] : []));
}
