import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./append_cache.wgsl" with { type: "text" };
import { cacheVectors } from "./attention_decode_source.ts";

/** The arguments of {@link appendCache}. */
export interface AppendCache {
	/** f32 `[tokens, heads * headDim]`; rotated in place if there is a table. */
	q: Tensor;
	/** f32 `[tokens, keyValueHeads * headDim]`. */
	k: Tensor;
	/** f32 `[tokens, keyValueHeads * headDim]`. */
	v: Tensor;
	/** f32 or f16 `[capacity, keyValueHeads, padded headDim]`, see `cacheWidth()`. */
	keys: Tensor;
	/** f32 or f16 `[capacity, keyValueHeads, padded headDim]`. */
	values: Tensor;
	heads: number;
	keyValueHeads: number;
	headDim: number;
	/** The position of the first token, which is also its row in the cache. */
	start: number;
	/**
	 * Lookup table of (cos, sin) by position, f32 `[positions, pairs, 2]`; no rotation if absent. It
	 * rotates the first `2 * pairs` entries of each head.
	 */
	table?: Tensor;
	/** Whether neighbours rotate together, instead of entries i and i + pairs. */
	interleaved?: boolean;
}

/**
 * Appends the keys and values of new tokens to a KV cache. With a table, rotates the keys and, in place,
 * the queries in the same dispatch.
 */
export async function appendCache(
	gpu: Gpu,
	{ q, k, v, keys, values, heads, keyValueHeads, headDim, start, table, interleaved = false }:
		AppendCache,
): Promise<void> {
	const constants = {
		ROTATE: Number(table !== undefined),
		INTERLEAVED: Number(interleaved),
		HALF: Number(keys.dtype === "f16"),
	};
	const kernel = await gpu.kernel({ name: "append_cache", source, constants });
	const [tokens] = q.shape;
	const pairs = table?.shape[1] ?? 0;
	const threads = heads * pairs + 2 * keyValueHeads * cacheVectors(headDim);
	kernel.dispatch({
		params: uniform([start, heads, keyValueHeads, headDim, pairs]),
		tensors: [table ?? v, q, k, v, keys, values],
		workgroups: [Math.ceil(threads / 64), tokens],
	});
}
