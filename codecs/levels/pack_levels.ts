import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { LEVEL_FIELDS, levelWords, type LinearLevels } from "./levels.ts";
import source from "./pack_levels.wgsl" with { type: "text" };

/**
 * Packs codes.
 *
 * @param codes u32 `[rows, cols]`.
 * @param places The place of each column in `codes`, u32 `[cols]`.
 * @param target Receives the packed codes, in the order of columns.
 */
export async function packLevels(
	gpu: Gpu,
	codes: Tensor,
	places: Tensor,
	target: LinearLevels,
): Promise<void> {
	const { rows, cols, count } = target;
	const { columns, bits } = LEVEL_FIELDS[count];
	const words = levelWords(target);
	const kernel = await gpu.kernel({
		name: "pack_levels",
		source,
		constants: { COUNT: count, DIGITS: columns, BITS: bits },
	});
	kernel.dispatch({
		params: uniform([rows, cols, words]),
		tensors: [codes, places, target.codes],
		workgroups: Math.ceil(rows * words / 64),
	});
}
