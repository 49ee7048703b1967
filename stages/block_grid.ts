import { GridDraft } from "../codecs/grid/draft.ts";
import { fitGrid } from "../codecs/grid/fit_grid.ts";
import { type GridBits, type GridKind, SALIENT_BITS } from "../codecs/grid/grid.ts";
import { markSalient } from "../codecs/grid/mark_salient.ts";
import { quantizeGrid } from "../codecs/grid/quantize_grid.ts";
import { saliency } from "../gpu/kernels/binarize/search.ts";
import type { BlockContext } from "../pipeline/stage.ts";
import { draftOf } from "./draft_of.ts";
import { spreadError } from "./spread_error.ts";

/** The choices of a stage that quantizes weights to grids. */
export interface GridChoice {
	/** The stage's name. */
	method: string;
	grid: GridKind;
	bits: GridBits;
	/** Whether the costs of columns weight errors when a scale is fitted. */
	weighted?: boolean;
	/** Whether all columns of a row share a grid, not those of a block. */
	perRow: boolean;
	/** Which later columns compensate for an error: none, those beyond the block, all. */
	feedback: "none" | "block" | "column";
	/** Selection of the weights with more bits; none if absent. */
	salient?: {
		/** Fraction of the weights that share a grid, over all rows. */
		fraction: number;
		metric: "hessian" | "magnitude";
	};
}

/**
 * Quantizes the weights of a block to grids, and sets "block-error".
 *
 * A grid and its salient weights are determined when its first column is reached, from the weights as
 * compensated so far. Salient weights use the range of their row before any compensation.
 */
export async function blockGrid(context: BlockContext, choice: GridChoice): Promise<void> {
	const { gpu, linear, block } = context;
	const { method, grid, bits, weighted, perRow, feedback, salient } = choice;
	const { rows, cols } = linear;
	linear.method = method;
	const layout = {
		rows,
		cols,
		groupSize: perRow ? cols : block.size,
		grid,
		bits,
		salient: salient !== undefined,
	};
	const { codes } = draftOf(linear, GridDraft, () => new GridDraft(gpu, layout));
	const { fits, mask, salientFits } = codes;
	const isFirst = block.first === 0;
	if (salientFits && isFirst) {
		const range = { grid: "range", bits: SALIENT_BITS } as const;
		await fitGrid(gpu, { ...range, weight: linear.weight, fits: salientFits });
	}
	const group = perRow ? 0 : block.first / block.size;
	if (isFirst || !perRow) {
		const weight = perRow ? linear.weight : block.weight;
		if (salient && mask) {
			const isCostly = salient.metric === "hessian";
			using squares = isCostly
				? await saliency(gpu, weight, perRow ? context.get("column-costs") : block.costs)
				: undefined;
			await markSalient(gpu, squares ?? weight, salient.fraction, mask, block.first);
		}
		const costs = !weighted ? undefined : perRow ? context.find("column-costs") : block.costs;
		await fitGrid(gpu, { grid, bits, weight, mask, first: block.first, costs, fits, group });
	}
	const input = {
		first: block.first,
		weight: block.weight,
		group,
		factor: context.find("factor"),
		feedback: feedback === "column",
	};
	const error = await quantizeGrid(gpu, input, codes, linear.quantized);
	context.set("block-error", error);
	if (feedback !== "none") await spreadError(context, error);
}
