import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { gemm } from "../matmul/gemm.ts";
import { difference } from "./difference.ts";
import dotSource from "./dot.wgsl" with { type: "text" };
import { withReduction } from "./reduction.ts";

const PARTS = 256;

/** tr(D H Dᵀ) = Σ (D H) ∘ D as partial sums, f32 `[256]`. */
async function quadraticForm(gpu: Gpu, d: Tensor, hessian: Tensor, part: Tensor): Promise<void> {
	const [rows, n] = d.shape;
	using product = gpu.empty(d.shape);
	// H is symmetric, and tensor cores multiply with transposed matrices.
	const layout = gpu.roundsProducts ? "NT" : "NN";
	await gemm(gpu, { layout, m: rows, n, k: n, a: d, b: hessian, c: product, mayRound: true });
	await dotParts(gpu, d, product, part);
}

/** Σ a ∘ b as partial sums, f32 `[256]`. */
async function dotParts(gpu: Gpu, a: Tensor, b: Tensor, part: Tensor): Promise<void> {
	const dot = await gpu.kernel(withReduction(gpu, { name: "dot", source: dotSource }));
	dot.dispatch({ params: uniform([a.size]), tensors: [a, b, part], workgroups: PARTS });
}

/**
 * The output error of a quantized linear layer on the calibration data: partial sums of
 * tr((W-Q) H (W-Q)ᵀ) and of tr(W H Wᵀ).
 *
 * @param weight W, f32 `[rows, n]`; `quantized` is Q.
 * @param hessian H, symmetric, f32 `[n, n]`.
 * @returns f32 `[2, 256]`, owned by the caller; see {@link relativeError}.
 */
export async function outputErrorParts(
	gpu: Gpu,
	weight: Tensor,
	quantized: Tensor,
	hessian: Tensor,
): Promise<Tensor> {
	using d = await difference(gpu, weight, quantized);
	const parts = gpu.empty([2, PARTS]);
	await quadraticForm(gpu, d, hessian, parts.view(0, [PARTS]));
	await quadraticForm(gpu, weight, hessian, parts.view(PARTS, [PARTS]));
	return parts;
}

/**
 * Partial sums of |A-B|² and of |B|², as {@link relativeError} takes them.
 *
 * @param a f32, the shape of `b`.
 * @returns f32 `[2, 256]`, owned by the caller.
 */
export async function changeParts(gpu: Gpu, a: Tensor, b: Tensor): Promise<Tensor> {
	using d = await difference(gpu, a, b);
	const parts = gpu.empty([2, PARTS]);
	await dotParts(gpu, d, d, parts.view(0, [PARTS]));
	await dotParts(gpu, b, b, parts.view(PARTS, [PARTS]));
	return parts;
}

/** The error relative to the output, tr((W-Q) H (W-Q)ᵀ) / tr(W H Wᵀ). */
export async function relativeError(parts: Tensor): Promise<number> {
	const sums = await parts.gpu.read(parts);
	const sum = (from: number) => sums.subarray(from, from + PARTS).reduce((a, b) => a + b, 0);
	return sum(0) / sum(PARTS);
}
