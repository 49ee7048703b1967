import type { Gpu } from "../../device.ts";
import { type Kernel, uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { unitOf } from "../matmul/gemm.ts";
import { halve } from "../matmul/halve.ts";
import {
	attentionBroadcastKernel,
	attentionBroadcastQueries,
} from "./attention_broadcast_source.ts";
import {
	attentionMatrixBytes,
	attentionMatrixKernel,
	MATRIX_QUERIES,
} from "./attention_matrix_source.ts";
import type { AttentionForm } from "./attention_rows_source.ts";
import { attentionKernel } from "./attention_source.ts";
import { attentionTileBytes, attentionTileKernel } from "./attention_tile_source.ts";

/** The head layout of an attention, and its sliding window. */
export interface AttentionHeads {
	heads: number;
	/** Divides `heads`: each key-value head serves a group of query heads. */
	keyValueHeads: number;
	headDim: number;
	/** Tokens that a token attends to, including itself; all before it if absent. */
	slidingWindow?: number;
	/** Factor of the scores; 1 / √headDim if absent. */
	scale?: number;
	/** Bounds scores softly, cap · tanh(score / cap); unbounded if absent. */
	cap?: number;
	/** A score of each head, f32 `[heads]`, that takes a share of the weight for itself; none if absent. */
	sinks?: Tensor;
}

/** The shape of an attention over windows. */
export interface AttentionShape extends AttentionHeads {
	/** Tokens of a window; a token attends to itself and those before it in its window. */
	length: number;
}

/**
 * The texts of a batch of tokens. A prefix that several texts share occurs once, as its own segment.
 */
export interface Segments {
	/**
	 * u32 `[segments, 4]`: the first row of the prefix segment, the number of its rows, the first own row,
	 * and the total number of rows. The rows of a segment are contiguous.
	 */
	table: Tensor;
	/** The greatest number of own rows of a segment. */
	longest: number;
	/** The greatest total number of rows of a segment. */
	length: number;
}

/**
 * Causal attention softmax(scale · q kᵀ) v, without materializing the score matrix.
 *
 * @param q f32 `[tokens, heads * headDim]`; tokens are whole consecutive windows.
 * @param k f32 `[tokens, keyValueHeads * headDim]`; `v` has the same shape.
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
	const { slidingWindow = Infinity, sinks } = shape;
	const slides = slidingWindow < length;
	const params = parameters(length, shape, slides ? slidingWindow : length);
	const more = sinks ? [sinks] : [];
	const windows = q.shape[0] / length;
	if (suitsMatrices(gpu, shape, length)) {
		const rows = { params, more, longest: length, count: windows };
		return await matrixAttention(gpu, [q, k, v], shape, formOf(shape, slides, false), rows);
	}
	const { kernel, queries } = await kernelFor(gpu, shape, slides, false);
	const out = gpu.empty(q.shape);
	kernel.dispatch({
		params,
		tensors: [q, k, v, out, ...more],
		workgroups: [Math.ceil(length / queries), shape.heads, windows],
	});
	return out;
}

/**
 * Causal attention for segments: a token attends to itself, to the tokens before it in its segment, and
 * to the prefix of its segment.
 *
 * @param q f32 `[tokens, heads * headDim]`.
 * @param k f32 `[tokens, keyValueHeads * headDim]`; `v` has the same shape.
 * @returns f32, the shape of `q`, owned by the caller; rows outside all segments are not written.
 */
export async function segmentAttention(
	gpu: Gpu,
	q: Tensor,
	k: Tensor,
	v: Tensor,
	{ table, longest, length }: Segments,
	shape: AttentionHeads,
): Promise<Tensor> {
	const { slidingWindow = Infinity, sinks } = shape;
	const slides = slidingWindow < length;
	const [segments] = table.shape;
	const params = parameters(segments, shape, slides ? slidingWindow : length);
	const more = [table, ...(sinks ? [sinks] : [])];
	if (suitsMatrices(gpu, shape, length)) {
		const rows = { params, more, longest, count: segments };
		return await matrixAttention(gpu, [q, k, v], shape, formOf(shape, slides, true), rows);
	}
	const { kernel, queries } = await kernelFor(gpu, shape, slides, true);
	const out = gpu.empty(q.shape);
	kernel.dispatch({
		params,
		tensors: [q, k, v, out, ...more],
		workgroups: [Math.ceil(longest / queries), shape.heads, segments],
	});
	return out;
}

/** Texts from which attention is worth rounding its operands, in tokens. */
const MATRICES_FROM = 32;

/** Whether an attention is computed on tensor cores. */
function suitsMatrices(gpu: Gpu, { headDim }: AttentionHeads, length: number): boolean {
	const { maxComputeWorkgroupStorageSize, maxStorageBuffersPerShaderStage } = gpu.device.limits;
	return gpu.roundsProducts && headDim % 64 === 0 && headDim <= 128 && length >= MATRICES_FROM &&
		attentionMatrixBytes(headDim) <= maxComputeWorkgroupStorageSize &&
		maxStorageBuffersPerShaderStage >= 9;
}

/**
 * Attention with queries, keys, values and softmax weights in f16, and sums in f32.
 *
 * @param rows The parameters and further tensors of the kernel, the number of windows or segments, and the
 *   queries of the longest.
 */
async function matrixAttention(
	gpu: Gpu,
	[q, k, v]: readonly Tensor[],
	{ heads, headDim }: AttentionHeads,
	form: AttentionForm,
	rows: { params: Uint8Array; more: readonly Tensor[]; longest: number; count: number },
): Promise<Tensor> {
	const round = (by: "row" | "column", tensor: Tensor) => {
		const [tokens, width] = tensor.shape;
		return halve(gpu, by, { tensor, start: 0, stride: width }, [tokens, width], [1, 1]);
	};
	using queries = await round("row", q);
	using keys = await round("row", k);
	using values = await round("column", v);
	const unit = await unitOf(gpu);
	const kernel = await gpu.kernel({
		name: `attention_matrix_${headDim}_${unit}${suffixOf(form)}`,
		source: () => attentionMatrixKernel(headDim, unit, form),
	});
	const out = gpu.empty(q.shape);
	const factors = [queries, keys, values];
	kernel.dispatch({
		params: rows.params,
		tensors: [
			...factors.map(({ words }) => words),
			out,
			...rows.more,
			...factors.map(({ scales }) => scales),
		],
		workgroups: [Math.ceil(rows.longest / MATRIX_QUERIES), heads, rows.count],
	});
	return out;
}

function formOf(
	{ cap, sinks }: AttentionHeads,
	slides: boolean,
	isSegmented: boolean,
): AttentionForm {
	return { slides, isSegmented, isCapped: cap !== undefined, hasSinks: sinks !== undefined };
}

/** The form of a kernel in its name. */
function suffixOf({ slides, isSegmented, isCapped, hasSinks }: AttentionForm): string {
	return (isSegmented ? "_segments" : "") + (slides ? "_sliding" : "") +
		(isCapped ? "_capped" : "") + (hasSinks ? "_sinks" : "");
}

function parameters(
	first: number,
	{ heads, keyValueHeads, headDim, scale = 1 / Math.sqrt(headDim), cap }: AttentionHeads,
	slidingWindow: number,
): Uint8Array {
	const factors = cap === undefined ? [scale] : [scale, cap];
	return uniform([first, heads, keyValueHeads, slidingWindow], factors);
}

/** The kernel for an adapter, and the queries per workgroup. */
async function kernelFor(
	gpu: Gpu,
	heads: AttentionHeads,
	slides: boolean,
	isSegmented: boolean,
): Promise<{ kernel: Kernel; queries: number }> {
	const { headDim } = heads;
	const form = formOf(heads, slides, isSegmented);
	const kind = suffixOf(form);
	const { maxComputeWorkgroupStorageSize: memory } = gpu.device.limits;
	if (!gpu.software && headDim % 64 === 0 && headDim <= 128) {
		// Segments are short, so that large tiles would be mostly padding.
		const queries = (isSegmented ? [64] : [128, 64])
			.find((queries) => attentionTileBytes(headDim, queries) <= memory);
		if (queries) {
			const kernel = await gpu.kernel({
				name: `attention_tile_${headDim}_${queries}${kind}`,
				source: () => attentionTileKernel(headDim, queries, form),
			});
			return { kernel, queries };
		}
	}
	if (gpu.software && gpu.subgroupSize > 0) {
		const lanes = gpu.subgroupSize;
		const kernel = await gpu.kernel({
			name: `attention_broadcast_${headDim}_${lanes}${kind}`,
			source: () => attentionBroadcastKernel(headDim, lanes, form),
		});
		return { kernel, queries: lanes * attentionBroadcastQueries(headDim) };
	}
	let lanes = 32;
	// A tile of keys and one of values must fit into workgroup memory.
	while (lanes > 4 && 8 * lanes * (headDim + 3) > memory) lanes /= 2;
	const kernel = await gpu.kernel({
		name: `attention_${headDim}_${lanes}${kind}`,
		source: () => attentionKernel(headDim, lanes, form),
	});
	return { kernel, queries: lanes };
}
