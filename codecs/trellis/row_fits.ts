import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import { withReduction } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import scaleSource from "./row_scale.wgsl" with { type: "text" };
import spreadSource from "./row_spread.wgsl" with { type: "text" };

/**
 * The root mean square of each row of a matrix, at least 1e-20.
 *
 * @param weight f32 `[rows, cols]`.
 * @returns f32 `[rows]`, owned by the caller.
 */
export async function rowSpreads(gpu: Gpu, weight: Tensor): Promise<Tensor> {
	const [rows, cols] = weight.shape;
	const kernel = await gpu.kernel(
		withReduction(gpu, { name: "row_spread", source: spreadSource }),
	);
	const spread = gpu.empty([rows]);
	kernel.dispatch({ params: uniform([rows, cols]), tensors: [weight, spread], workgroups: rows });
	return spread;
}

/**
 * Fits a scale to each row of Z that minimizes the output error tr((W - s Z) H (W - s Z)ᵀ).
 *
 * @param weight W, f32 `[rows, cols]`.
 * @param values Z, f32 `[rows, cols]`.
 * @param hessian H, symmetric, f32 `[cols, cols]`.
 * @param scales Receives the scales, exact f16 values, f32 `[rows]`.
 */
export async function fitRowScales(
	gpu: Gpu,
	{ weight, values, hessian, scales }: Record<"weight" | "values" | "hessian" | "scales", Tensor>,
): Promise<void> {
	const [rows, cols] = weight.shape;
	using turned = gpu.empty([rows, cols]);
	await gemm(gpu, { layout: "NN", m: rows, n: cols, k: cols, a: values, b: hessian, c: turned });
	const kernel = await gpu.kernel(
		withReduction(gpu, { name: "row_scale", source: roundF16 + scaleSource }),
	);
	kernel.dispatch({
		params: uniform([rows, cols]),
		tensors: [weight, values, turned, scales],
		workgroups: rows,
	});
}
