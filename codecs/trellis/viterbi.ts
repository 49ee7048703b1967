import type { Gpu } from "../../gpu/device.ts";
import { MAX_GROUPS, uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { tableOnGpu } from "./tables.ts";
import { stepsOf, TILE, tilesOf, type Trellis } from "./trellis.ts";
import { viterbiBytes, type ViterbiForm, viterbiKernel, viterbiShape } from "./viterbi_source.ts";

/** A column of tiles to search, and where the result goes. */
export interface TileSearch {
	trellis: Trellis;
	/** The weights, columns in the order of places, f32 `[rows, cols]`. */
	weight: Tensor;
	/** What the weights of each row are divided by before the search, not 0, f32 `[rows]`. */
	spread: Tensor;
	/** The first of the 16 columns of the tiles. */
	first: number;
	/** Receives the table values of the tiles' weights, f32 `[rows, cols]`. */
	values: Tensor;
	/** Receives their bits, u32 `[⌈rows / 16⌉, ⌈cols / 16⌉, words]`. */
	stream: Tensor;
}

/** States of a thread, whose table entries it holds in registers; fewer where a step has two branches only. */
const STATES_PER_THREAD = { many: 32, few: 16 };

/** Bytes of back pointers up to which they all stay in workgroup memory. */
const RESIDENT_BYTES = 16384;

/** Rows of back pointers that are copied to workgroup memory at a time. */
const STAGED = 16;

/** Bytes of back pointers in a storage buffer, which bound the tiles of a dispatch. */
const SAVED_BYTES = 2 ** 27;

/** The form of the kernel that suits an adapter. */
export function viterbiForm(gpu: Gpu, trellis: Trellis): ViterbiForm {
	const { stepBits } = stepsOf(trellis);
	const limit = gpu.device.limits.maxComputeWorkgroupStorageSize;
	const overlaps = 2 ** (trellis.stateBits - stepBits);
	// A CPU gains most from states that read the same, which a thread has if it owns enough overlaps.
	const wanted = gpu.software
		? Math.min(256, overlaps / 2 ** stepBits)
		: 2 ** trellis.stateBits / STATES_PER_THREAD[stepBits === 1 ? "few" : "many"];
	const threads = Math.min(overlaps, Math.max(32, wanted));
	const { rows } = viterbiShape(trellis, { threads });
	const staged = 4 * rows * threads <= RESIDENT_BYTES ? rows : STAGED;
	const forms = ([2, 1] as const).flatMap((buffers) =>
		[staged, STAGED, 8, 4, 2].map((staged): ViterbiForm => ({ threads, buffers, staged }))
	);
	const form = forms.find((form) => viterbiBytes(trellis, form) <= limit);
	if (form) return form;
	throw new RangeError(`"${gpu.name}" has too little workgroup memory, ${limit} bytes`);
}

/**
 * Finds the walks through the trellis that are nearest to the weights of each tile of 16 columns, in
 * squared distance; the first and the last state of a walk overlap like any others.
 *
 * Columns and rows beyond the matrix count as zeros.
 *
 * @see Tail-biting trellis-coded quantization in QTIP, https://arxiv.org/abs/2406.11235
 */
export async function searchTiles(
	gpu: Gpu,
	{ trellis, weight, spread, first, values, stream }: TileSearch,
	form: ViterbiForm = viterbiForm(gpu, trellis),
): Promise<void> {
	const [rows, cols] = weight.shape;
	const { stateBits, bits } = trellis;
	const [below, beside] = tilesOf({ rows, cols });
	const { threads, buffers, staged } = form;
	const shape = viterbiShape(trellis, form);
	const kernel = await gpu.kernel({
		name: `viterbi_${stateBits}_${bits}_${threads}_${buffers}_${staged}`,
		source: () => viterbiKernel(trellis, form),
	});
	const words = shape.rows * threads; // of a tile's back pointers
	const isResident = staged >= shape.rows;
	const most = Math.min(gpu.maxBinding, SAVED_BYTES);
	const tiles = Math.min(below, MAX_GROUPS, isResident ? below : Math.floor(most / (4 * words)));
	const saved = isResident ? undefined : gpu.empty([tiles, words], "u32");
	for (let tile = 0; tile < below; tile += tiles) {
		kernel.dispatch({
			params: uniform([rows, cols, first, beside, tile]),
			tensors: [weight, spread, tableOnGpu(gpu, trellis), values, stream, ...saved ? [saved] : []],
			workgroups: [Math.min(tiles, below - tile), 1],
		});
	}
	if (saved) gpu.free(saved);
}

/** Distances that the search of a column of tiles computes. */
export function searchWork(trellis: Trellis, rows: number): number {
	const { steps } = stepsOf(trellis);
	return 2 * Math.ceil(rows / TILE) * steps * 2 ** trellis.stateBits;
}
