import type { Gpu } from "./device.ts";
import { uniform } from "./kernel.ts";
import { type BitLayout, scalesPerBlock } from "./quantize_block.ts";
import { withReduction } from "./reduction.ts";
import source from "./round_scales.wgsl" with { type: "text" };
import type { Tensor } from "./tensor.ts";

/** What rounded scales are made from: value = code · factor. */
export interface ScaleCodes {
  /** -127 .. 127, i32 `[rows, blocks, scalesPerBlock]`, in two's complement. */
  codes: Tensor;
  /** Of a row's means and of its scales, values that f16 holds, f32 `[rows, 2]`. */
  factors: Tensor;
}

/**
 * Rounds the means and scales of a linear layer to what 8 bits with two f16 factors for each row
 * hold.
 *
 * @param scales f32 `[rows, blocks, scalesPerBlock]`; replaced by the rounded values.
 * @returns The codes, owned by the caller.
 */
export async function roundScales(
  gpu: Gpu,
  layout: BitLayout,
  scales: Tensor,
): Promise<ScaleCodes> {
  const { rows } = layout;
  const kernel = await gpu.kernel(withReduction(gpu, {
    name: "round_scales",
    source,
    constants: { ZONES: layout.zones, SCALES: scalesPerBlock(layout) },
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
