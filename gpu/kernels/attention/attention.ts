import type { Gpu } from "../../device.ts";
import { type Kernel, uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import {
  attentionBroadcastKernel,
  attentionBroadcastQueries,
} from "./attention_broadcast_source.ts";
import { attentionKernel } from "./attention_source.ts";
import { attentionTileBytes, attentionTileKernel } from "./attention_tile_source.ts";

/** The heads of an attention, and how far it reaches back. */
export interface AttentionHeads {
  heads: number;
  /** Divides `heads`: each key head serves a group of query heads. */
  keyValueHeads: number;
  headDim: number;
  /** A token attends to itself and at most the `slidingWindow - 1` tokens before it; all if absent. */
  slidingWindow?: number;
}

export interface AttentionShape extends AttentionHeads {
  /** Tokens of a window; a token attends to itself and those before it in its window. */
  length: number;
}

/** Texts in a batch of tokens, some of which begin alike: what they share is there once. */
export interface Segments {
  /**
   * u32 `[segments, 4]`: the first row of the segment that this one goes on from, how many of its rows
   * come before this one's, the first of its own rows, and the rows of both. The rows of a segment lie
   * side by side.
   */
  table: Tensor;
  /** The greatest number of own rows. */
  longest: number;
  /** The greatest number of rows of both. */
  length: number;
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
  { length, ...shape }: AttentionShape,
): Promise<Tensor> {
  const { slidingWindow = Infinity } = shape;
  const slides = slidingWindow < length;
  const { kernel, queries } = await kernelFor(gpu, shape.headDim, slides, false);
  const out = gpu.empty(q.shape);
  kernel.dispatch({
    params: parameters(length, shape, slides ? slidingWindow : length),
    tensors: [q, k, v, out],
    workgroups: [Math.ceil(length / queries), shape.heads, q.shape[0] / length],
  });
  return out;
}

/**
 * The same for segments: a token attends to itself, to those before it in its segment, and to those
 * that its segment goes on from.
 *
 * @param q f32 `[tokens, heads * headDim]`.
 * @param k f32 `[tokens, keyValueHeads * headDim]`, `v` likewise.
 * @returns f32, the shape of `q`, owned by the caller; rows of no segment are not written.
 */
export async function segmentAttention(
  gpu: Gpu,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { table, longest, length }: Segments,
  shape: AttentionHeads,
): Promise<Tensor> {
  const { slidingWindow = Infinity } = shape;
  const slides = slidingWindow < length;
  const { kernel, queries } = await kernelFor(gpu, shape.headDim, slides, true);
  const out = gpu.empty(q.shape);
  const [segments] = table.shape;
  kernel.dispatch({
    params: parameters(segments, shape, slides ? slidingWindow : length),
    tensors: [q, k, v, out, table],
    workgroups: [Math.ceil(longest / queries), shape.heads, segments],
  });
  return out;
}

function parameters(
  first: number,
  { heads, keyValueHeads, headDim }: AttentionHeads,
  slidingWindow: number,
): Uint8Array {
  return uniform([first, heads, keyValueHeads, slidingWindow], [1 / Math.sqrt(headDim)]);
}

/** The kernel for an adapter and how many queries its workgroups take. */
async function kernelFor(
  gpu: Gpu,
  headDim: number,
  slides: boolean,
  isSegmented: boolean,
): Promise<{ kernel: Kernel; queries: number }> {
  const kind = (isSegmented ? "_segments" : "") + (slides ? "_sliding" : "");
  const { maxComputeWorkgroupStorageSize: memory } = gpu.device.limits;
  if (!gpu.software && headDim % 64 === 0 && headDim <= 128) {
    // Segments are short: what a large tile has more than a segment is lost.
    const queries = (isSegmented ? [64] : [128, 64])
      .find((queries) => attentionTileBytes(headDim, queries) <= memory);
    if (queries) {
      const kernel = await gpu.kernel({
        name: `attention_tile_${headDim}_${queries}${kind}`,
        source: () => attentionTileKernel(headDim, queries, slides, isSegmented),
      });
      return { kernel, queries };
    }
  }
  if (gpu.software && gpu.subgroupSize > 0) {
    const lanes = gpu.subgroupSize;
    const kernel = await gpu.kernel({
      name: `attention_broadcast_${headDim}_${lanes}${kind}`,
      source: () => attentionBroadcastKernel(headDim, lanes, slides, isSegmented),
    });
    return { kernel, queries: lanes * attentionBroadcastQueries(headDim) };
  }
  let lanes = 32;
  // A tile of keys and one of values must fit into workgroup memory.
  while (lanes > 4 && 8 * lanes * (headDim + 3) > memory) lanes /= 2;
  const kernel = await gpu.kernel({
    name: `attention_${headDim}_${lanes}${kind}`,
    source: () => attentionKernel(headDim, lanes, slides, isSegmented),
  });
  return { kernel, queries: lanes };
}
