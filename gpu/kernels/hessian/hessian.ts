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
const CHUNK = 1024;
/** The same on tensor cores, whose sums truncate; less than what rounding to f16 costs. */
const MATRIX_CHUNK = 8192;

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
	await accumulateProduct(gpu, [input, input], hessian, { factor, upperOnly: true });
}

/**
 * Accumulates C += factor · XᵀY of activations.
 *
 * @param factors X and Y, f32 `[tokens, n]`; they may be the same tensor.
 * @param c f32 `[n, n]`.
 */
export async function accumulateProduct(
	gpu: Gpu,
	[x, y]: readonly [Tensor, Tensor],
	c: Tensor,
	{ factor, upperOnly }: { factor: number; upperOnly?: boolean },
): Promise<void> {
	const [tokens, n] = x.shape;
	const sum = { layout: "TN", m: n, n, c, alpha: factor, accumulate: true, upperOnly } as const;
	if (suitsMatrices(gpu, { ...sum, k: tokens, a: x, b: y, mayRound: true })) {
		const round = (tensor: Tensor) => {
			const placed = { tensor, start: 0, stride: n };
			return halve(gpu, "column", placed, [tokens, n], [MATRIX_DEPTH, MATRIX_TILE]);
		};
		using left = await round(x);
		using other = x === y ? undefined : await round(y);
		for (let first = 0; first < tokens; first += MATRIX_CHUNK) {
			const k = Math.min(MATRIX_CHUNK, tokens - first);
			await multiplyHalves(gpu, { ...sum, k, first }, left, other ?? left);
		}
		return;
	}
	for (let start = 0; start < tokens; start += CHUNK) {
		const part = (tensor: Tensor) => ({ tensor, start: start * n });
		const k = Math.min(CHUNK, tokens - start);
		await gemm(gpu, { ...sum, k, a: part(x), b: part(y) });
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
