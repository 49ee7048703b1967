import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { gemm, multiplyHalves, suitsMatrices } from "../matmul/gemm.ts";
import { MATRIX_DEPTH, MATRIX_TILE } from "../matmul/gemm_matrix_source.ts";
import { halve } from "../matmul/halve.ts";
import { withReduction } from "../reduce/reduction.ts";
import dampedSource from "./damped.wgsl" with { type: "text" };
import dampedDiagonalSource from "./damped_diagonal.wgsl" with { type: "text" };
import source from "./hessian.wgsl" with { type: "text" };
import meanSource from "./mean_diagonal.wgsl" with { type: "text" };

/** Tokens per sum: long f32 sums lose accuracy, which the quantization loop amplifies. */
export const CHUNK = 1024;
/** The same on tensor cores, whose sums truncate; less than what rounding to f16 costs. */
export const MATRIX_CHUNK = 8192;

/**
 * Accumulates a batch in a Hessian: H += factor · XᵀX, in the upper triangle (and parts of the lower).
 *
 * @param input X, f32 `[tokens, n]`.
 * @param hessian f32 `[n, n]`.
 */
export async function accumulateHessian(
	gpu: Gpu,
	input: Tensor,
	hessian: Tensor,
	factor: number,
): Promise<void> {
	const [tokens, n] = input.shape;
	const product = { layout: "TN", m: n, n, k: tokens, a: input, b: input, c: hessian } as const;
	if (suitsMatrices(gpu, { ...product, mayRound: true })) {
		const placed = { tensor: input, start: 0, stride: n };
		using x = await halve(gpu, "column", placed, [tokens, n], [MATRIX_DEPTH, MATRIX_TILE]);
		for (let first = 0; first < tokens; first += MATRIX_CHUNK) {
			const k = Math.min(MATRIX_CHUNK, tokens - first);
			const options = { ...product, k, first, alpha: factor, accumulate: true, upperOnly: true };
			await multiplyHalves(gpu, options, x, x);
		}
		return;
	}
	for (let start = 0; start < tokens; start += CHUNK) {
		const x = { tensor: input, start: start * n };
		await gemm(gpu, {
			layout: "TN",
			m: n,
			n,
			k: Math.min(CHUNK, tokens - start),
			a: x,
			b: x,
			c: hessian,
			alpha: factor,
			accumulate: true,
			upperOnly: true,
		});
	}
}

/** Mirrors the upper triangle of a matrix, f32 `[n, n]`, in place. */
export async function mirrorUpper(gpu: Gpu, hessian: Tensor): Promise<void> {
	const [n] = hessian.shape;
	const kernel = await gpu.kernel({ name: "hessian", source, constants: { MIRROR: 1 } });
	using unused = gpu.empty([1]);
	kernel.dispatch({
		params: uniform([n, n]),
		tensors: [unused, hessian],
		workgroups: [Math.ceil(n / 16), Math.ceil(n / 4)],
	});
}

/** Zeroes the columns of a weight, f32 `[rows, n]`, whose diagonal entry of H is zero. */
export async function zeroDeadColumns(gpu: Gpu, hessian: Tensor, weight: Tensor): Promise<void> {
	const [rows, n] = weight.shape;
	const kernel = await gpu.kernel({ name: "hessian", source, constants: { MIRROR: 0 } });
	kernel.dispatch({
		params: uniform([rows, n]),
		tensors: [hessian, weight],
		workgroups: [Math.ceil(n / 16), Math.ceil(rows / 4)],
	});
}

/**
 * The mean of the diagonal, where a dead column (H_jj = 0) counts as 1.
 *
 * @param hessian f32 `[n, n]`.
 * @returns f32 `[1]`, owned by the caller.
 */
export async function meanDiagonal(gpu: Gpu, hessian: Tensor): Promise<Tensor> {
	const mean = gpu.empty([1]);
	const kernel = await gpu.kernel(
		withReduction(gpu, { name: "mean_diagonal", source: meanSource }),
	);
	const [n] = hessian.shape;
	kernel.dispatch({ params: uniform([n]), tensors: [hessian, mean], workgroups: 1 });
	return mean;
}

/**
 * H + damping · mean(diagonal) · I, with H_jj = 1 for dead columns.
 *
 * @param hessian Symmetric, f32 `[n, n]`.
 * @returns f32 `[n, n]`, owned by the caller.
 */
export async function dampedHessian(gpu: Gpu, hessian: Tensor, damping: number): Promise<Tensor> {
	const [n] = hessian.shape;
	using mean = await meanDiagonal(gpu, hessian);
	const damped = gpu.empty([n, n]);
	const kernel = await gpu.kernel({ name: "damped", source: dampedSource, constants: { FULL: 1 } });
	kernel.dispatch({
		params: uniform([n], [damping]),
		tensors: [hessian, mean, damped],
		workgroups: [Math.ceil(n / 16), Math.ceil(n / 4)],
	});
	return damped;
}

/**
 * The diagonal of H + damping · mean(diagonal) · I, where the entry of a dead column counts as 1.
 *
 * @param hessian f32 `[n, n]`.
 * @returns f32 `[n]`, owned by the caller.
 */
export async function dampedDiagonal(gpu: Gpu, hessian: Tensor, damping: number): Promise<Tensor> {
	const [n] = hessian.shape;
	const kernel = await gpu.kernel(
		withReduction(gpu, { name: "damped_diagonal", source: dampedDiagonalSource }),
	);
	const diagonal = gpu.empty([n]);
	kernel.dispatch({
		params: uniform([n], [damping]),
		tensors: [hessian, diagonal],
		workgroups: 1,
	});
	return diagonal;
}
