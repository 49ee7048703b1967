import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./dequantize.wgsl" with { type: "text" };
import { type BillmLayout, scalesPerBlock } from "./quantize_block.ts";

/**
 * The dequantized weights of a BiLLM layer.
 *
 * @param bits u32 `[bitPlanes, rows, ⌈cols / 32⌉]`.
 * @param scales f32 `[rows, blocks, scalesPerBlock]`.
 * @param salient One bit per column, u32 `[⌈cols / 32⌉]`; not read if `planes` is 0.
 * @param weight Receives the weights, f32 `[rows, cols]`; allocated if absent.
 * @returns f32 `[rows, cols]`, owned by the caller.
 */
export async function dequantize(
	gpu: Gpu,
	layout: BillmLayout,
	bits: Tensor,
	scales: Tensor,
	salient: Tensor,
	weight = gpu.empty([layout.rows, layout.cols]),
): Promise<Tensor> {
	const { rows, cols, blockSize, zones, planes } = layout;
	const words = bitWords(cols);
	const kernel = await gpu.kernel({
		name: "dequantize_billm",
		source,
		constants: { ZONES: zones, PLANES: planes, SCALES: scalesPerBlock(layout) },
	});
	kernel.dispatch({
		params: uniform([rows, cols, words, blockSize, Math.ceil(cols / blockSize)]),
		tensors: [bits, scales, salient, weight],
		workgroups: Math.ceil(rows * words / 64),
	});
	return weight;
}
