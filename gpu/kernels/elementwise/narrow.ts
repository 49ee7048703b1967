import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./narrow.wgsl" with { type: "text" };

/**
 * The values of an f32 tensor as f16, rounded to nearest, ties to even.
 *
 * @param overflows What f16 cannot hold (beyond ±65504 once rounded, infinite or NaN) is counted
 *   here, u32 `[1]`, and stored as an infinity.
 * @param out Where to put them; a tensor of the same shape, f16, that the caller owns, if absent.
 * @returns `out`.
 */
export async function narrow(
  gpu: Gpu,
  values: Tensor,
  overflows: Tensor,
  out: Tensor = gpu.empty(values.shape, "f16"),
): Promise<Tensor> {
  const kernel = await gpu.kernel({ name: "narrow", source });
  kernel.dispatch({
    params: uniform([values.size]),
    tensors: [values, out, overflows],
    workgroups: Math.ceil(values.size / 128),
  });
  return out;
}
