import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./dequantize_grid.wgsl" with { type: "text" };
import { codeWords, groupsOf, type LinearGrid } from "./grid.ts";

/**
 * The dequantized weights of a grid layer.
 *
 * @returns f32 `[rows, cols]`, owned by the caller.
 */
export async function dequantizeGrid(gpu: Gpu, layer: LinearGrid): Promise<Tensor> {
	const { rows, cols, groupSize, codes, fits, mask, salientFits, order } = layer;
	const words = bitWords(cols);
	const kernel = await gpu.kernel({
		name: "dequantize_grid",
		source,
		constants: {
			HAS_SALIENT: Number(layer.salient),
			CENTERED: Number(layer.grid !== "range"),
			ORDERED: Number(order !== undefined),
			BITS: layer.bits,
			CODE_WORDS: codeWords(layer),
		},
	});
	const weight = gpu.empty([rows, cols]);
	kernel.dispatch({
		params: uniform([rows, cols, words, groupSize, groupsOf(layer)]),
		tensors: [codes, fits, mask ?? codes, salientFits ?? fits, order ?? codes, weight],
		workgroups: Math.ceil(rows * words / 64),
	});
	return weight;
}
