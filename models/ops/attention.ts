import { appendCache } from "../../gpu/kernels/attention/append_cache.ts";
import { attention as attend, segmentAttention } from "../../gpu/kernels/attention/attention.ts";
import { attendAndAppend, attentionDecode } from "../../gpu/kernels/attention/attention_decode.ts";
import { rope } from "../../gpu/kernels/attention/rope.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { KeyValueCache } from "../generation/kv_cache.ts";
import type { Rotary } from "../rotary.ts";
import type { OpContext, OpKind } from "./op.ts";

/** Causal softmax(scale · q kᵀ) v, head by head. */
export interface AttentionOp {
	/** The kind of operation. */
	op: "attention";
	/** Register of the queries. */
	query: string;
	/** Register of the keys. */
	key: string;
	/** Register of the values. */
	value: string;
	/** Register of the output. */
	to: string;
	/** Query heads. */
	heads: number;
	/** Divides `heads`: each key-value head serves a group of query heads. */
	keyValueHeads: number;
	/** Numbers per head. */
	headDim: number;
	/** Tokens that a token attends to, including itself; all before it if absent. */
	slidingWindow?: number;
	/** Factor of the scores; 1 / √headDim if absent. */
	scale?: number;
	/** Bounds scores softly, cap · tanh(score / cap); unbounded if absent. */
	cap?: number;
	/** The tensor of each head's sink, a score without a key: "self_attn.sinks". */
	sinks?: string;
	/**
	 * The rotary positions of the queries and keys. With a KV cache, attention rotates them itself, fused
	 * into the same dispatch. Absent if the layer has none.
	 */
	rotary?: Rotary;
}

export const attention: OpKind<AttentionOp> = {
	isCheap: false,

	reads({ query, key, value, heads, keyValueHeads, headDim }) {
		const width = keyValueHeads * headDim;
		return { [query]: heads * headDim, [key]: width, [value]: width };
	},

	writes: ({ to, heads, headDim }) => ({ [to]: heads * headDim }),
	tensors: ({ sinks, heads }) => sinks ? [{ name: sinks, shape: [heads] }] : [],
	rotary: ({ rotary }) => rotary,
	cache: ({ keyValueHeads, headDim }) => ({ keyValueHeads, headDim }),

	async run(op, context) {
		const { window, registers } = context;
		const [q, k, v] = [op.query, op.key, op.value].map((name) => registers.get(name)!);
		if (typeof window !== "number" && !("segments" in window)) {
			return [[op.to, await attendToCache(op, context, window, [q, k, v])]];
		}
		const shape = shapeOf(op, context);
		const out = typeof window === "number"
			? await attend(context.gpu, q, k, v, { ...shape, length: window })
			: await segmentAttention(context.gpu, q, k, v, window.segments, shape);
		return [[op.to, out]];
	},
};

function shapeOf(op: AttentionOp, { weights }: OpContext) {
	const { heads, keyValueHeads, headDim, slidingWindow, scale, cap } = op;
	const sinks = op.sinks === undefined ? undefined : weights.tensor(op.sinks);
	return { heads, keyValueHeads, headDim, slidingWindow, scale, cap, sinks };
}

/** Attention of new tokens to themselves and a KV cache; q and k are not rotated yet. */
async function attendToCache(
	op: AttentionOp,
	context: OpContext,
	cache: KeyValueCache,
	[q, k, v]: Tensor[],
): Promise<Tensor> {
	const { gpu, weights, ropeTables } = context;
	const { heads, keyValueHeads, rotary } = op;
	const shape = shapeOf(op, context);
	const [tokens] = q.shape;
	const start = cache.length;
	const { keys, values } = cache.layers[weights.layer];
	const table = rotary && ropeTables.of(rotary).rows(cache.capacity, start + tokens);
	const interleaved = rotary?.interleaved;
	const append = { q, k, v, keys, values, ...shape, start };
	if (tokens === 1) return await attendAndAppend(gpu, { ...append, table, interleaved });
	if (start === 0) { // the cache is empty: a plain window
		if (table) {
			await rope(gpu, q, table, heads, interleaved);
			await rope(gpu, k, table, keyValueHeads, interleaved);
		}
		await appendCache(gpu, append);
		return await attend(gpu, q, k, v, { ...shape, length: tokens });
	}
	await appendCache(gpu, { ...append, table, interleaved });
	return await attentionDecode(gpu, q, keys, values, { ...shape, start });
}
