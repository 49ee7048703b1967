import type { Gpu } from "../../device.ts";
import { type Kernel, uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { unitOf } from "../matmul/gemm.ts";
import { halve, type Halves } from "../matmul/halve.ts";
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
	return await attend(gpu, [q, k, v], shape, {
		...{ first: length, length, longest: length },
		count: q.shape[0] / length,
	});
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
	const [segments] = table.shape;
	const rows = { first: segments, length, longest, count: segments, table };
	return await attend(gpu, [q, k, v], shape, rows);
}

/** The texts of an attention. */
interface Texts {
	/** The first parameter of the kernel. */
	first: number;
	/** The rows of the longest text, and the queries among them. */
	length: number;
	longest: number;
	count: number;
	/** That of {@link Segments}; absent for windows. */
	table?: Tensor;
}

async function attend(
	gpu: Gpu,
	[q, k, v]: readonly [Tensor, Tensor, Tensor],
	shape: AttentionHeads,
	{ first, length, longest, count, table }: Texts,
): Promise<Tensor> {
	const { heads, slidingWindow = Infinity, cap, sinks } = shape;
	const slides = slidingWindow < length;
	const form: AttentionForm = {
		slides,
		isSegmented: table !== undefined,
		isCapped: cap !== undefined,
		hasSinks: sinks !== undefined,
	};
	const params = parameters(first, shape, slides ? slidingWindow : length);
	const more = [table, sinks].filter((tensor) => tensor !== undefined);
	if (suitsMatrices(gpu, shape, length)) {
		using queries = await round(gpu, "row", q);
		using keys = await round(gpu, "row", k);
		using values = await round(gpu, "column", v);
		const kernel = await matrixKernel(gpu, shape, form);
		const out = gpu.empty(q.shape);
		const rounded = [queries, keys, values];
		kernel.dispatch({
			params,
			tensors: [
				...rounded.map(({ words }) => words),
				out,
				...more,
				...rounded.map(({ scales }) => scales),
			],
			workgroups: [Math.ceil(longest / MATRIX_QUERIES), heads, count],
		});
		return out;
	}
	const { kernel, queries } = await kernelFor(gpu, shape, form);
	const out = gpu.empty(q.shape);
	kernel.dispatch({
		params,
		tensors: [q, k, v, out, ...more],
		workgroups: [Math.ceil(longest / queries), heads, count],
	});
	return out;
}

function round(gpu: Gpu, by: "row" | "column", tensor: Tensor): Promise<Halves> {
	const [tokens, width] = tensor.shape;
	return halve(gpu, by, { tensor, start: 0, stride: width }, [tokens, width], [1, 1]);
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

/** The kernel for tensor cores, with queries, keys, values and softmax weights in f16, and sums in f32. */
async function matrixKernel(
	gpu: Gpu,
	{ headDim }: AttentionHeads,
	form: AttentionForm,
): Promise<Kernel> {
	const unit = await unitOf(gpu);
	return await gpu.kernel({
		name: `attention_matrix_${headDim}_${unit}${suffixOf(form)}`,
		source: () => attentionMatrixKernel(headDim, unit, form),
	});
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
	{ headDim }: AttentionHeads,
	form: AttentionForm,
): Promise<{ kernel: Kernel; queries: number }> {
	const kind = suffixOf(form);
	const { maxComputeWorkgroupStorageSize: memory } = gpu.device.limits;
	if (!gpu.software && headDim % 64 === 0 && headDim <= 128) {
		// Segments are short, so that large tiles would be mostly padding.
		const queries = (form.isSegmented ? [64] : [128, 64])
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
