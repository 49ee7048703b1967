import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./dequantize_embedding.wgsl" with { type: "text" };
import valueAt from "./embedding_value.wgsl" with { type: "text" };

/** The layout of a quantized embedding or head. */
export interface EmbeddingLayout {
	rows: number;
	cols: number;
	/** Bits of a code: 8 or 4, with zeros 3 to 6. */
	bits: EmbeddingBits;
	/** Columns of a scale group; the last one of a row may have fewer. */
	group: number;
	/** Whether each scale group has a zero; codes are then fields in words of 32 bits. */
	zeros?: true;
}

export type EmbeddingBits = 3 | 4 | 5 | 6 | 8;

/** A quantized embedding or a part of one on the GPU, packed in u32 words. */
export interface EmbeddingTensors {
	/** Its `rows` match the tensors. */
	layout: EmbeddingLayout;
	/** Bytes `[rows, embeddingRowBytes]`. */
	codes: Tensor;
	/** f16 `[rows, embeddingScaleGroups]`. */
	scales: Tensor;
	/** f16 `[rows, embeddingScaleGroups]`; absent without zeros. */
	zeros?: Tensor;
}

/** Bytes of a row of codes. */
export function embeddingRowBytes({ cols, bits, zeros }: EmbeddingLayout): number {
	return zeros ? 4 * bitWords(cols * bits) : Math.ceil(cols * bits / 8);
}

/** The number of scale groups in a row. */
export function embeddingScaleGroups({ cols, group }: EmbeddingLayout): number {
	return Math.ceil(cols / group);
}

/** The constants of `embedding_value.wgsl`. */
export function embeddingConstants({ bits, group, zeros }: EmbeddingLayout) {
	return { BITS: bits, GROUP: group, ZEROS: Number(zeros ?? false) };
}

/**
 * The dequantized rows of a quantized embedding, or of a part of one.
 *
 * @returns f32 `[rows, cols]`, owned by the caller.
 */
export async function dequantizeEmbedding(
	gpu: Gpu,
	{ layout, codes, scales, zeros }: EmbeddingTensors,
): Promise<Tensor> {
	const { rows, cols } = layout;
	const kernel = await gpu.kernel({
		name: "dequantize_table",
		source: valueAt + source,
		constants: embeddingConstants(layout),
	});
	const table = gpu.empty([rows, cols]);
	kernel.dispatch({
		params: uniform([rows, cols, embeddingRowBytes(layout), embeddingScaleGroups(layout)]),
		tensors: [codes, scales, zeros ?? scales, table],
		workgroups: Math.ceil(rows * cols / 64),
	});
	return table;
}
