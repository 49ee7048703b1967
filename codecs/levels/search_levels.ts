import type { Gpu } from "../../gpu/device.ts";
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { type RowSearch, searchRowsInTurns } from "../row_search/row_search.ts";
import { levelCandidates } from "./level_candidates_source.ts";
import { parametersOf } from "./levels.ts";
import { kindName } from "./levels_source.ts";
import { refitLevels, type SearchedLevels } from "./refit_levels.ts";
import { descendLevels } from "./sweep_levels.ts";

/** The effort of {@link searchLevels}. */
export interface LevelsEffort {
	/** Rounds of a refit, sweeps of coordinate descent and tabu search; a last refit follows them. */
	rounds: number;
	/** Sweeps of coordinate descent per round. */
	sweeps: number;
	/** Moves of the tabu search per column and round; 0 for none. */
	moves: number;
}

/**
 * Searches better parameters and codes of a linear layer in the loss tr(E H Eᵀ), E = W - Q.
 *
 * @param layer Its codes and parameters are updated.
 * @param targetProduct W H, f32 `[rows, cols]`.
 * @param pause Called between steps that may take long.
 */
export async function searchLevels(
	gpu: Gpu,
	layer: SearchedLevels,
	targetProduct: Tensor,
	{ rounds, sweeps, moves }: LevelsEffort,
	pause: () => Promise<void>,
): Promise<void> {
	const [rows, cols] = targetProduct.shape;
	using product = gpu.empty([parametersOf(layer.kind) * rows, cols]);
	const residual = product.view(0, [rows, cols]);
	for (let round = 0; round <= rounds; round++) {
		await refitLevels(gpu, layer, targetProduct, product);
		if (round === rounds) break;
		for (let sweep = 0; sweep < sweeps; sweep++) {
			await descendLevels(gpu, layer, residual);
			await pause();
		}
		const count = Math.ceil(moves * cols);
		await moveLevels(gpu, layer, targetProduct, residual, count, round, pause);
	}
}

/**
 * Tabu search for the codes of each row: `moves` times the best step of a weight to a neighbouring level
 * is made, even one that increases the loss, and the best codes seen are kept.
 *
 * @param layer Its codes are updated.
 * @param targetProduct W H, f32 `[rows, cols]`.
 * @param residual R = (W - Q) H, f32 `[rows, cols]`; undefined afterwards.
 * @param seed Of the times for which weights are locked.
 */
export async function moveLevels(
	gpu: Gpu,
	{ kind, codes, theta, hessian }: SearchedLevels,
	targetProduct: Tensor,
	residual: Tensor,
	moves: number,
	seed: number,
	pause: () => Promise<void>,
): Promise<void> {
	const [rows, cols] = codes.shape;
	const search: RowSearch = {
		name: `levels_${kindName(kind)}`,
		candidates: levelCandidates(kind, !gpu.software),
		constants: {},
		tensors: [theta, codes],
	};
	using quantized = gpu.empty([rows, cols]);
	const recompute = async () => {
		gpu.copy(targetProduct, residual);
		await gemm(gpu, {
			...{ layout: "NN", m: rows, n: cols, k: cols, alpha: -1, accumulate: true },
			a: quantized,
			b: hessian,
			c: residual,
		});
	};
	await searchRowsInTurns(
		gpu,
		search,
		hessian,
		residual,
		quantized,
		moves,
		seed,
		recompute,
		pause,
	);
}
