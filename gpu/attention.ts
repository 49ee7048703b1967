import {
  attentionBroadcastKernel,
  attentionBroadcastQueries,
} from "./attention_broadcast_source.ts";
import { attentionKernel } from "./attention_source.ts";
import { attentionTileBytes, attentionTileKernel } from "./attention_tile_source.ts";
import type { Gpu } from "./device.ts";
import { type Kernel, uniform } from "./kernel.ts";
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
  const slides = slidingWindow < length;
  const { kernel, queries } = await kernelFor(gpu, headDim, slides);
  const out = gpu.empty(q.shape);
  kernel.dispatch({
    params: uniform([length, heads, keyValueHeads, slides ? slidingWindow : length], [
      1 / Math.sqrt(headDim),
    ]),
    tensors: [q, k, v, out],
    workgroups: [Math.ceil(length / queries), heads, q.shape[0] / length],
  });
  return out;
}

/** The kernel for an adapter and how many queries its workgroups take. */
async function kernelFor(
  gpu: Gpu,
  headDim: number,
  slides: boolean,
): Promise<{ kernel: Kernel; queries: number }> {
  const sliding = slides ? "_sliding" : "";
  const { maxComputeWorkgroupStorageSize: memory } = gpu.device.limits;
  if (!gpu.software && headDim % 64 === 0 && headDim <= 128) {
    const queries = [128, 64].find((queries) => attentionTileBytes(headDim, queries) <= memory);
    if (queries) {
      const kernel = await gpu.kernel({
        name: `attention_tile_${headDim}_${queries}${sliding}`,
        source: () => attentionTileKernel(headDim, queries, slides),
      });
      return { kernel, queries };
    }
  }
  if (gpu.software && gpu.subgroupSize > 0) {
    const lanes = gpu.subgroupSize;
    const kernel = await gpu.kernel({
      name: `attention_broadcast_${headDim}_${lanes}${sliding}`,
      source: () => attentionBroadcastKernel(headDim, lanes, slides),
    });
    return { kernel, queries: lanes * attentionBroadcastQueries(headDim) };
  }
  let lanes = 32;
  // A tile of keys and one of values must fit into workgroup memory.
  while (lanes > 4 && 8 * lanes * (headDim + 3) > memory) lanes /= 2;
  const kernel = await gpu.kernel({
    name: `attention_${headDim}_${lanes}${sliding}`,
    source: () => attentionKernel(headDim, lanes, slides),
  });
  return { kernel, queries: lanes };
}
