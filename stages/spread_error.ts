import { placeRegion } from "../gpu/kernels/elementwise/copy_region.ts";
import { gemm } from "../gpu/kernels/matmul/gemm.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { BlockContext, LinearLayer } from "../pipeline/stage.ts";

/**
 * Columns whose errors are spread to the columns beyond them in one product instead of block by block: a
 * product with 128 inner columns moves as many bytes as one with 1024.
 */
const LAZY_COLUMNS = 1024;

/** Errors that the columns beyond do not compensate for yet, f32 `[rows, n]`. */
const errorsOf = new WeakMap<LinearLayer, Tensor>();

/**
 * Lets later columns compensate for the error of a block: W[:, later] -= E · U[block, later].
 *
 * @param error E = (W - Q) / U_jj of the block, f32 `[rows, cols]`.
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */
export async function spreadError(context: BlockContext, error: Tensor): Promise<void> {
  const { gpu, linear, block } = context;
  const { rows, cols } = linear;
  const later = block.first + block.cols;
  const first = block.first - block.first % LAZY_COLUMNS;
  const end = Math.min(first + LAZY_COLUMNS, cols);
  const factor = context.get("factor");
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
      c: { tensor: linear.weight, start, stride: cols },
    });
  await makeUpFor(error, block.first, later, end);
  if (end === cols) return;
  const errors = errorsOf.get(linear) ?? gpu.empty([rows, end - first]);
  errorsOf.set(linear, errors);
  const region = { tensor: error, start: 0, stride: block.cols, rows, cols: block.cols };
  const stride = end - first;
  await placeRegion(gpu, region, { tensor: errors, start: block.first - first, stride });
  if (later < end) return;
  await makeUpFor(errors, first, end, cols);
  gpu.free(errors);
  errorsOf.delete(linear);
}
