import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { TILE } from "./trellis.ts";
import { tileErrorKernel } from "./tile_error_source.ts";

/**
 * What later columns must compensate for after the search of a column of tiles:
 * E = (W - Z · spread) · U_gg⁻¹ for its 16 columns g.
 *
 * @param first The first of the columns; all 16 are in the matrix.
 * @param factor U, upper triangular, f32 `[cols, cols]`.
 * @returns f32 `[rows, 16]`, owned by the caller.
 */
export async function tileErrors(
	gpu: Gpu,
	first: number,
	{ weight, values, spread, factor }: Record<"weight" | "values" | "spread" | "factor", Tensor>,
): Promise<Tensor> {
	const [rows, cols] = weight.shape;
	const kernel = await gpu.kernel({ name: "tile_error", source: tileErrorKernel });
	const error = gpu.empty([rows, TILE]);
	kernel.dispatch({
		params: uniform([rows, cols, first]),
		tensors: [weight, values, spread, factor, error],
		workgroups: [Math.ceil(rows / 64), 1],
	});
	return error;
}
