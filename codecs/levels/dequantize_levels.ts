import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./dequantize_levels.wgsl" with { type: "text" };
import { fieldsOf, LEVEL_FIELDS, levelWords, type LinearLevels } from "./levels.ts";
import { kindName, levelsSource, THETA_OF_ROW } from "./levels_source.ts";

/**
 * The dequantized weights of a linear layer of levels.
 *
 * @param weight Receives them, f32 `[rows, cols]`; a new tensor if absent.
 * @returns The weights; a new tensor is owned by the caller.
 */
export async function dequantizeLevels(
	gpu: Gpu,
	layer: LinearLevels,
	weight: Tensor = gpu.empty([layer.rows, layer.cols]),
): Promise<Tensor> {
	const { rows, cols, count, codes, theta } = layer;
	const { columns, bits } = LEVEL_FIELDS[count];
	const each = Math.ceil(16 / columns);
	const threads = Math.ceil(fieldsOf(layer) / each);
	const kernel = await gpu.kernel({
		name: `dequantize_levels_${kindName(layer)}`,
		source: () => levelsSource(layer) + THETA_OF_ROW + source,
		constants: { COUNT: count, DIGITS: columns, BITS: bits, EACH: each },
	});
	kernel.dispatch({
		params: uniform([rows, cols, levelWords(layer), threads]),
		tensors: [codes, theta, weight],
		workgroups: Math.ceil(rows * threads / 64),
	});
	return weight;
}
