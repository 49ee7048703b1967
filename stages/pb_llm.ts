import { z } from "zod";
import { defineStage } from "../pipeline/stage.ts";
import { blockGrid } from "./block_grid.ts";
import { blockOfGroup, groupSizeOption, NOT_FOR_GRIDS } from "./grid_options.ts";

/**
 * The stage that stores the most salient weights (unstructured) in eight bits and binarizes the others to
 * plus or minus a scale, column by column with error feedback.
 *
 * Two differences from the released program: it includes the salient weights as zeros when it fits mean
 * and scale of the others, and they are excluded here; and it determines all fits before the first
 * column, while here a scale group is fitted when it is reached.
 *
 * @see PB-LLM, https://arxiv.org/abs/2310.00034
 */
export const pbLlm = defineStage({
	name: "pb-llm",
	scope: "block",
	summary: "Store the most salient weights in 8 bits and binarize the others",
	options: z.strictObject({
		"fraction": z.number().min(0).max(0.5).default(0.1).describe(
			"Fraction of the weights stored in 8 bits",
		),
		"metric": z.enum(["hessian", "magnitude"]).default("hessian").describe(
			"Saliency of a weight: w² / U_jj², or |w|",
		),
		"group-size": groupSizeOption(128),
		"grid": z.enum(["search", "mean"]).default("mean").describe(
			"Scale of the other weights: search: that of least error with the column costs; mean: their mean " +
				"absolute deviation",
		),
		"center": z.enum(["zero", "mean"]).default("zero").describe(
			"Center of the other weights: zero (paper) or their mean (released program)",
		),
		"feedback": z.enum(["none", "block", "column"]).default("column").describe(
			"Later columns that compensate for an error: none, those of later blocks, all",
		),
	}),
	excludes: NOT_FOR_GRIDS,
	needs: ({ metric, feedback }) => [
		...(metric === "hessian" ? ["column-costs"] : []),
		...(feedback !== "none" ? ["factor"] : []),
	],
	gives: ["block-error"],
	blockSize: blockOfGroup,

	async run(context, { fraction, metric, "group-size": groupSize, grid, center, feedback }) {
		await blockGrid(context, {
			method: "pb-llm",
			grid: center === "mean" ? "mean" : "sign",
			bits: 1,
			weighted: grid === "search",
			perRow: groupSize === "row",
			feedback,
			salient: { fraction, metric },
		});
	},
});
