import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./largest.wgsl" with { type: "text" };

/**
 * Raises `top`, f32 `[1]`, to the largest magnitude in an f32 tensor. The first call finds a `top` of 0.
 */
export async function largestMagnitude(gpu: Gpu, values: Tensor, top: Tensor): Promise<void> {
  const kernel = await gpu.kernel({ name: "largest", source });
  kernel.dispatch({
    params: uniform([values.size]),
    tensors: [values, top],
    workgroups: Math.min(Math.ceil(values.size / 256), 4096),
  });
}
