import type { Gpu } from "../../device.ts";
import type { ExpertMatrices } from "../experts/expert_matvec.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import type { SortedPairs } from "../experts/sort_pairs.ts";
import { ALL_F32 } from "./gemm_source.ts";
import {
	type GemmFit,
	tileKernel,
	tileKernelBytes,
	tileName,
	type TileShape,
	tileThreads,
} from "./gemm_tile_source.ts";

/**
 * The tiles of grouped products: large ones, small ones for batches with few rows, and those of software
 * adapters, whose compilers take long for more.
 */
export const GROUPED_TILES: readonly TileShape[] = [
	{ rows: 128, cols: 128, depth: 16, threadRows: 8, threadCols: 8 },
	{ rows: 64, cols: 64, depth: 16, threadRows: 8, threadCols: 8 },
	{ rows: 16, cols: 32, depth: 8, threadRows: 4, threadCols: 4 },
];
const [LARGE, SMALL, SOFTWARE] = GROUPED_TILES;

/** Pairs per expert from which large tiles are mostly full. */
const MANY_PAIRS = 96;

/** The matrices of a grouped product. */
export interface GroupedGemm extends ExpertMatrices {
	/** The input, f32 `[tokens, k]`, or `[pairs, k]` if each pair has a row of its own. */
	x: Tensor;
	/** Whether each pair has a row of its own in `x`. */
	each: boolean;
	pairs: SortedPairs;
	/** Receives the product of each pair with the matrix of its expert, f32 `[pairs, rows]`. */
	y: Tensor;
}

/** The rows of the tiles that suit so many pairs. */
export function groupedTileRows(gpu: Gpu, pairs: number, experts: number): number {
	return tileFor(gpu, pairs, experts).rows;
}

function tileFor(gpu: Gpu, pairs: number, experts: number): TileShape {
	if (gpu.software) return SOFTWARE;
	const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } = gpu.device.limits;
	const isPossible = tileThreads(LARGE) <= maxComputeInvocationsPerWorkgroup &&
		tileKernelBytes("NT", LARGE, "whole") <= maxComputeWorkgroupStorageSize;
	return isPossible && pairs >= MANY_PAIRS * experts ? LARGE : SMALL;
}

/**
 * Queues the products of all pairs with the matrices of their experts, without waiting: each workgroup finds
 * its rows in the table of tiles that {@link sortPairs} made. On GPUs, a row of the result is that of a
 * product with the matrix alone, bit by bit.
 */
export async function groupedGemm(
	gpu: Gpu,
	{ x, each, pairs, weights, step, rows, cols, places, bias, y }: GroupedGemm,
): Promise<void> {
	const tile = GROUPED_TILES.find(({ rows }) => rows === pairs.tileRows)!;
	const storages = { ...ALL_F32, b: weights.dtype as "f32" };
	const isAligned = [rows, cols, step].every((value) => value % 4 === 0);
	const isWhole = isAligned && rows % tile.cols === 0 && cols % tile.depth === 0;
	const { maxComputeWorkgroupStorageSize: most } = gpu.device.limits;
	const isPaired = cols % (2 * tile.depth) === 0 && tileKernelBytes("NT", tile, "paired") <= most;
	const fit: GemmFit = !isAligned ? "any" : !isWhole ? "aligned" : isPaired ? "paired" : "whole";
	const kernel = await gpu.kernel({
		name: `grouped_gemm_${tileName(tile)}_${fit}_${weights.dtype}`,
		source: () => tileKernel("NT", tile, fit, storages, true),
	});
	kernel.dispatch({
		params: uniform([
			rows,
			cols,
			Number(bias !== undefined),
			each ? 1 : pairs.k,
			cols,
			cols,
			step,
			rows,
		]),
		tensors: [x, weights, y, bias ?? x, pairs.order, pairs.tiles, places],
		workgroups: [Math.ceil(rows / tile.cols), pairs.mostTiles],
	});
}
