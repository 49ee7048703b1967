import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import columnsSource from "./arb_columns.wgsl" with { type: "text" };
import passSource from "./arb_pass.wgsl" with { type: "text" };

/** A block whose weights a fit approximates. */
export interface ArbBlock {
  /** f32 `[rows, cols]`. */
  weight: Tensor;
  /** u32 `[cols]`, 0 or 1. */
  salient: Tensor;
  /** The cost of a squared error in each column, f32 `[cols]`. */
  costs: Tensor;
  /** Bits of the high zone, u32 `[rows, ⌈cols / 32⌉]`; of salient columns, too, with a bitmap. */
  zones: Tensor;
  bitmap: boolean;
}

/** The fit of a block; its tensors are owned by the caller. */
export interface ArbFit {
  /** The signs of both planes, u32 `[2, rows, ⌈cols / 32⌉]`. */
  signs: Tensor;
  /** f32 `[rows, N]`; with column scales N = 6, those of both salient zones in any case. */
  rowFits: Tensor;
  /** f32 `[cols, 4]`. */
  colScales: Tensor;
}

/** Rows of a part of the sums by column. */
const ROWS = 16;

/**
 * Fits scales of rows and columns to a block by alternation (ARB-RC).
 *
 * @param block With `nearest`, its zones are updated.
 * @param nearest Whether all weights take the nearest value, of any zone, after each iteration; otherwise
 *   only salient ones, within their zones.
 */
export async function fitArbScales(
  gpu: Gpu,
  { weight, salient, costs, zones, bitmap }: ArbBlock,
  iterations: number,
  nearest: boolean,
): Promise<ArbFit> {
  const [rows, cols] = weight.shape;
  const words = Math.ceil(cols / 32);
  const signs = gpu.zeros([2, rows, words], "u32");
  const rowFits = gpu.zeros([rows, 6]);
  const colScales = gpu.empty([cols, 4]);
  const parts = Math.ceil(rows / ROWS);
  using part = gpu.empty([parts, cols, 4]);
  const step = async (plane: 0 | 1, first: boolean, assigns: 0 | 1 | 2) => {
    const pass = await gpu.kernel({
      name: "arb_pass",
      source: passSource,
      constants: {
        ROWS,
        WORDS: words,
        STRIDE: cols + 1,
        PLANE: plane,
        FIRST: Number(first),
        NEAREST: Number(nearest),
        BITMAP: Number(bitmap),
      },
    });
    pass.dispatch({
      params: uniform([rows, cols, assigns]),
      tensors: [weight, salient, costs, zones, signs, rowFits, colScales, part],
      workgroups: parts,
    });
    if (assigns === 2) return;
    const sum = await gpu.kernel({
      name: "arb_columns",
      source: columnsSource,
      constants: { PLANE: plane, FIRST: Number(first), ...(gpu.software ? { COLS: 32, SLICES: 1 } : {}) },
    });
    sum.dispatch({
      params: uniform([parts, cols]),
      tensors: [part, salient, colScales],
      workgroups: Math.ceil(cols / (gpu.software ? 32 : 8)),
    });
  };
  for (const plane of [0, 1] as const) await step(plane, true, 0);
  for (let i = 0; i < iterations; i++) {
    for (const plane of [0, 1] as const) await step(plane, false, i > 0 ? 1 : 0);
  }
  // The signs of the last scales; the kernel that stores the bits finds nearest ones itself.
  if (iterations > 0 && !nearest) await step(0, false, 2);
  return { signs, rowFits, colScales };
}
