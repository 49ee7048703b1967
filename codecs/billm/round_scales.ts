import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import { withReduction } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { type BillmLayout, scalesPerBlock } from "./quantize_block.ts";
import source from "./round_scales.wgsl" with { type: "text" };

/** What rounded scales are made from: value = code · factor. */
export interface ScaleCodes {
  /**
   * i32 `[rows, blocks, scalesPerBlock]`, in two's complement: -127 .. 127, or in 4 bits means
   * -7 .. 7 and scales 0 .. 15.
   */
  codes: Tensor;
  /** Of a row's means and of its scales, values that f16 holds, f32 `[rows, 2]`. */
  factors: Tensor;
}

/** The largest codes of means and scales by their bits, and the least of scales. */
const TOPS = {
  8: { TOP_MEAN: 127, TOP_SCALE: 127, LEAST_SCALE: -127 },
  4: { TOP_MEAN: 7, TOP_SCALE: 15, LEAST_SCALE: 0 },
};

/**
 * Rounds the means and scales of a linear layer to what 8 or 4 bits with two f16 factors for each row
 * hold.
 *
 * @param scales f32 `[rows, blocks, scalesPerBlock]`; replaced by the rounded values.
 * @returns The codes, owned by the caller.
 */
export async function roundScales(
  gpu: Gpu,
  layout: BillmLayout,
  scales: Tensor,
  bits: 8 | 4 = 8,
): Promise<ScaleCodes> {
  const { rows } = layout;
  const kernel = await gpu.kernel(withReduction(gpu, {
    name: "round_scales",
    source,
    constants: { ...TOPS[bits], ZONES: layout.zones, SCALES: scalesPerBlock(layout) },
  }));
  const codes = gpu.empty(scales.shape, "u32");
  const factors = gpu.empty([rows, 2]);
  kernel.dispatch({
    params: uniform([rows, scales.size / rows]),
    tensors: [scales, codes, factors],
    workgroups: rows,
  });
  return { codes, factors };
}
