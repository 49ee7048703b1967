import type { Gpu } from "../../device.ts";
import { constant } from "../../constant.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import bestSource from "./best_candidate.wgsl" with { type: "text" };
import columnOrderSource from "./column_order.wgsl" with { type: "text" };
import columnSaliencySource from "./column_saliency.wgsl" with { type: "text" };
import saliencySource from "./saliency.wgsl" with { type: "text" };
import salientSearchSource from "./salient_search.wgsl" with { type: "text" };
import splitSearchSource from "./split_search.wgsl" with { type: "text" };
import zoneBitsSource from "./zone_bits.wgsl" with { type: "text" };

/** The saliency of a weight: w² / U_jj² ("hessian") or |w| ("magnitude"). */
export type SaliencyMetric = "hessian" | "magnitude";

/** The greatest number of columns of a block, and of candidates of a search. */
export const MAX_BLOCK = 256;
const MAX_CANDIDATES = 128;

/** Rows per partial sum of {@link columnOrder}: a trade-off between few parts and a saturated GPU. */
const ROWS_PER_PART = 32;

/** The constants of a search kernel. */
export interface SearchShape {
	/** Rows per workgroup, in workgroup memory. */
	ROWS: number;
	/** Groups of four candidates in parallel. */
	SLOTS: number;
	/** Groups of four candidates per thread, in sequence. */
	QUADS: number;
}

/** The constants and the dispatch grid of a search kernel. */
export function searchGrid(
	{ ROWS, SLOTS, QUADS }: SearchShape,
	rows: number,
	cols: number,
	candidates: number,
): { constants: Record<string, number>; workgroups: [number, number] } {
	return {
		constants: {
			ROWS,
			SLOTS,
			QUADS,
			TILE: (ROWS + 1) * cols,
			// Coalesced loads of a row on a GPU; on a software adapter each thread loads its own row.
			LOADERS: SLOTS > 1 ? Math.min(32, ROWS * SLOTS) : 1,
		},
		workgroups: [Math.ceil(rows / ROWS), Math.ceil(candidates / (4 * SLOTS * QUADS))],
	};
}

/**
 * The shape for an adapter. A GPU needs many workgroups of several subgroups, and 32 rows if workgroup
 * memory allows (up to 4.5 KiB are taken besides the tile). On a software adapter each workgroup should
 * load its rows only once.
 */
function searchShape(gpu: Gpu, cols: number): SearchShape {
	const entries = (gpu.device.limits.maxComputeWorkgroupStorageSize - 4608) / 4;
	const most = 2 ** Math.floor(Math.log2(entries / cols - 1));
	if (gpu.software) return { ROWS: Math.min(16, most), SLOTS: 1, QUADS: MAX_CANDIDATES / 4 };
	const ROWS = Math.min(32, most);
	return { ROWS, SLOTS: 128 / ROWS, QUADS: 1 };
}

/** Threads of a kernel with a single workgroup, a multiple of {@link MAX_BLOCK}. */
function threadsOfOneGroup(gpu: Gpu): number {
	return gpu.software
		? MAX_BLOCK
		: Math.min(1024, gpu.device.limits.maxComputeInvocationsPerWorkgroup);
}

/** The saliency w² · cost of each weight, f32, the shape of `weight`; `cost` is f32 `[cols]`. */
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
 * @param norm A column counts with the sum of its saliencies, or with that of their squares.
 */
export async function columnOrder(
	gpu: Gpu,
	weight: Tensor,
	cost: Tensor,
	metric: SaliencyMetric,
	norm: "l1" | "l2" = "l1",
): Promise<Tensor> {
	const [rows, cols] = weight.shape;
	const parts = Math.ceil(rows / ROWS_PER_PART);
	const sum = await gpu.kernel({
		name: "column_saliency",
		source: columnSaliencySource,
		constants: {
			METRIC: metric === "hessian" ? 0 : 1,
			SQUARES: Number(norm === "l2"),
			ROWS: ROWS_PER_PART,
			SLICES: gpu.software ? 1 : 4,
		},
	});
	using part = gpu.empty([parts, cols]);
	sum.dispatch({ params: uniform([rows, cols]), tensors: [weight, cost, part], workgroups: parts });
	const sort = await gpu.kernel({
		name: "column_order",
		source: columnOrderSource,
		constants: { LANES: threadsOfOneGroup(gpu) },
	});
	const order = gpu.empty([cols], "u32");
	sort.dispatch({ params: uniform([parts, cols]), tensors: [part, order], workgroups: 1 });
	return order;
}

