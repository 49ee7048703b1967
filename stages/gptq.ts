import { z } from "zod";
import { defineQuantizer } from "../pipeline/quantizer.ts";
import {
	bitsOption,
	blockOfGroup,
	GRID_RATES,
	groupSizeOption,
	hasGridFor,
	hasZerosFor,
	levelOptions,
	levelsOf,
	NO_GRID,
	NO_ZEROS,
	NOT_FOR_GRIDS,
	referenceGrid,
} from "./grid_options.ts";
import { linearGrid } from "./linear_grid.ts";

/**
 * The stage that rounds weights to a grid column by column and lets later columns compensate for the
 * error: W[:, later] -= E · U[column, later] with E = (W - Q) / U_jj. The grid of a scale group is
 * determined from the weights as compensated when its first column is reached, except with order: static.
 *
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */
export const gptq = defineQuantizer({
	name: "gptq",
	summary: "Round to a grid column by column; later columns compensate for the error",
	options: z.strictObject({
		"bits": bitsOption,
		"group-size": groupSizeOption(128),
		...levelOptions,
		"order": z.enum(["none", "falling", "static"]).default("static").describe(
			"Order of the columns: none: as they are; falling: by falling diagonal of the Hessian, with " +
				"scale groups in this order, which is stored; static: in the same order, with scale groups of " +
				"adjacent columns, whose grids are found beforehand",
		),
		"feedback": z.enum(["block", "column"]).default("column").describe(
			"block: only later blocks compensate for an error (as in the released BiLLM program); " +
				"column: also later columns in the block",
		),
		"refit": z.int().min(0).max(100).default(0).describe(
			"Rounds in which scales are refitted to the output error after all columns; not with grid: mean",
		),
	}).refine(hasGridFor, NO_GRID).refine(hasZerosFor, NO_ZEROS).refine(
		(options) => options.refit === 0 || levelsOf(options).grid === "range",
		{ path: ["refit"], message: "must be 0 with grid: mean" },
	),
	presets: {
		reference: (written) => ({
			feedback: "block",
			order: "none",
			refit: 0,
			...referenceGrid(written),
		}),
	},
	excludes: NOT_FOR_GRIDS,
	needs: ({ order }) => order === "none" ? ["factor"] : ["ordered-factor"],
	gives: ["block-error"],
	blockSize: blockOfGroup,
	rates: GRID_RATES,

	async run(context, options) {
		const { bits, "group-size": groupSize, feedback, order, refit } = options;
		const levels = levelsOf(options);
		const perRow = groupSize === "row";
		await linearGrid(context, { method: "gptq", ...levels, bits, perRow, feedback, order, refit });
	},
});
