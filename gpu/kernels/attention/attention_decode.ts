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

/** Workgroups that saturate a GPU. */
const GROUPS = 512;
/** The least number of keys per workgroup on a GPU. */
const FEWEST_KEYS = 128;

/** The shape of an attention to a KV cache. */
export interface AttentionDecodeShape {
	heads: number;
	/** Divides `heads`: each key-value head serves a group of query heads. */
	keyValueHeads: number;
	headDim: number;
	/** The position of the first query. A query at position i attends to the keys at 0 .. i. */
	start: number;
	/** Tokens that a token attends to, including itself; all before it if absent. */
	slidingWindow?: number;
	/** Factor of the scores; 1 / √headDim if absent. */
	scale?: number;
	/** Bounds scores softly, cap · tanh(score / cap); unbounded if absent. */
	cap?: number;
	/** A score of each head, f32 `[heads]`, that takes a share of the weight for itself; none if absent. */
	sinks?: Tensor;
}

/**
 * Causal attention softmax(scale · q kᵀ) v of one or a few tokens to a KV cache.
 *
 * @param q f32 `[tokens, heads * headDim]`, tokens at positions `start`, `start + 1` and so on.
 * @param keys f32 or f16 `[capacity, keyValueHeads, padded headDim]`, see {@link cacheWidth}. Row i is
 *   position i; the rows of the queries' own positions are already written.
 * @param values The same shape, dtype and rows as `keys`.
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

/** The arguments of {@link attendAndAppend}. */
export interface AttendAndAppend extends AttentionDecodeShape {
	/** f32 `[1, heads * headDim]`, before rotation; not changed. */
	q: Tensor;
	/** f32 `[1, keyValueHeads * headDim]`, before rotation; not changed. */
	k: Tensor;
	/** f32 `[1, keyValueHeads * headDim]`. */
	v: Tensor;
	/**
	 * f32 or f16 `[capacity, keyValueHeads, padded headDim]`, see {@link cacheWidth}. Row i is position i;
	 * row `start` receives the new key.
	 */
	keys: Tensor;
	/** The same shape and dtype as `keys`; row `start` receives the new value. */
	values: Tensor;
	/**
	 * Lookup table of (cos, sin) by position, f32 `[positions, pairs, 2]`; no rotation if absent. It
	 * rotates the first `2 * pairs` entries of each head.
	 */
	table?: Tensor;
	/** Whether neighbours rotate together, instead of entries i and i + pairs. */
	interleaved?: boolean;
}

/**
 * `appendCache()` and {@link attentionDecode} of one token, fused: appends its key and value to the KV
 * cache and computes its attention to the cache, in one dispatch, or two for a long text.
 *
 * @returns f32 `[1, heads * headDim]`, owned by the caller.
 */
export function attendAndAppend(
	gpu: Gpu,
	{ q, k, v, keys, values, table, interleaved = false, ...shape }: AttendAndAppend,
): Promise<Tensor> {
	const append = table ? { pairs: table.shape[1], interleaved } : "unrotated";
	return attend(gpu, q, table ? [k, v, table] : [k, v], keys, values, shape, append);
}

/** @param fresh The key, value and lookup table for appending a token; empty if none is appended. */
async function attend(
	gpu: Gpu,
	q: Tensor,
	fresh: readonly Tensor[],
	keys: Tensor,
	values: Tensor,
	shape: AttentionDecodeShape,
	append?: AttentionDecodeForm["append"],
): Promise<Tensor> {
	const { heads, keyValueHeads, headDim, start, slidingWindow = Infinity, cap, sinks } = shape;
	const { scale = 1 / Math.sqrt(headDim) } = shape;
	const [tokens] = q.shape;
	const seenAt = (steps: number) => Math.min(start + steps + tokens, slidingWindow);
	const seen = seenAt(0);
	const form = formFor(gpu, shape, keys.dtype as CacheDtype, append);
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
			cap === undefined ? [scale] : [scale, cap],
		);
	};
	kernel.dispatch({
		params: params(0),
		tensors: [q, ...fresh, keys, values, target, ...(sinks ? [sinks] : [])],
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

/** Elements per token in a cache of keys or of values. */
export function cacheWidth(keyValueHeads: number, headDim: number): number {
	return keyValueHeads * 4 * cacheVectors(headDim);
}

/**
 * The number of ranges of keys, one per workgroup. More than one range takes a second dispatch; then a
 * GPU gets as many workgroups as saturate it.
 *
 * @param most The most keys per workgroup.
 * @param rows The total number of query heads.
 */
function splitsFor(gpu: Gpu, most: number, seen: number, rows: number): number {
	if (gpu.software || seen <= most) return Math.ceil(seen / most);
	const length = Math.max(FEWEST_KEYS, Math.ceil(seen * rows / GROUPS));
	return Math.ceil(seen / Math.min(length, most));
}

function formFor(
	gpu: Gpu,
	{ headDim, cap, sinks }: AttentionDecodeShape,
	dtype: CacheDtype,
	append?: AttentionDecodeForm["append"],
): AttentionDecodeForm {
	const lanes = largeLanes(gpu, 256);
	const [capped, sinking] = [cap !== undefined, sinks !== undefined];
	const form = { headDim, dtype, lanes, append, capped, sinking };
	if (gpu.software) return { ...form, keys: 1024, together: 1 };
	const together = Math.min(4, 2 ** Math.floor(Math.log2(cacheVectors(headDim))));
	return { ...form, keys: 512, together };
}

function kernelFor(gpu: Gpu, form: AttentionDecodeForm) {
	const { headDim, dtype, lanes, append, capped, sinking } = form;
	const what = typeof append === "object"
		? `rotated_${append.pairs}${append.interleaved ? "_interleaved" : ""}`
		: append ?? "kept";
	const kind = `${what}${capped ? "_capped" : ""}${sinking ? "_sinks" : ""}_${
		gpu.software ? "software" : "gpu"
	}`;
	return gpu.kernel({
		name: `attention_decode_${headDim}_${dtype}_${kind}`,
		source: () => largeReduction(gpu) + attentionDecodeKernel(form),
		constants: { LANES: lanes },
	});
}
