import source from "./argmax.wgsl" with { type: "text" };
import type { Gpu } from "./device.ts";
import { uniform } from "./kernel.ts";
import { withReduction } from "./reduction.ts";
import type { Tensor } from "./tensor.ts";

/** What {@link argmax} gives for a row that holds NaN or infinities. */
export const NOT_FINITE = 0xffff_ffff;

/**
 * The index of the greatest entry of each row; the least index where several are greatest.
 *
 * @param x f32 `[rows, cols]`, fewer than 2^24 columns.
 * @param out Receives the indices, u32 `[rows]`.
 * @returns `out` or, without it, a tensor of the caller's: {@link NOT_FINITE} for rows with NaN or
 *   infinities.
 */
export async function argmax(gpu: Gpu, x: Tensor, out?: Tensor): Promise<Tensor> {
  const [rows, cols] = x.shape;
  const kernel = await gpu.kernel(withReduction(gpu, { name: "argmax", source }));
  out ??= gpu.empty([rows], "u32");
  kernel.dispatch({ params: uniform([cols]), tensors: [x, out], workgroups: [rows, 1] });
  return out;
}
