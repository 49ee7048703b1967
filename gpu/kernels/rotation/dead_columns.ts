import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./dead_columns.wgsl" with { type: "text" };

/**
 * Marks the columns of an input that are not always zero.
 *
 * @param x f32 `[rows, cols]`.
 * @param live Receives ones, u32 `[cols]`; other entries stay.
 */
export async function markLiveColumns(gpu: Gpu, x: Tensor, live: Tensor): Promise<void> {
	await run(gpu, true, x.size / live.size, [x, live], live.size);
}

/**
 * Zeroes the columns of a weight, f32 `[rows, cols]`, whose input is always zero.
 *
 * @param live u32 `[cols]`, 0 for those columns.
 */
export async function zeroUnmarkedColumns(gpu: Gpu, live: Tensor, weight: Tensor): Promise<void> {
	await run(gpu, false, weight.shape[0], [live, weight], live.size);
}

async function run(gpu: Gpu, marks: boolean, rows: number, tensors: Tensor[], cols: number) {
	const constants = { MARK: Number(marks) };
	const kernel = await gpu.kernel({ name: "dead_columns", source, constants });
	kernel.dispatch({ params: uniform([rows, cols]), tensors, workgroups: Math.ceil(cols / 64) });
}
