import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./append_cache.wgsl" with { type: "text" };
import { cacheVectors } from "./attention_decode_source.ts";

export interface AppendCache {
  /** f32 `[tokens, heads * headDim]`; turned in place if there is a table. */
  q: Tensor;
  /** f32 `[tokens, keyValueHeads * headDim]`. */
  k: Tensor;
  /** Likewise. */
  v: Tensor;
  /** f32 or f16 `[capacity, keyValueHeads, padded headDim]`, see `cacheWidth()`. */
  keys: Tensor;
  /** Likewise. */
  values: Tensor;
  heads: number;
  keyValueHeads: number;
  headDim: number;
  /** Position of the first token, and the row of the cache that it goes to. */
  start: number;
  /** (cos, sin) by position, f32 `[positions, headDim / 2, 2]`; without it nothing is turned. */
  table?: Tensor;
}

/**
 * Writes the keys and values of new tokens to a cache, with rotary positions for them and the queries
 * if there is a table: all in one dispatch.
 */
export async function appendCache(
  gpu: Gpu,
  { q, k, v, keys, values, heads, keyValueHeads, headDim, start, table }: AppendCache,
): Promise<void> {
  const constants = { ROTATE: Number(table !== undefined), HALF: Number(keys.dtype === "f16") };
  const kernel = await gpu.kernel({ name: "append_cache", source, constants });
  const [tokens] = q.shape;
  const turns = table ? heads * headDim / 2 : 0;
  const threads = turns + 2 * keyValueHeads * cacheVectors(headDim);
  kernel.dispatch({
    params: uniform([start, heads, keyValueHeads, headDim]),
    tensors: [table ?? v, q, k, v, keys, values],
    workgroups: [Math.ceil(threads / 64), tokens],
  });
}
