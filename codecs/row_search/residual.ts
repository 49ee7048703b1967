import type { Gpu } from "../../gpu/device.ts";
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import { difference } from "../../gpu/kernels/reduce/difference.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/** Computes R = (W - Q) H into `residual`; all f32, W and Q `[rows, cols]`, H symmetric. */
export async function computeResidual(
	gpu: Gpu,
	target: Tensor,
	hessian: Tensor,
	quantized: Tensor,
	residual: Tensor,
): Promise<void> {
	const [rows, cols] = target.shape;
	using error = await difference(gpu, target, quantized);
	await gemm(gpu, { layout: "NN", m: rows, n: cols, k: cols, a: error, b: hessian, c: residual });
}