/**
 * The candidate with the least error, summed over the parts of `error`, f32 `[parts, candidates]`.
 *
 * @param order Columns by saliency, u32 `[cols]`. Candidate n marks the first n + 1 of them.
 * @returns The index of the candidate, u32 `[1]`; with `order`, 1 for each marked column, u32 `[cols]`.
 */
export async function bestCandidate(gpu: Gpu, error: Tensor, order?: Tensor): Promise<Tensor> {
	const [parts, candidates] = error.shape;
	const cols = order?.size ?? 1;
	const kernel = await gpu.kernel({
		name: "best_candidate",
		source: bestSource,
		constants: { SLICES: threadsOfOneGroup(gpu) / MAX_CANDIDATES, MARK: Number(!!order) },
	});
	const chosen = gpu.empty([cols], "u32");
	kernel.dispatch({
		params: uniform([parts, candidates, cols]),
		tensors: [error, order ?? error, chosen],
		workgroups: 1,
	});
	return chosen;
}

/** Marks the first `count` columns of `order`: u32 `[cols]`, 1 for a marked column. */
export async function markColumns(gpu: Gpu, order: Tensor, count: number): Promise<Tensor> {
	if (count < 1) return gpu.zeros(order.shape, "u32");
	// The last of as many candidates is the best one.
	const error = new Float32Array(MAX_CANDIDATES).fill(1, 0, count - 1);
	return await bestCandidate(gpu, constant(gpu, error).view(0, [1, count]), order);
}

/**
 * Selects the salient columns: the first columns of `order`, in the number that minimizes the error when
 * they and the other columns are each binarized twice.
 *
 * @param values The values that the search binarizes, f32 `[rows, cols]`.
 * @param cost The cost of a squared error in each column, f32 `[cols]`.
 * @param maxColumns Numbers from 1 to `maxColumns` are tried, but never all columns of the block (a
 *   block of one column has no salient column).
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
	const { constants, workgroups } = searchGrid(searchShape(gpu, cols), rows, cols, candidates);
	const search = await gpu.kernel({
		name: "salient_search",
		source: salientSearchSource,
		constants,
	});
	using error = gpu.empty([workgroups[0], candidates]);
	search.dispatch({
		params: uniform([rows, cols, candidates]),
		tensors: [values, order, cost, error],
		workgroups,
	});
	return await bestCandidate(gpu, error, order);
}

/**
 * Splits the columns that are not salient into two zones, at the threshold that minimizes the error when
 * both zones are binarized once.
 *
 * @param threshold Candidates for |value|, f32 `[candidates]`, at most 128.
 * @returns Bit mask of the high zone, u32 `[rows, ⌈cols / 32⌉]`.
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
	const { constants, workgroups } = searchGrid(searchShape(gpu, cols), rows, cols, candidates);
	const search = await gpu.kernel({ name: "split_search", source: splitSearchSource, constants });
	using error = gpu.empty([workgroups[0], candidates]);
	search.dispatch({
		params: uniform([rows, cols, candidates]),
		tensors: [values, salient, cost, threshold, error],
		workgroups,
	});
	using best = await bestCandidate(gpu, error);
	return await zoneBits(gpu, values, salient, threshold, best);
}

/**
 * The zones at a threshold: columns that are not salient with |value| >= threshold[best].
 *
 * @param best The index of the threshold, u32 `[1]`.
 * @returns Bit mask of the high zone, u32 `[rows, ⌈cols / 32⌉]`, owned by the caller.
 */
export async function zoneBits(
	gpu: Gpu,
	values: Tensor,
	salient: Tensor,
	threshold: Tensor,
	best: Tensor,
): Promise<Tensor> {
	const [rows, cols] = values.shape;
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
