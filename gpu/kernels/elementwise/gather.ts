import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./gather.wgsl" with { type: "text" };

/**
 * The columns of a matrix in another order: column c of the result is column `places[c]` of `matrix`.
 *
 * @param matrix f32 `[rows, cols]`.
 * @param places A permutation of the columns, u32 `[cols]`.
 * @param target f32 `[rows, cols]`, not `matrix`; a new tensor if absent.
 * @returns The target; a new one is owned by the caller.
 */
export async function gatherColumns(
	gpu: Gpu,
	matrix: Tensor,
	places: Tensor,
	target: Tensor = gpu.empty(matrix.shape),
): Promise<Tensor> {
	await gather(gpu, matrix, places, target, false);
	return target;
}

/**
 * A square matrix with rows and columns in another order: entry (r, c) of the result is entry
 * (`places[r]`, `places[c]`) of `matrix`.
 *
 * @param matrix f32 `[n, n]`.
 * @param places A permutation, u32 `[n]`.
 * @returns f32 `[n, n]`, owned by the caller.
 */
export async function gatherSquare(gpu: Gpu, matrix: Tensor, places: Tensor): Promise<Tensor> {
	const target = gpu.empty(matrix.shape);
	await gather(gpu, matrix, places, target, true);
	return target;
}

async function gather(
	gpu: Gpu,
	matrix: Tensor,
	places: Tensor,
	target: Tensor,
	rowsToo: boolean,
): Promise<void> {
	const [rows, cols] = matrix.shape;
	const kernel = await gpu.kernel({ name: "gather", source, constants: { ROWS: Number(rowsToo) } });
	kernel.dispatch({
		params: uniform([rows, cols]),
		tensors: [matrix, places, target],
		workgroups: [Math.ceil(cols / 16), Math.ceil(rows / 4)],
	});
}
