import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./rope.wgsl" with { type: "text" };

/**
 * Rotary embedding: rotates the heads of `x`, f32 `[tokens, heads * headDim]`, in place.
 *
 * @param table Lookup table of (cos, sin) by position, f32 `[length, headDim / 2, 2]`; tokens are whole
 *   consecutive windows of `length`.
 */
export async function rope(gpu: Gpu, x: Tensor, table: Tensor, heads: number): Promise<void> {
  const [tokens] = x.shape;
  const [length, half] = table.shape;
  const kernel = await gpu.kernel({ name: "rope", source });
  kernel.dispatch({
    params: uniform([tokens, heads, half, length]),
    tensors: [table, x],
    workgroups: [Math.ceil(heads * half / 64), tokens],
  });
}
