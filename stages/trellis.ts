import { z } from "zod";
import { dequantizeTrellis } from "../codecs/trellis/dequantize_trellis.ts";
import { TrellisDraft } from "../codecs/trellis/draft.ts";
import { fitRowScales, rowSpreads } from "../codecs/trellis/row_fits.ts";
import { tileErrors } from "../codecs/trellis/tile_errors.ts";
import { trellisBytes } from "../codecs/trellis/store.ts";
import { hasTable, STATE_BITS, TILE, TRELLIS_BITS } from "../codecs/trellis/trellis.ts";
import { searchTiles, searchWork } from "../codecs/trellis/viterbi.ts";
import { gatherColumns } from "../gpu/kernels/elementwise/gather.ts";
import { dampedHessian } from "../gpu/kernels/hessian/hessian.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { defineQuantizer } from "../pipeline/quantizer.ts";
import { draftOf } from "./draft_of.ts";
import { NOT_FOR_GRIDS } from "./grid_options.ts";
import { spreadErrorFrom } from "./spread_error.ts";

/** Distances after which queued work is submitted: a fraction of a second on a slow GPU, some on a CPU. */
const [WORK, WORK_ON_CPU] = [2 ** 35, 2 ** 28];

/**
 * The stage that encodes tiles of 16 x 16 weights as walks through a trellis, 16 columns after the other;
 * later columns compensate for the error: W[:, later] -= (W - Q) · U_gg⁻¹ · U[g, later]. At the end each
 * row gets the scale that minimizes the output error.
 *
 * @see QTIP, https://arxiv.org/abs/2406.11235
 */
export const trellis = defineQuantizer({
	name: "trellis",
	summary: "Encode tiles of weights as walks through a trellis; later columns compensate",
	options: z.strictObject({
		"bits": z.literal([...TRELLIS_BITS]).default(2).describe("Bits per weight"),
		"table": z.literal([...STATE_BITS]).default(12).describe(
			"Bits of a state, log2 of the entries of the table: 12, or for 1 and 2 bits also 8, with a " +
				"somewhat larger error in a fraction of the time",
		),
		"order": z.enum(["none", "falling"]).default("falling").describe(
			"Order of the columns: none: as they are; falling: by falling diagonal of the Hessian, which " +
				"is stored",
		),
		"damping": z.number().min(0).max(10).default(0.01).describe(
			"Added to the diagonal of the Hessian when scales are fitted, as a fraction of its mean",
		),
	}).refine(
		({ bits, table }) => hasTable({ bits, stateBits: table }),
		{ path: ["table"], message: "must be 12 with bits other than 1 and 2" },
	),
	needs: ({ order }) => order === "none" ? ["hessian", "factor"] : ["hessian", "ordered-factor"],
	gives: ["block-error"],
	excludes: NOT_FOR_GRIDS,
	rates: {
		option: "bits",
		values: ({ table }) => TRELLIS_BITS.filter((bits) => hasTable({ bits, stateBits: table })),
		bytes: ({ bits, table, order }, shape) =>
			trellisBytes({ ...shape, bits, stateBits: table }, order === "falling"),
	},
	/** As measured at 2 bits: the search takes 3.5 ns per weight where products reach 42 TFLOP/s. */
	work: (_options, { rows, cols }) => 150_000 * rows * cols,

	async run(context, { bits, table, order, damping }) {
		const { gpu, linear } = context;
		const { rows, cols } = linear;
		linear.method = "trellis";
		const layout = { rows, cols, bits, stateBits: table };
		const { tensors } = draftOf(linear, TrellisDraft, () => new TrellisDraft(gpu, layout));
		using temporary = new DisposableStack();
		const own = (tensor: Tensor) => temporary.use(tensor);

		const columnOrder = order === "falling" ? context.get("column-order") : undefined;
		const factor = context.get(columnOrder ? "ordered-factor" : "factor");
		if (columnOrder) tensors.order = gpu.clone(columnOrder);
		const weight = columnOrder
			? own(await gatherColumns(gpu, linear.weight, columnOrder))
			: linear.weight;
		const spread = own(await rowSpreads(gpu, weight));
		const values = own(gpu.empty([rows, cols]));
		let queued = 0;
		for (let first = 0; first < cols; first += TILE) {
			const { stream } = tensors;
			await searchTiles(gpu, { trellis: layout, weight, spread, first, values, stream });
			if (first + TILE < cols) {
				using error = await tileErrors(gpu, first, { weight, values, spread, factor });
				await spreadErrorFrom(first, error, { weight, factor });
			}
			queued += searchWork(layout, rows);
			if (queued < (gpu.software ? WORK_ON_CPU : WORK)) continue;
			queued = 0;
			gpu.flush();
			await context.pause();
		}
		await fitRowScales(gpu, {
			weight: linear.original,
			values: columnOrder
				? own(await gatherColumns(gpu, values, context.get("column-places")))
				: values,
			hessian: own(await dampedHessian(gpu, context.get("hessian"), damping)),
			scales: tensors.scales,
		});
		await dequantizeTrellis(gpu, tensors, linear.quantized);
	},
});
