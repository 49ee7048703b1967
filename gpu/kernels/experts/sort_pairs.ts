import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import countSource from "./count_pairs.wgsl" with { type: "text" };
import tileSource from "./tile_pairs.wgsl" with { type: "text" };

/** The (token, slot) pairs of a batch by expert; pair `token · k + slot`. */
export interface SortedPairs extends Disposable {
	readonly experts: number;
	/** Experts per token. */
	readonly k: number;
	/** Pairs, tokens · k. */
	readonly pairs: number;
	/** Pairs of each expert, u32 `[experts]`. */
	readonly counts: Tensor;
	/** The pairs by rising expert, those of an expert in their order, u32 `[pairs]`. */
	readonly order: Tensor;
	/** Rows of a tile at most. */
	readonly tileRows: number;
	/** The number of tiles; then expert, first place and end in `order` of each, u32 `[3 mostTiles + 1]`. */
	readonly tiles: Tensor;
	readonly mostTiles: number;
}

/**
 * Sorts the pairs of a batch by expert, in the order of pairs, without waiting: no more than the number of
 * pairs is known to the host.
 *
 * @param routing f32 `[tokens, 2 k]` from {@link route}.
 * @param tileRows Rows of a tile of a grouped product.
 */
export async function sortPairs(
	gpu: Gpu,
	routing: Tensor,
	experts: number,
	tileRows: number,
): Promise<SortedPairs> {
	const [tokens, width] = routing.shape;
	const k = width / 2;
	const pairs = tokens * k;
	const counts = await countPairs(gpu, routing, experts);
	const mostTiles = Math.floor(pairs / tileRows) + Math.min(experts, pairs);
	const starts = gpu.empty([experts + 1], "u32");
	const tiles = gpu.empty([3 * mostTiles + 1], "u32");
	const tile = await gpu.kernel({
		name: "tile_pairs",
		source: tileSource,
		constants: { ROWS: tileRows },
	});
	tile.dispatch({ params: uniform([experts]), tensors: [counts, starts, tiles], workgroups: 1 });
	const order = gpu.empty([pairs], "u32");
	const place = await gpu.kernel({
		name: "count_pairs",
		source: countSource,
		constants: { PLACES: 1 },
	});
	place.dispatch({
		params: uniform([pairs, k]),
		tensors: [routing, starts, order],
		workgroups: experts,
	});
	gpu.free(starts);
	const [free, all] = [gpu, [counts, order, tiles]];
	return {
		...{ experts, k, pairs, counts, order, tileRows, tiles, mostTiles },
		[Symbol.dispose]: () => free.free(...all),
	};
}

/**
 * The number of pairs of each expert.
 *
 * @param routing f32 `[tokens, 2 k]`.
 * @param out Receives them, u32 `[experts]`; a new tensor, owned by the caller, if absent.
 */
export async function countPairs(
	gpu: Gpu,
	routing: Tensor,
	experts: number,
	out: Tensor = gpu.empty([experts], "u32"),
): Promise<Tensor> {
	const [tokens, width] = routing.shape;
	const kernel = await gpu.kernel({
		name: "count_pairs",
		source: countSource,
		constants: { PLACES: 0 },
	});
	using none = gpu.empty([1], "u32");
	kernel.dispatch({
		params: uniform([tokens * width / 2, width / 2]),
		tensors: [routing, none, out],
		workgroups: experts,
	});
	return out;
}
