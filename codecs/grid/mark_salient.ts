import { constant } from "../../gpu/constant.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import { quantiles } from "../../gpu/kernels/reduce/quantile.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./mark_salient.wgsl" with { type: "text" };

/**
 * Marks the most salient weights of some columns, wherever they are in them.
 *
 * Those count that are above the quantile 1 - `fraction`: ties with it may make it fewer.
 *
 * @param saliency Its magnitude counts, f32 `[rows, cols]`, finite.
 * @param fraction Of the weights, 0 .. 1.
 * @param mask Receives a bit for each weight, u32 `[rows, words]`.
 * @param first Column of `mask` that `saliency` begins with, a multiple of 32.
 */
export async function markSalient(
  gpu: Gpu,
  saliency: Tensor,
  fraction: number,
  mask: Tensor,
  first = 0,
): Promise<void> {
  const [rows, cols] = saliency.shape;
  const noColumns = constant(gpu, new Float32Array(cols)).view(0, [cols], "u32"); // the same bits
  using threshold = await quantiles(gpu, saliency, noColumns, [1 - fraction]);
  const kernel = await gpu.kernel({ name: "mark_salient", source });
  kernel.dispatch({
    params: uniform([rows, cols, mask.shape[1], first / 32]),
    tensors: [saliency, threshold, mask],
    workgroups: Math.ceil(rows * Math.ceil(cols / 32) / 64),
  });
}
