import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./dequantize_embedding.wgsl" with { type: "text" };

/** The form of a quantized table: an embedding or a head. */
export interface EmbeddingLayout {
  rows: number;
  cols: number;
  /** Of a code. */
  bits: 8 | 4;
  /** Columns of a row that share a scale; the last group may have fewer. */
  group: number;
}

/** Bytes of a row of codes. */
export function embeddingRowBytes({ cols, bits }: EmbeddingLayout): number {
  return Math.ceil(cols * bits / 8);
}

/** Scales of a row. */
export function embeddingScaleGroups({ cols, group }: EmbeddingLayout): number {
  return Math.ceil(cols / group);
}

/**
 * The numbers of a quantized table, or of some rows of one.
 *
 * @param layout Its `rows` are those of `codes`.
 * @param codes `[rows, embeddingRowBytes]` bytes in words, u32.
 * @param scales f16 `[rows, embeddingScaleGroups]` in words, u32.
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
