import { attentionKernel } from "./attention_source.ts";
import type { Gpu } from "./device.ts";
import { uniform } from "./kernel.ts";
import type { Tensor } from "./tensor.ts";

export interface AttentionShape {
  heads: number;
  /** Divides `heads`: each key head serves a group of query heads. */
  keyValueHeads: number;
  headDim: number;
  /** Tokens of a window; a token attends to itself and those before it in its window. */
  length: number;
  /** It attends to itself and at most the `slidingWindow - 1` tokens before it; all if absent. */
  slidingWindow?: number;
}

/**
 * Causal softmax(q kᵀ / √headDim) v without the score matrix in memory.
 *
 * @param q f32 `[tokens, heads * headDim]`; tokens are whole windows, one after the other.
 * @param k f32 `[tokens, keyValueHeads * headDim]`, `v` likewise.
 * @returns f32, the shape of `q`, owned by the caller.
 * @see FlashAttention, https://arxiv.org/abs/2205.14135
 */
export async function attention(
  gpu: Gpu,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { heads, keyValueHeads, headDim, length, slidingWindow = Infinity }: AttentionShape,
): Promise<Tensor> {
  const useSubgroup = gpu.software && gpu.subgroupSize > 0;
  let lanes = useSubgroup ? gpu.subgroupSize : 32;
  if (!useSubgroup) { // a tile of keys and one of values must fit into workgroup memory
    const { maxComputeWorkgroupStorageSize } = gpu.device.limits;
    while (lanes > 4 && 8 * lanes * (headDim + 3) > maxComputeWorkgroupStorageSize) lanes /= 2;
  }
  const slides = slidingWindow < length;
  const kernel = await gpu.kernel({
    name: `attention_${headDim}_${useSubgroup ? "subgroup" : "workgroup"}_${lanes}${
      slides ? "_sliding" : ""
    }`,
    source: () => attentionKernel(headDim, lanes, useSubgroup, slides),
  });
  const out = gpu.empty(q.shape);
  kernel.dispatch({
    params: uniform([length, heads, keyValueHeads, slides ? slidingWindow : length], [
      1 / Math.sqrt(headDim),
    ]),
    tensors: [q, k, v, out],
    workgroups: [Math.ceil(length / lanes), heads, q.shape[0] / length],
  });
  return out;
}
