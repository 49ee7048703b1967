import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { SearchArguments } from "../codec.ts";
import { computeResidual } from "../row_search/residual.ts";
import { type RowSearch, searchRowsInTurns } from "../row_search/row_search.ts";
import pairsSource from "./haar_pairs.wgsl" with { type: "text" };
import { haarPlanes, haarScales, type HaarTensors } from "./layout.ts";
import { dequantizeHaarOnGpu } from "./products.ts";
import candidates from "./row_candidates_haar.wgsl" with { type: "text" };

/**
 * Tabu search for the coefficients of each row, with fixed scales; `quantized` and the bits are updated.
 * The transforms are orthonormal: the loss of E is that of the transformed E, with H transformed likewise
 * where pairs are columns. By rows, salient columns are searched once more for their further coefficients.
 */
export async function searchHaar(
	gpu: Gpu,
	linear: HaarTensors,
	{ target, hessian, quantized, rounds, moves, pause }: SearchArguments,
): Promise<void> {
	const { axis, cols } = linear;
	const byRows = axis === "row";
	using own = gpu.empty(byRows ? hessian.shape : [1]);
	if (byRows) {
		gpu.copy(hessian, own);
		await transformPairs(gpu, own, "columns");
		await transformPairs(gpu, own, "rows");
	}
	using residual = gpu.empty(target.shape);
	using coefficients = gpu.empty(target.shape);
	const search = async (extra: boolean, count: number, seed: number) => {
		const pairs = byRows && !extra ? "columns" : "rows";
		const recompute = async () => {
			using current = await dequantizeHaarOnGpu(gpu, linear);
			gpu.copy(current, quantized);
			await computeResidual(gpu, target, hessian, quantized, residual);
			await transformPairs(gpu, residual, pairs);
		};
		await recompute();
		const matrices: [Tensor, Tensor, Tensor] = [
			pairs === "columns" ? own : hessian,
			residual,
			coefficients,
		];
		const found = searchOf(linear, extra);
		await searchRowsInTurns(gpu, found, ...matrices, count, seed, recompute, pause);
	};
	for (let round = 0; round < rounds; round++) {
		const count = Math.ceil(moves * cols);
		await search(false, count, round);
		if (byRows) await search(true, Math.ceil(count * EXTRA_PART), round);
	}
	using last = await dequantizeHaarOnGpu(gpu, linear);
	gpu.copy(last, quantized);
}

/** The moves of salient columns alone, as a part of those of all columns: more columns are hardly salient. */
const EXTRA_PART = 0.25;

/** The Haar transform of pairs of neighbouring columns, or rows, of a matrix in place. */
export async function transformPairs(
	gpu: Gpu,
	matrix: Tensor,
	pairs: "columns" | "rows",
): Promise<void> {
	const [rows, cols] = matrix.shape;
	const constants = { BY_COLUMNS: Number(pairs === "rows") };
	const kernel = await gpu.kernel({ name: "haar_pairs", source: pairsSource, constants });
	kernel.dispatch({
		params: uniform([rows, cols]),
		tensors: [matrix],
		workgroups: Math.ceil(rows * cols / 128),
	});
}

function searchOf(linear: HaarTensors, extra: boolean): RowSearch {
	const { cols, blockSize, axis, mask, scales, codes } = linear;
	return {
		name: "haar",
		candidates,
		constants: {
			...{ BLOCK: blockSize, BLOCKS: Math.ceil(cols / blockSize), WORDS: bitWords(cols) },
			...{ SCALES: haarScales(linear), PLANES: haarPlanes(linear) },
			...{ EXTRA: Number(extra), BY_ROWS: Number(axis === "row") },
		},
		tensors: [mask, scales, codes],
	};
}
