import type { Gpu } from "../../gpu/device.ts";
import { MAX_GROUPS, uniform } from "../../gpu/kernel.ts";
import { largeLanes, reducesInSubgroup } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { type Candidates, rowSearchSource } from "./row_search_source.ts";

/** The columns of a row that a thread of the tabu search holds in registers, if there are threads enough. */
const COLUMNS_PER_THREAD = 8;

/** Iterations of loops after which lavapipe ends all loops of a thread, less some for other loops. */
const SOFTWARE_ITERATIONS = 65535 - 8192;

/** Weights times moves per dispatch: a fraction of a second on a large GPU, since drivers stop long ones. */
const WORK = 2 ** 38;

/** Bytes of workgroup memory that the search itself takes. */
export const OWN_MEMORY = 64;

/** The threads of the tabu search for a row, the columns of each, and the most moves of one call. */
export function rowSearchShape(gpu: Gpu, cols: number): {
	lanes: number;
	perThread: number;
	most: number;
} {
	const wanted = Math.max(64, 2 ** Math.ceil(Math.log2(cols / COLUMNS_PER_THREAD)));
	const lanes = largeLanes(gpu, Math.min(1024, wanted));
	const perThread = Math.ceil(cols / lanes);
	const iterations = Math.floor(SOFTWARE_ITERATIONS / (perThread + 1)) - 2;
	return { lanes, perThread, most: gpu.software ? Math.max(1, iterations) : Infinity };
}

/** The tabu search of a way to store weights. */
export interface RowSearch {
	/** A name for the kernel, with all that its text depends on. */
	name: string;
	candidates: Candidates;
	constants: Record<string, number>;
	/** The tensors of the bindings of `candidates`. */
	tensors: readonly Tensor[];
}

/**
 * Tabu search for the codes of each row, with fixed values of the codes.
 *
 * @param hessian H, damped, symmetric, f32 `[cols, cols]`.
 * @param residual R = (W - Q) H, f32 `[rows, cols]`; not updated.
 * @param quantized Q, f32 `[rows, cols]`; the values of the best codes afterwards.
 * @param moves At most those of {@link rowSearchShape}.
 * @param seed Of the random parts of the times for which columns are locked.
 */
export async function searchRows(
	gpu: Gpu,
	{ name, candidates, constants, tensors }: RowSearch,
	hessian: Tensor,
	residual: Tensor,
	quantized: Tensor,
	moves: number,
	seed: number,
): Promise<void> {
	const [rows, cols] = quantized.shape;
	const { lanes, perThread } = rowSearchShape(gpu, cols);
	const choice = reducesInSubgroup(gpu) ? "subgroup" : "workgroup";
	const kernel = await gpu.kernel({
		name: `search_row_${name}_${perThread}`,
		source: () => rowSearchSource(candidates, perThread, !gpu.software, choice),
		constants: { LANES: lanes, ...constants },
	});
	const rowsPerCall = Math.min(MAX_GROUPS, Math.max(1, Math.floor(WORK / (cols * moves))));
	for (let first = 0; first < rows; first += rowsPerCall) {
		kernel.dispatch({
			params: uniform([first, rows, cols, moves, seed]),
			tensors: [hessian, residual, quantized, ...tensors],
			workgroups: Math.min(rowsPerCall, rows - first),
		});
	}
}

/**
 * Tabu search of any number of moves, in calls that adapters finish.
 *
 * @param residual R = (W - Q) H, f32 `[rows, cols]`.
 * @param recompute Computes R anew from `quantized`, before each call but the first.
 * @param pause Called after each call.
 */
export async function searchRowsInTurns(
	gpu: Gpu,
	search: RowSearch,
	hessian: Tensor,
	residual: Tensor,
	quantized: Tensor,
	moves: number,
	seed: number,
	recompute: () => Promise<void>,
	pause?: () => Promise<void>,
): Promise<void> {
	const { most } = rowSearchShape(gpu, quantized.shape[1]);
	for (let left = moves; left > 0; left -= most) {
		if (left < moves) await recompute();
		await searchRows(gpu, search, hessian, residual, quantized, Math.min(left, most), seed);
		await pause?.();
	}
}
