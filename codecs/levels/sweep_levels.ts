import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import { rowShape } from "../../gpu/kernels/binarize/row_shape.ts";
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { LevelKind } from "./levels.ts";
import { kindName } from "./levels_source.ts";
import type { SearchedLevels } from "./refit_levels.ts";
import { type LevelSweep, sweepLevelsKernel } from "./sweep_levels_source.ts";

/** Columns of a block: the steps in it are sequential, those beyond it a product. */
export const SWEEP_BLOCK = 128;

/** A block of columns of a linear layer in a sweep. */
interface SweepBlock {
	kind: LevelKind;
	/** First column of the block. */
	first: number;
	/** f32 `[rows, cols]`. */
	values: Tensor;
	/** f32 `[cols, cols]`. */
	matrix: Tensor;
	/** f32 `[rows, parameters]`. */
	theta: Tensor;
	/** u32 `[rows, cols]`; those of the block are updated. */
	codes: Tensor;
}

/** The steps of a block, f32 `[rows, width of the block]`, owned by the caller. */
async function sweepBlock(
	gpu: Gpu,
	sweep: LevelSweep,
	{ kind, first, values, matrix, theta, codes }: SweepBlock,
): Promise<Tensor> {
	const [rows, cols] = codes.shape;
	const width = Math.min(SWEEP_BLOCK, cols - first);
	const { ROWS, LANES, STRIDE } = rowShape(gpu, SWEEP_BLOCK);
	const kernel = await gpu.kernel({
		name: `sweep_levels_${sweep}_${kindName(kind)}`,
		source: () => sweepLevelsKernel(kind, sweep),
		constants: { ROWS, LANES, STRIDE },
	});
	const steps = gpu.empty([rows, width]);
	kernel.dispatch({
		params: uniform([rows, width, first, cols]),
		tensors: [values, matrix, theta, codes, steps],
		workgroups: Math.ceil(rows / ROWS),
	});
	return steps;
}

/**
 * Quantizes a block of {@link SWEEP_BLOCK} columns to levels, column by column; later columns of the block
 * compensate for the error.
 *
 * @param block The weights as compensated so far, and U of the layer.
 * @returns E = (W - Q) / U_jj of the block, f32 `[rows, width of the block]`, owned by the caller.
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */
export async function quantizeLevels(
	gpu: Gpu,
	{ weight, factor, ...block }: Omit<SweepBlock, "values" | "matrix"> & {
		weight: Tensor;
		factor: Tensor;
	},
): Promise<Tensor> {
	return await sweepBlock(gpu, "feedback", { ...block, values: weight, matrix: factor });
}

/**
 * One sweep of coordinate descent on the loss tr(E H Eᵀ), E = W - Q: each weight in turn takes the level
 * that is best with all others fixed.
 *
 * @param layer Its codes are updated.
 * @param residual R = (W - Q) H, f32 `[rows, cols]`; updated with Q.
 */
export async function descendLevels(
	gpu: Gpu,
	{ kind, codes, theta, hessian }: SearchedLevels,
	residual: Tensor,
): Promise<void> {
	const [rows, cols] = codes.shape;
	for (let first = 0; first < cols; first += SWEEP_BLOCK) {
		const block = { kind, first, values: residual, matrix: hessian, theta, codes };
		using steps = await sweepBlock(gpu, "descent", block);
		await gemm(gpu, {
			layout: "NN",
			m: rows,
			n: cols,
			k: steps.shape[1],
			alpha: -1,
			accumulate: true,
			a: steps,
			b: { tensor: hessian, start: first * cols, stride: cols },
			c: residual,
		});
	}
}
