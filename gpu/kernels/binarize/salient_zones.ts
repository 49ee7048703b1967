import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { quantilesWithin } from "../reduce/quantile.ts";
import bothSource from "./both_zones.wgsl" with { type: "text" };
import othersSource from "./other_columns.wgsl" with { type: "text" };
import splitSource from "./salient_split.wgsl" with { type: "text" };
import { bestCandidate, zoneBits } from "./search.ts";

/** Rows of a workgroup of the search. */
const ROWS = 16;

/**
 * Splits the salient columns, too, into two zones: at the threshold that minimizes the error when both are
 * binarized twice.
 *
 * @param values f32 `[rows, cols]`.
 * @param salient u32 `[cols]`, 0 or 1.
 * @param cost The cost of a squared error in each column, f32 `[cols]`.
 * @param probabilities Candidates, as quantiles of |value| in salient columns; ascending, at most 128.
 * @param zones The zones of the other columns, u32 `[rows, ⌈cols / 32⌉]`.
 * @param size Columns of a whole block; the kernel is compiled for these.
 * @returns The zones of all columns, u32 `[rows, ⌈cols / 32⌉]`, owned by the caller.
 */
export async function splitSalient(
	gpu: Gpu,
	values: Tensor,
	salient: Tensor,
	cost: Tensor,
	probabilities: readonly number[],
	zones: Tensor,
	size: number = values.shape[1],
): Promise<Tensor> {
	const [rows, cols] = values.shape;
	const candidates = probabilities.length;
	using others = gpu.empty([cols], "u32");
	const negate = await gpu.kernel({ name: "other_columns", source: othersSource });
	negate.dispatch({
		params: uniform([cols]),
		tensors: [salient, others],
		workgroups: Math.ceil(cols / 64),
	});
	using threshold = await quantilesWithin(gpu, values, others, probabilities);
	const parts = Math.ceil(rows / ROWS);
	const search = await gpu.kernel({
		name: "salient_split",
		source: splitSource,
		constants: { ROWS, SLOTS: gpu.software ? 1 : 8, TILE: ROWS * size },
	});
	using error = gpu.empty([parts, candidates]);
	search.dispatch({
		params: uniform([rows, cols, candidates]),
		tensors: [values, others, cost, threshold, error],
		workgroups: parts,
	});
	using best = await bestCandidate(gpu, error);
	using more = await zoneBits(gpu, values, others, threshold, best);
	const join = await gpu.kernel({ name: "both_zones", source: bothSource });
	const both = gpu.empty(zones.shape, "u32");
	join.dispatch({
		params: uniform([zones.size]),
		tensors: [zones, more, both],
		workgroups: Math.ceil(zones.size / 64),
	});
	return both;
}
