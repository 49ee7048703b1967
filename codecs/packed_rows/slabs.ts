import type { Gpu } from "../../gpu/device.ts";
import { gemm, SharedFactor } from "../../gpu/kernels/matmul/gemm.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Addends } from "../codec.ts";

/** Size of a slab of unpacked rows, in bytes: usual, and at most for products of few tokens. */
const SLAB_BYTES = 64 << 20;
const LARGE_SLAB_BYTES = 256 << 20;
const SLAB_BYTES_ON_CPU = 16 << 20;

/** The same on tensor cores, since the other factor is rounded for each slab. */
const ROUNDED_SLAB_BYTES = 256 << 20;

/** Tiles of a product, of 128 x 128, from which a large GPU is busy. */
const BUSY_TILES = 256;
const TILE = 128;
/**
 * The most tokens for which slabs are as large as they may be: products of few tokens have few tiles, and
 * each slab ends with multiprocessors that have none left.
 */
const FEW_TOKENS = 1024;

/** A packed weight that is unpacked slab by slab. */
export interface UnpackedInSlabs {
	rows: number;
	/** The dequantized weights of some rows, f32 `[rows, cols]`, owned by the caller. */
	unpack(first: number, rows: number): Promise<Tensor>;
}

/**
 * Queues x · weightᵀ (+ bias) (+ residual) into `y`, one slab of unpacked rows at a time: for many tokens,
 * where unpacking takes a small part of the time of the product.
 *
 * @param x f32 `[tokens, cols]`.
 * @param y Receives the product, f32 `[tokens, rows]`.
 */
export async function multiplySlabs(
	gpu: Gpu,
	x: Tensor,
	{ rows, unpack }: UnpackedInSlabs,
	{ bias, residual, shared }: Addends,
	y: Tensor,
): Promise<void> {
	using own = new SharedFactor();
	const [m, cols] = x.shape;
	const most = slabRows(gpu, m, rows, cols);
	for (let first = 0; first < rows; first += most) {
		const n = Math.min(most, rows - first);
		using slab = await unpack(first, n);
		await gemm(gpu, {
			layout: "NT",
			...{ m, n, k: cols },
			a: x,
			b: slab,
			c: { tensor: y, start: first },
			bias: bias?.view(first, [n]),
			residual: residual && { tensor: residual, start: first },
			mayRound: true,
			sharedA: shared ?? own,
		});
	}
}

/**
 * Rows of a slab: a multiple of 64, so that views of the bias meet the binding alignment, and that slabs
 * are whole tiles of a codec. On a GPU, the slabs of a weight are about equally large.
 */
export function slabRows(
	gpu: Pick<Gpu, "software" | "maxBinding" | "roundsProducts">,
	tokens: number,
	rows: number,
	cols: number,
): number {
	const within = (bytes: number) =>
		Math.max(64, Math.floor(Math.min(bytes, gpu.maxBinding) / 4 / cols / 64) * 64);
	if (gpu.software) return within(SLAB_BYTES_ON_CPU);
	if (gpu.roundsProducts) {
		return Math.min(within(ROUNDED_SLAB_BYTES), Math.ceil(rows / TILE) * TILE);
	}
	const busy = tokens <= FEW_TOKENS
		? Infinity
		: Math.ceil(BUSY_TILES / Math.ceil(tokens / TILE)) * TILE;
	const most = Math.max(within(SLAB_BYTES), Math.min(busy, within(LARGE_SLAB_BYTES)));
	const slabs = Math.ceil(rows / most);
	return Math.min(most, Math.ceil(rows / slabs / TILE) * TILE);
}
