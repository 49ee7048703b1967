import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { withReduction } from "./reduction.ts";
import source from "./row_magnitudes.wgsl" with { type: "text" };

/**
 * The largest magnitude in each row of a matrix.
 *
 * @param matrix f32 `[rows, cols]`.
 * @param out Receives the magnitudes, f32 `[rows]`.
 */
export async function rowMagnitudes(gpu: Gpu, matrix: Tensor, out: Tensor): Promise<void> {
	const [rows, cols] = matrix.shape;
	const kernel = await gpu.kernel(withReduction(gpu, { name: "row_magnitudes", source }));
	kernel.dispatch({ params: uniform([rows, cols]), tensors: [matrix, out], workgroups: rows });
}
