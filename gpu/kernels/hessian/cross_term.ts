import type { Gpu } from "../../device.ts";
import type { Tensor } from "../../tensor.ts";
import { gemm } from "../matmul/gemm.ts";
import { difference } from "../reduce/difference.ts";
import { accumulateProduct } from "./hessian.ts";

/**
 * Accumulates a batch in a cross term: C += factor · (X - X_q)ᵀ X_q.
 *
 * @param original X, the input in the original model, f32 `[tokens, n]`; `input` is X_q.
 * @param cross f32 `[n, n]`.
 */
export async function accumulateCrossTerm(
	gpu: Gpu,
	original: Tensor,
	input: Tensor,
	cross: Tensor,
	factor: number,
): Promise<void> {
	using lost = await difference(gpu, original, input);
	await accumulateProduct(gpu, [lost, input], cross, { factor });
}

/** A correction of weights with one input; disposing it frees what it is made of. */
export interface Correction extends Disposable {
	/**
	 * W* = W + strength · W C (UᵀU), as a new tensor of the shape of W.
	 *
	 * @param weight W, f32 `[rows, n]`.
	 */
	apply(weight: Tensor): Promise<Tensor>;
}

/**
 * Prepares the correction of weights for the difference of two streams of inputs.
 *
 * @param cross C, f32 `[n, n]`; see {@link accumulateCrossTerm}.
 * @param factor U with UᵀU = (H + damping)⁻¹, upper triangular, f32 `[n, n]`.
 * @param rows The rows of all weights together: with more than n, C UᵀU is computed first.
 */
export async function correction(
	gpu: Gpu,
	cross: Tensor,
	factor: Tensor,
	rows: number,
	strength: number,
): Promise<Correction> {
	const [n] = cross.shape;
	const multiply = async (layout: "NN" | "NT", a: Tensor, b: Tensor, to?: Tensor) => {
		const [m] = a.shape;
		const c = gpu.empty([m, n]);
		const alpha = to ? strength : 1;
		await gemm(gpu, { layout, m, n, k: n, a, b, c, alpha, residual: to });
		return c;
	};
	if (rows > n) {
		using half = await multiply("NT", cross, factor);
		const matrix = await multiply("NN", half, factor);
		return {
			apply: (weight) => multiply("NN", weight, matrix, weight),
			[Symbol.dispose]: () => gpu.free(matrix),
		};
	}
	return {
		async apply(weight) {
			const product = await multiply("NN", weight, cross);
			using half = await multiply("NT", product, factor);
			gpu.free(product);
			return await multiply("NN", half, factor, weight);
		},
		[Symbol.dispose]() {},
	};
}
