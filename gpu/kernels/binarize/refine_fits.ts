import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./refine_fits.wgsl" with { type: "text" };
import { rowShape } from "./row_shape.ts";

/** The fits of a block. */
export interface Fits {
	/** Mean and scale of each zone, f32 `[rows, 2 * zones]`. */
	zoneFits: Tensor;
	/** Mean and scale of each plane of the salient columns, f32 `[rows, 2 * planes]`. */
	salientFit?: Tensor;
}

/**
 * Refines the fits of a block in place, for weights that get the bits of the nearest value.
 *
 * @param weight f32 `[rows, cols]`.
 * @param salient u32 `[cols]`, 0 or 1.
 * @param cost The cost of a squared error in each column, f32 `[cols]`.
 * @param rounds The number of alternations between bits and fits.
 */
export async function refineFits(
	gpu: Gpu,
	weight: Tensor,
	salient: Tensor,
	cost: Tensor,
	{ zoneFits, salientFit }: Fits,
	rounds: number,
): Promise<void> {
	const [rows, cols] = weight.shape;
	const shape = rowShape(gpu, cols);
	const kernel = await gpu.kernel({
		name: "refine_fits",
		source,
		constants: {
			...shape,
			ROUNDS: rounds,
			ZONES: zoneFits.shape[1] / 2,
			PLANES: salientFit ? salientFit.shape[1] / 2 : 0,
		},
	});
	using none = salientFit ? undefined : gpu.empty([1]);
	kernel.dispatch({
		params: uniform([rows, cols]),
		tensors: [weight, salient, cost, zoneFits, salientFit ?? none!],
		workgroups: Math.ceil(rows / shape.ROWS),
	});
}
