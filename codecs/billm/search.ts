import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import { rowShape } from "../../gpu/kernels/binarize/row_shape.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import overRow from "../../gpu/kernels/reduce/reduce_row.wgsl" with { type: "text" };
import type { Tensor } from "../../gpu/tensor.ts";
import { computeResidual } from "../row_search/residual.ts";
import {
	OWN_MEMORY,
	type RowSearch,
	searchRows,
	searchRowsInTurns,
} from "../row_search/row_search.ts";
import { type BillmBits, scalesPerBlock } from "./quantize_block.ts";
import candidates from "./row_candidates.wgsl" with { type: "text" };
import { roundScales } from "./round_scales.ts";
import blockSource from "./search_block.wgsl" with { type: "text" };

/** The effort of {@link searchBits}. */
export interface SearchEffort {
	/** Rounds of sweeps over the blocks and tabu search over the rows. */
	rounds: number;
	/** Sweeps over the blocks per round: new bits of each block, then a refit of its means and scales. */
	sweeps: number;
	/** Moves of the tabu search per column and round; 0 for none. */
	moves: number;
	/**
	 * Bits of the codes to which means and scales are rounded at the end; then a tabu search of at least
	 * {@link ROUNDED_MOVES} moves per column adapts the bits. Not rounded beyond f16 if absent.
	 */
	scaleBits?: 8 | 4;
}

/** Moves per column that make up for most of the rounding of means and scales. */
const ROUNDED_MOVES = 0.1;

/** Whether a layout can be searched: two zones, and two planes of the salient columns, if there are any. */
export function canSearch({ zones, planes }: Pick<BillmBits, "zones" | "planes">): boolean {
	return zones === 2 && (planes === 0 || planes === 2);
}

/**
 * Searches better means, scales and bits of a linear layer in the loss tr(E H Eᵀ), E = W - Q: each block
 * in turn gets better bits by coordinate descent and is refitted, with the rest fixed; then tabu search
 * changes the bits of whole rows. Which columns are salient does not change.
 *
 * @param target W, f32 `[rows, cols]`.
 * @param hessian H, damped, symmetric, f32 `[cols, cols]`.
 * @param bits A layout that {@link canSearch}; updated.
 * @param quantized Q, the dequantized values of `bits`, f32 `[rows, cols]`; updated.
 * @param pause Called between steps that may take long.
 */
export async function searchBits(
	gpu: Gpu,
	target: Tensor,
	hessian: Tensor,
	bits: BillmBits,
	quantized: Tensor,
	{ rounds, sweeps, moves, scaleBits }: SearchEffort,
	pause?: () => Promise<void>,
): Promise<void> {
	const residual = gpu.empty(target.shape);
	using _ = residual;
	const ofRows = rowSearchOf(gpu, bits);
	const search = (movesPerColumn: number, seed: number) =>
		searchRowsInTurns(
			gpu,
			ofRows,
			hessian,
			residual,
			quantized,
			Math.ceil(movesPerColumn * bits.cols),
			seed,
			() => computeResidual(gpu, target, hessian, quantized, residual),
			pause,
		);
	for (let round = 0; round <= rounds; round++) {
		await computeResidual(gpu, target, hessian, quantized, residual);
		const isLast = round === rounds; // one more sweep after the last tabu search
		for (let sweep = 0; sweep < (isLast ? 1 : sweeps); sweep++) {
			await sweepBlocks(gpu, hessian, residual, bits, quantized);
			await pause?.();
		}
		if (!isLast && moves > 0) await search(moves, round);
	}
	if (!scaleBits) return;
	const { codes, factors } = await roundScales(gpu, bits, bits.scales, scaleBits);
	gpu.free(codes, factors);
	await searchRows(gpu, ofRows, hessian, residual, quantized, 0, 0); // Q of the rounded values
	await computeResidual(gpu, target, hessian, quantized, residual);
	await search(Math.max(moves, ROUNDED_MOVES), rounds);
}

/**
 * One sweep: improves the bits of each block by coordinate descent, then refits its means and scales.
 *
 * @param residual R = (W - Q) H, f32 `[rows, cols]`; updated with Q.
 */
export async function sweepBlocks(
	gpu: Gpu,
	hessian: Tensor,
	residual: Tensor,
	bits: BillmBits,
	quantized: Tensor,
): Promise<void> {
	const { rows, cols, blockSize, planes } = bits;
	const { ROWS, LANES, STRIDE } = rowShape(gpu, blockSize);
	const kernel = await gpu.kernel({
		name: "search_block",
		source: roundF16 + overRow + blockSource,
		constants: {
			ROWS,
			LANES,
			STRIDE,
			WORDS: blockSize / 32,
			HAS_SALIENT: Number(planes > 0),
			SCALES: scalesPerBlock(bits),
		},
	});
	const blocks = Math.ceil(cols / blockSize);
	for (let block = 0; block < blocks; block++) {
		const first = block * blockSize;
		const width = Math.min(blockSize, cols - first);
		using change = gpu.empty([rows, width]);
		kernel.dispatch({
			params: uniform([rows, width, first, cols, bitWords(cols), block, blocks]),
			tensors: [hessian, residual, bits.salient, bits.bits, bits.scales, quantized, change],
			workgroups: Math.ceil(rows / ROWS),
		});
		await gemm(gpu, {
			layout: "NN",
			m: rows,
			n: cols,
			k: width,
			alpha: -1,
			accumulate: true,
			a: change,
			b: { tensor: hessian, start: first * cols, stride: cols },
			c: residual,
		});
	}
}

/** The tabu search for the bits of each row, with fixed means and scales. */
export function rowSearchOf(gpu: Gpu, bits: BillmBits): RowSearch {
	const { cols, blockSize, planes } = bits;
	const blocks = Math.ceil(cols / blockSize);
	const words = bitWords(cols);
	// Besides the steps, workgroup memory holds the bits of a row and the choice of a move.
	const memory = gpu.device.limits.maxComputeWorkgroupStorageSize - 8 * words - OWN_MEMORY;
	const isStaged = 128 * blocks <= memory;
	return {
		name: "billm",
		candidates,
		constants: {
			BLOCK: blockSize,
			BLOCKS: blocks,
			STAGED: Number(isStaged),
			STEPS: isStaged ? 8 * blocks : 1,
			WORDS: words,
			HAS_SALIENT: Number(planes > 0),
			SCALES: scalesPerBlock(bits),
		},
		tensors: [bits.salient, bits.scales, bits.bits],
	};
}
