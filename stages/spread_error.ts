import { placeRegion } from "../gpu/kernels/elementwise/copy_region.ts";
import { gemm } from "../gpu/kernels/matmul/gemm.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { BlockContext } from "../pipeline/stage.ts";

/**
 * Columns whose errors are spread to the columns beyond them in one product instead of block by block: a
 * product with 128 inner columns moves as many bytes as one with 1024.
 */
const LAZY_COLUMNS = 1024;

/** The weights that compensate for errors. */
export interface Spread {
	/** W, f32 `[rows, cols]`. */
	weight: Tensor;
	/** U, f32 `[cols, cols]`. */
	factor: Tensor;
}

/** Errors that the columns beyond do not compensate for yet, f32 `[rows, n]`, by the weights. */
const errorsOf = new WeakMap<Tensor, Tensor>();

/** Lets later columns of the context's linear layer compensate for the error of its block. */
export async function spreadError(context: BlockContext, error: Tensor): Promise<void> {
	const { linear, block } = context;
	const target = { weight: linear.weight, factor: context.get("factor") };
	await spreadErrorFrom(block.first, error, target);
}

/**
 * Lets later columns compensate for the error of a block: W[:, later] -= E · U[block, later]. The blocks
 * of a layer follow each other from the first column to the last.
 *
 * @param start First column of the block.
 * @param error E = (W - Q) / U_jj of the block, f32 `[rows, cols of the block]`.
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */
export async function spreadErrorFrom(
	start: number,
	error: Tensor,
	{ weight, factor }: Spread,
): Promise<void> {
	const { gpu } = weight;
	const [rows, cols] = weight.shape;
	const width = error.shape[1];
	const later = start + width;
	const first = start - start % LAZY_COLUMNS;
	const end = Math.min(first + LAZY_COLUMNS, cols);
	const makeUpFor = (a: Tensor, from: number, start: number, stop: number) =>
		gemm(gpu, {
			layout: "NN",
			m: rows,
			n: stop - start,
			k: a.shape[1],
			alpha: -1,
			accumulate: true,
			a,
			b: { tensor: factor, start: from * cols + start, stride: cols },
			c: { tensor: weight, start, stride: cols },
		});
	await makeUpFor(error, start, later, end);
	if (end === cols) return;
	const errors = errorsOf.get(weight) ?? gpu.empty([rows, end - first]);
	errorsOf.set(weight, errors);
	const region = { tensor: error, start: 0, stride: width, rows, cols: width };
	const stride = end - first;
	await placeRegion(gpu, region, { tensor: errors, start: start - first, stride });
	if (later < end) return;
	await makeUpFor(errors, first, end, cols);
	gpu.free(errors);
	errorsOf.delete(weight);
}
