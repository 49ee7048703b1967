import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { argmaxKernel } from "./argmax_source.ts";
import { largeLanes, largeReduction } from "./reduction.ts";

/** The result of {@link argmax} for a row with NaN or infinities. */
export const NOT_FINITE = 0xffff_ffff;

/** Threads of a workgroup on a GPU: many, as rows are long and there is often just one. */
const MOST_LANES = 1024;

/**
 * The index of the greatest entry of each row; the least index of several.
 *
 * @param x f32 `[rows, cols]`, fewer than 2^24 columns.
 * @param out Receives the indices, u32 `[rows]`.
 * @param slotAt The element of `out` that also receives the index of a single row, as a function of the
 *   steps since it was recorded.
 * @returns `out` or a new tensor, owned by the caller; {@link NOT_FINITE} for rows with NaN or infinities.
 */
export async function argmax(
	gpu: Gpu,
	x: Tensor,
	out?: Tensor,
	slotAt?: (steps: number) => number,
): Promise<Tensor> {
	const [rows, cols] = x.shape;
	const aligned = cols % 4 === 0;
	const lanes = largeLanes(gpu, MOST_LANES);
	const kernel = await gpu.kernel({
		name: aligned ? "argmax" : "argmax_any",
		source: () => largeReduction(gpu) + argmaxKernel(lanes, aligned),
		constants: { LANES: lanes },
	});
	out ??= gpu.empty([rows], "u32");
	const params = (steps: number) => uniform([cols, slotAt?.(steps) ?? 0]);
	kernel.dispatch({
		params: params(0),
		tensors: [x, out],
		workgroups: [rows, 1],
		later: slotAt && params,
	});
	return out;
}
