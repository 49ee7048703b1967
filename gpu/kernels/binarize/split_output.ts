import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { bestCandidate, zoneBits } from "./search.ts";
import source from "./split_output.wgsl" with { type: "text" };

/** Rows of a workgroup, which takes one candidate. */
const ROWS = 16;

/**
 * Splits the columns that are not salient into two zones, at the threshold with the smallest error of the
 * block's output: the errors of its columns are weighted with their second moments.
 *
 * @param values f32 `[rows, cols]`.
 * @param salient u32 `[cols]`, 0 or 1.
 * @param hessian Σ x xᵀ of the input of the layer, up to a factor, f32 `[n, n]`.
 * @param first The block's first column in the layer.
 * @param threshold Candidates for |value|, f32 `[candidates]`, at most 128.
 * @returns Bit mask of the high zone, u32 `[rows, ⌈cols / 32⌉]`, owned by the caller.
 */
export async function splitByOutput(
	gpu: Gpu,
	values: Tensor,
	salient: Tensor,
	hessian: Tensor,
	first: number,
	threshold: Tensor,
): Promise<Tensor> {
	const [rows, cols] = values.shape;
	const [, n] = hessian.shape;
	const candidates = threshold.size;
	const parts = Math.ceil(rows / ROWS);
	const kernel = await gpu.kernel({
		name: "split_output",
		source,
		constants: { ROWS, LANES: gpu.software ? 2 : 8, STRIDE: Math.ceil(cols / 4) * 4 },
	});
	using error = gpu.empty([parts, candidates]);
	kernel.dispatch({
		params: uniform([rows, cols, candidates, first * (n + 1), n]),
		tensors: [values, salient, hessian, threshold, error],
		workgroups: [parts, candidates],
	});
	using best = await bestCandidate(gpu, error);
	return await zoneBits(gpu, values, salient, threshold, best);
}
