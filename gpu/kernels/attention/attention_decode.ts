import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { largeLanes, largeReduction } from "../reduce/reduction.ts";
import combine from "./attention_combine.wgsl" with { type: "text" };
import {
  type AttentionDecodeForm,
  attentionDecodeKernel,
  type CacheDtype,
  cacheVectors,
} from "./attention_decode_source.ts";

export type { CacheDtype } from "./attention_decode_source.ts";

/** Workgroups that keep a GPU busy. */
const GROUPS = 512;
/** The fewest keys for which a GPU takes another workgroup. */
const FEWEST_KEYS = 128;

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
export function attentionDecode(
  gpu: Gpu,
  q: Tensor,
  keys: Tensor,
  values: Tensor,
  shape: AttentionDecodeShape,
): Promise<Tensor> {
  return attend(gpu, q, [], keys, values, shape);
}

export interface AttendAndAppend extends AttentionDecodeShape {
  /** f32 `[1, heads * headDim]`, not turned yet; it stays as it is. */
  q: Tensor;
  /** f32 `[1, keyValueHeads * headDim]`, likewise. */
  k: Tensor;
  /** f32 `[1, keyValueHeads * headDim]`. */
  v: Tensor;
  /**
   * f32 or f16 `[capacity, keyValueHeads, padded headDim]`, see {@link cacheWidth}; row i is position
   * i. Row `start` gets the new key.
   */
  keys: Tensor;
  /** Likewise. */
  values: Tensor;
  /** (cos, sin) by position, f32 `[positions, headDim / 2, 2]`; without it nothing is turned. */
  table?: Tensor;
}

/**
 * Writes the key and value of one token to a cache, as `appendCache()` does, and has the token attend
 * to everything that the cache then holds, as {@link attentionDecode} does: all in one dispatch, or
 * two for a long text.
 *
 * @returns f32 `[1, heads * headDim]`, owned by the caller.
 */
export function attendAndAppend(
  gpu: Gpu,
  { q, k, v, keys, values, table, ...shape }: AttendAndAppend,
): Promise<Tensor> {
  const append = table ? "turned" : "unturned";
  return attend(gpu, q, table ? [k, v, table] : [k, v], keys, values, shape, append);
}

/** @param fresh What the kernel needs of the token that is appended. */
async function attend(
  gpu: Gpu,
  q: Tensor,
  fresh: readonly Tensor[],
  keys: Tensor,
  values: Tensor,
  { heads, keyValueHeads, headDim, start, slidingWindow = Infinity }: AttentionDecodeShape,
  append?: AttentionDecodeForm["append"],
): Promise<Tensor> {
  const [tokens] = q.shape;
  const seenAt = (steps: number) => Math.min(start + steps + tokens, slidingWindow);
  const seen = seenAt(0);
  const form = formFor(gpu, headDim, keys.dtype as CacheDtype, append);
  const splits = splitsFor(gpu, form.keys, seen, heads * tokens);
  const kernel = await kernelFor(gpu, form);
  const out = gpu.empty(q.shape);
  const stride = 4 * cacheVectors(headDim) + 2;
  const target = splits === 1 ? out : gpu.empty([tokens, heads, splits, stride]);
  const params = (steps: number) => {
    const seen = seenAt(steps);
    if (splitsFor(gpu, form.keys, seen, heads * tokens) !== splits) return undefined;
    return uniform(
      [start + steps, heads, keyValueHeads, seen, splits, Math.ceil(seen / splits)],
      [1 / Math.sqrt(headDim)],
    );
  };
  kernel.dispatch({
    params: params(0),
    tensors: [q, ...fresh, keys, values, target],
    workgroups: [heads, splits, tokens],
    later: params,
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

/**
 * Ranges of keys with a workgroup each. A second one takes a second dispatch; once that is needed, a
 * GPU gets as many workgroups as keep it busy.
 *
 * @param most Keys that a workgroup can take.
 * @param rows Heads of all queries.
 */
function splitsFor(gpu: Gpu, most: number, seen: number, rows: number): number {
  if (gpu.software || seen <= most) return Math.ceil(seen / most);
  const length = Math.max(FEWEST_KEYS, Math.ceil(seen * rows / GROUPS));
  return Math.ceil(seen / Math.min(length, most));
}

function formFor(
  gpu: Gpu,
  headDim: number,
  dtype: CacheDtype,
  append?: AttentionDecodeForm["append"],
): AttentionDecodeForm {
  const lanes = largeLanes(gpu, 256);
  if (gpu.software) return { headDim, dtype, lanes, keys: 1024, together: 1, append };
  const together = Math.min(4, 2 ** Math.floor(Math.log2(cacheVectors(headDim))));
  return { headDim, dtype, lanes, keys: 512, together, append };
}

function kernelFor(gpu: Gpu, form: AttentionDecodeForm) {
  const { headDim, dtype, lanes, append = "kept" } = form;
  return gpu.kernel({
    name: `attention_decode_${headDim}_${dtype}_${append}_${gpu.software ? "software" : "gpu"}`,
    source: () => largeReduction(gpu) + attentionDecodeKernel(form),
    constants: { LANES: lanes },
  });
}
