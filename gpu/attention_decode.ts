import combine from "./attention_combine.wgsl" with { type: "text" };
import {
  attentionDecodeKernel,
  type CacheDtype,
  cacheVectors,
  KEYS_PER_GROUP,
} from "./attention_decode_source.ts";
import type { Gpu } from "./device.ts";
import { type Kernel, uniform } from "./kernel.ts";
import workgroup from "./reduce.wgsl" with { type: "text" };
import subgroup from "./reduce_subgroup.wgsl" with { type: "text" };
import type { Tensor } from "./tensor.ts";

export type { CacheDtype } from "./attention_decode_source.ts";

export interface AttentionDecodeShape {
  heads: number;
  /** Divides `heads`: each key head serves a group of query heads. */
  keyValueHeads: number;
  headDim: number;
  /** Position of the first query. A query at position i attends to the keys at 0 .. i. */
  start: number;
  /** It attends to itself and at most the `slidingWindow - 1` tokens before it; all if absent. */
  slidingWindow?: number;
}

/**
 * Attention of one token, or a few, to everything that a cache holds: causal softmax(q kᵀ / √headDim)
 * v.
 *
 * @param q f32 `[tokens, heads * headDim]`, tokens at positions `start`, `start + 1` and so on.
 * @param keys f32 or f16 `[capacity, keyValueHeads, padded headDim]`, see {@link cacheWidth}; row i
 *   is position i, and those of the queries are there.
 * @param values Likewise.
 * @returns f32, the shape of `q`, owned by the caller.
 */
export async function attentionDecode(
  gpu: Gpu,
  q: Tensor,
  keys: Tensor,
  values: Tensor,
  { heads, keyValueHeads, headDim, start, slidingWindow = Infinity }: AttentionDecodeShape,
): Promise<Tensor> {
  const [tokens] = q.shape;
  const positions = start + tokens;
  const seen = Math.min(positions, slidingWindow);
  const splits = Math.ceil(seen / KEYS_PER_GROUP);
  const kernel = await kernelFor(gpu, headDim, keys.dtype as CacheDtype);
  const out = gpu.empty(q.shape);
  const stride = 4 * cacheVectors(headDim) + 2;
  const target = splits === 1 ? out : gpu.empty([tokens, heads, splits, stride]);
  kernel.dispatch({
    params: uniform([
      start,
      heads,
      keyValueHeads,
      Math.min(slidingWindow, positions),
      splits,
      Math.ceil(seen / splits),
    ], [1 / Math.sqrt(headDim)]),
    tensors: [q, keys, values, target],
    workgroups: [heads, splits, tokens],
  });
  if (target !== out) {
    const join = await gpu.kernel({ name: "attention_combine", source: combine });
    join.dispatch({
      params: uniform([heads, headDim, splits, stride]),
      tensors: [target, out],
      workgroups: [heads, tokens],
    });
    gpu.free(target);
  }
  return out;
}

/** Elements that a token takes in a cache of keys, or of values. */
export function cacheWidth(keyValueHeads: number, headDim: number): number {
  return keyValueHeads * 4 * cacheVectors(headDim);
}

function kernelFor(gpu: Gpu, headDim: number, dtype: CacheDtype): Promise<Kernel> {
  const useSubgroup = gpu.software && gpu.subgroupSize > 0;
  const lanes = useSubgroup
    ? gpu.subgroupSize
    : gpu.software
    ? 16
    : Math.min(256, gpu.device.limits.maxComputeInvocationsPerWorkgroup);
  return gpu.kernel({
    name: `attention_decode_${headDim}_${dtype}_${useSubgroup ? "subgroup" : "workgroup"}`,
    source: () =>
      (useSubgroup ? subgroup : workgroup) + attentionDecodeKernel(headDim, lanes, dtype),
    constants: { LANES: lanes },
  });
}
