import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./dequantize_trellis.wgsl" with { type: "text" };
import { tableOnGpu } from "./tables.ts";
import { stepsOf, tilesOf, type TrellisTensors } from "./trellis.ts";

/**
 * The dequantized weights of a trellis layer.
 *
 * @param weight Receives them, f32 `[rows, cols]`; a new tensor if absent.
 * @returns The target; a new one is owned by the caller.
 */
export async function dequantizeTrellis(
	gpu: Gpu,
	layer: TrellisTensors,
	weight: Tensor = gpu.empty([layer.rows, layer.cols]),
): Promise<Tensor> {
	const { rows, cols, stateBits, stream, scales, order } = layer;
	const { stepBits, stepWeights, words } = stepsOf(layer);
	const kernel = await gpu.kernel({
		name: "dequantize_trellis",
		source,
		constants: {
			STATE_BITS: stateBits,
			STEP_BITS: stepBits,
			STEP_WEIGHTS: stepWeights,
			WORDS: words,
			ORDERED: Number(order !== undefined),
		},
	});
	kernel.dispatch({
		params: uniform([rows, cols, tilesOf(layer)[1]]),
		tensors: [stream, scales, tableOnGpu(gpu, layer), order ?? stream, weight],
		workgroups: [Math.ceil(cols / stepWeights / 16), Math.ceil(rows / 4)],
	});
	return weight;
}
