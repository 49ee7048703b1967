import { bitWords } from "../../base/bits.ts";
import { constant } from "../../gpu/constant.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import { quantiles } from "../../gpu/kernels/reduce/quantile.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./mark_salient.wgsl" with { type: "text" };

/**
 * Marks the most salient weights of some columns, at any position.
 *
 * A weight is marked if its saliency is above the quantile 1 - `fraction`; ties may reduce the number.
 *
 * @param saliency f32 `[rows, cols]`, finite; compared by magnitude.
 * @param fraction Fraction of the weights to mark, 0 .. 1.
 * @param mask Receives a bit for each weight, u32 `[rows, words]`.
 * @param first The column of `mask` that corresponds to the first column of `saliency`, a multiple of 32.
 */
export async function markSalient(
	gpu: Gpu,
	saliency: Tensor,
	fraction: number,
	mask: Tensor,
	first = 0,
): Promise<void> {
	const [rows, cols] = saliency.shape;
	const noColumns = constant(gpu, new Float32Array(cols)).view(0, [cols], "u32"); // 0 has the same bits in f32 and u32
	using threshold = await quantiles(gpu, saliency, noColumns, [1 - fraction]);
	const kernel = await gpu.kernel({ name: "mark_salient", source });
	kernel.dispatch({
		params: uniform([rows, cols, mask.shape[1], first / 32]),
		tensors: [saliency, threshold, mask],
		workgroups: Math.ceil(rows * bitWords(cols) / 64),
	});
}
