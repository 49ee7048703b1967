import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./norm.wgsl" with { type: "text" };
import large from "./reduce_large.wgsl" with { type: "text" };
import { withReduction } from "./reduction.ts";

/** The options of {@link norm}. */
export interface NormOptions {
	/** Whether the mean is subtracted (layer norm); if absent, whether there is a bias. */
	center?: boolean;
	/** Elements that are normalized together; the size of the weight if absent. */
	width?: number;
}

/**
 * Normalizes the rows of `x`, f32 `[rows, cols]`: layer norm or RMS norm. Rows that are a multiple of the
 * width long, such as the heads of a token, are normalized part by part.
 *
 * @param weight Factor of each column, f32 `[width]` or, for each part of a row, `[parts, width]`.
 * @param bias Added to each column, f32, the shape of `weight`; only of a layer norm.
 * @returns f32, the shape of `x`, owned by the caller.
 */
export async function norm(
	gpu: Gpu,
	x: Tensor,
	weight: Tensor,
	bias: Tensor | undefined,
	epsilon: number,
	{ center = bias !== undefined, width = weight.size }: NormOptions = {},
): Promise<Tensor> {
	const rows = x.size / width;
	const constants = { CENTER: Number(center), BIAS: Number(bias !== undefined) };
	const kernel = await gpu.kernel(
		rows === 1 && !gpu.software
			? { name: "norm_row", source: () => large + source, constants: { ...constants, LANES: 256 } }
			: withReduction(gpu, { name: "norm", source, constants }),
	);
	const out = gpu.empty(x.shape);
	kernel.dispatch({
		params: uniform([rows, width, weight.size / width], [epsilon]),
		tensors: [x, weight, bias ?? weight, out],
		workgroups: rows,
	});
	return out;
}
