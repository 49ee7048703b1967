import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./dequantize_embedding.wgsl" with { type: "text" };

/** The layout of a quantized embedding or head. */
export interface EmbeddingLayout {
  rows: number;
  cols: number;
  /** Bits of a code. */
  bits: 8 | 4;
  /** Columns of a scale group; the last one of a row may have fewer. */
  group: number;
}

/** Bytes of a row of codes. */
export function embeddingRowBytes({ cols, bits }: EmbeddingLayout): number {
  return Math.ceil(cols * bits / 8);
}

/** The number of scale groups in a row. */
export function embeddingScaleGroups({ cols, group }: EmbeddingLayout): number {
  return Math.ceil(cols / group);
}

/**
 * The dequantized rows of a quantized embedding, or of a part of one.
 *
 * @param layout Its `rows` match `codes`.
 * @param codes Bytes `[rows, embeddingRowBytes]`, packed in u32 words.
 * @param scales f16 `[rows, embeddingScaleGroups]`, packed in u32 words.
 * @returns f32 `[rows, cols]`, owned by the caller.
 */
export async function dequantizeEmbedding(
  gpu: Gpu,
  layout: EmbeddingLayout,
  codes: Tensor,
  scales: Tensor,
): Promise<Tensor> {
  const { rows, cols, bits, group } = layout;
  const constants = { BITS: bits, GROUP: group };
  const kernel = await gpu.kernel({ name: "dequantize_table", source, constants });
  const table = gpu.empty([rows, cols]);
  kernel.dispatch({
    params: uniform([rows, cols, embeddingRowBytes(layout), embeddingScaleGroups(layout)]),
    tensors: [codes, scales, table],
    workgroups: Math.ceil(rows * cols / 64),
  });
  return table;
}
