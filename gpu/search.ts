import bestSource from "./best_candidate.wgsl" with { type: "text" };
import columnOrderSource from "./column_order.wgsl" with { type: "text" };
import columnSaliencySource from "./column_saliency.wgsl" with { type: "text" };
import type { Gpu } from "./device.ts";
import { uniform } from "./kernel.ts";
import markSource from "./mark_columns.wgsl" with { type: "text" };
import saliencySource from "./saliency.wgsl" with { type: "text" };
import salientSearchSource from "./salient_search.wgsl" with { type: "text" };
import splitSearchSource from "./split_search.wgsl" with { type: "text" };
import type { Tensor } from "./tensor.ts";
import zoneBitsSource from "./zone_bits.wgsl" with { type: "text" };

/** Which columns matter: by w² / U_jj² ("hessian") or by |w| ("magnitude"). */
export type Metric = "hessian" | "magnitude";

/** Most columns of a block, and most candidates of a search. */
export const MAX_BLOCK = 256;
export const MAX_CANDIDATES = 128;

/** Rows that one workgroup of {@link columnOrder} adds up, so that few partial sums are left. */
function rowsPerPart(rows: number): number {
  return Math.max(4, Math.ceil(rows / 1024));
}

/**
 * The constants of a search kernel: the rows that a workgroup holds in workgroup memory, the entries
 * of that tile, and the fours of candidates it takes in turn. With 3072 entries the tile and the
 * sums beside it stay under 16 KiB, which every adapter has.
 */
function searchShape(gpu: Gpu, cols: number): { ROWS: number; TILE: number; QUADS: number } {
  const rows = Math.min(gpu.software ? 16 : 32, 2 ** Math.floor(Math.log2(3072 / cols)));
  // A GPU needs many workgroups, a CPU wants each to bring its rows in only once.
  return { ROWS: rows, TILE: rows * cols, QUADS: gpu.software ? MAX_CANDIDATES / 4 : 1 };
}

/** w² · cost of each weight, f32, the shape of `weight`; `cost` is f32 `[cols]`. */
export async function saliency(gpu: Gpu, weight: Tensor, cost: Tensor): Promise<Tensor> {
  const kernel = await gpu.kernel({ name: "saliency", source: saliencySource });
  const out = gpu.empty(weight.shape);
  kernel.dispatch({
    params: uniform([weight.size, weight.shape[1]]),
    tensors: [weight, cost, out],
    workgroups: Math.ceil(weight.size / 64),
  });
  return out;
}

/**
 * The columns of a block from the most to the least salient, u32 `[cols]`.
 *
 * @param weight f32 `[rows, cols]`, at most 256 columns.
 * @param cost 1 / U_jj² of each column, f32 `[cols]`; not used by "magnitude".
 */
export async function columnOrder(
  gpu: Gpu,
  weight: Tensor,
  cost: Tensor,
  metric: Metric,
): Promise<Tensor> {
  const [rows, cols] = weight.shape;
  const perPart = rowsPerPart(rows);
  const parts = Math.ceil(rows / perPart);
  const sum = await gpu.kernel({
    name: "column_saliency",
    source: columnSaliencySource,
    constants: { METRIC: metric === "hessian" ? 0 : 1, ROWS: perPart },
  });
  using part = gpu.empty([parts, cols]);
  sum.dispatch({ params: uniform([rows, cols]), tensors: [weight, cost, part], workgroups: parts });
  const sort = await gpu.kernel({ name: "column_order", source: columnOrderSource });
  const order = gpu.empty([cols], "u32");
  sort.dispatch({ params: uniform([parts, cols]), tensors: [part, order], workgroups: 1 });
  return order;
}

async function bestCandidate(gpu: Gpu, error: Tensor): Promise<Tensor> {
  const [parts, candidates] = error.shape;
  const kernel = await gpu.kernel({ name: "best_candidate", source: bestSource });
  const best = gpu.empty([1], "u32");
  kernel.dispatch({ params: uniform([parts, candidates]), tensors: [error, best], workgroups: 1 });
  return best;
}

/**
 * Marks the first columns of `order`, as many as make the error least when they and the others are
 * each binarized twice.
 *
 * @param values What is binarized in the search, f32 `[rows, cols]`.
 * @param cost What one squared error in a column costs, f32 `[cols]`.
 * @param maxColumns Sets of 1 to `maxColumns` columns are tried, but never all columns of the block
 *   (a block of one column has no salient one).
 * @returns u32 `[cols]`, 1 for a salient column.
 */
export async function selectSalientColumns(
  gpu: Gpu,
  values: Tensor,
  order: Tensor,
  cost: Tensor,
  maxColumns: number,
): Promise<Tensor> {
  const [rows, cols] = values.shape;
  const candidates = Math.min(maxColumns, cols - 1);
  if (candidates < 1) return gpu.zeros([cols], "u32");
  const constants = searchShape(gpu, cols);
  const parts = Math.ceil(rows / constants.ROWS);
  const search = await gpu.kernel({
    name: "salient_search",
    source: salientSearchSource,
    constants,
  });
  using error = gpu.empty([parts, candidates]);
  search.dispatch({
    params: uniform([rows, cols, candidates]),
    tensors: [values, order, cost, error],
    workgroups: [parts, Math.ceil(candidates / 4 / constants.QUADS)],
  });
  using best = await bestCandidate(gpu, error);
  const mark = await gpu.kernel({ name: "mark_columns", source: markSource });
  const salient = gpu.empty([cols], "u32");
  mark.dispatch({
    params: uniform([cols]),
    tensors: [order, best, salient],
    workgroups: Math.ceil(cols / 64),
  });
  return salient;
}

/**
 * Splits the columns that are not salient at the threshold that makes the error least when both
 * zones are binarized once.
 *
 * @param threshold Candidates for |value|, f32 `[candidates]`, at most 128.
 * @returns The high zone as bits, u32 `[rows, ⌈cols / 32⌉]`.
 */
export async function splitZones(
  gpu: Gpu,
  values: Tensor,
  salient: Tensor,
  cost: Tensor,
  threshold: Tensor,
): Promise<Tensor> {
  const [rows, cols] = values.shape;
  const candidates = threshold.size;
  const constants = searchShape(gpu, cols);
  const parts = Math.ceil(rows / constants.ROWS);
  const search = await gpu.kernel({ name: "split_search", source: splitSearchSource, constants });
  using error = gpu.empty([parts, candidates]);
  search.dispatch({
    params: uniform([rows, cols, candidates]),
    tensors: [values, salient, cost, threshold, error],
    workgroups: [parts, Math.ceil(candidates / 4 / constants.QUADS)],
  });
  using best = await bestCandidate(gpu, error);
  const bits = await gpu.kernel({ name: "zone_bits", source: zoneBitsSource });
  const words = Math.ceil(cols / 32);
  const zones = gpu.empty([rows, words], "u32");
  bits.dispatch({
    params: uniform([rows, cols]),
    tensors: [values, salient, threshold, best, zones],
    workgroups: Math.ceil(rows * words / 64),
  });
  return zones;
}
