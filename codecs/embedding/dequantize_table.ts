import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./dequantize_table.wgsl" with { type: "text" };

/** The form of a quantized table: an embedding or a head. */
export interface TableLayout {
  rows: number;
  cols: number;
  /** Of a code. */
  bits: 8 | 4;
  /** Columns of a row that share a scale; the last group may have fewer. */
  group: number;
}

/** Bytes of a row of codes. */
export function tableRowBytes({ cols, bits }: TableLayout): number {
  return Math.ceil(cols * bits / 8);
}

/** Scales of a row. */
export function tableGroups({ cols, group }: TableLayout): number {
  return Math.ceil(cols / group);
}

/**
 * The numbers of a quantized table, or of some rows of one.
 *
 * @param layout Its `rows` are those of `codes`.
 * @param codes `[rows, tableRowBytes]` bytes in words, u32.
 * @param scales f16 `[rows, tableGroups]` in words, u32.
 * @returns f32 `[rows, cols]`, owned by the caller.
 */
export async function dequantizeTable(
  gpu: Gpu,
  layout: TableLayout,
  codes: Tensor,
  scales: Tensor,
): Promise<Tensor> {
  const { rows, cols, bits, group } = layout;
  const constants = { BITS: bits, GROUP: group };
  const kernel = await gpu.kernel({ name: "dequantize_table", source, constants });
  const table = gpu.empty([rows, cols]);
  kernel.dispatch({
    params: uniform([rows, cols, tableRowBytes(layout), tableGroups(layout)]),
    tensors: [codes, scales, table],
    workgroups: Math.ceil(rows * cols / 64),
  });
  return table;
}
