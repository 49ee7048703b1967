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
 * The stage that rounds each weight to the nearest value of its grid, without calibration. After a stage
 * `hessian`, a searched grid weights errors with its diagonal.
 *
 * With grid: range, grids are those of GPTQ's program: asymmetric, from the smallest to the largest weight,
 * with zero as one of the values.
 */
export const rtn = defineQuantizer({
	name: "rtn",
	summary: "Round each weight to the nearest value of a grid",
	options: z.strictObject({
		"bits": bitsOption,
		"group-size": groupSizeOption("row"),
		...levelOptions,
	}).refine(hasGridFor, NO_GRID).refine(hasZerosFor, NO_ZEROS),
	presets: { reference: referenceGrid },
	excludes: NOT_FOR_GRIDS,
	needs: ["model-files"],
	gives: ["block-error"],
	blockSize: blockOfGroup,
	rates: GRID_RATES,

	async run(context, options) {
		const { bits, "group-size": groupSize } = options;
		const levels = levelsOf(options);
		const perRow = groupSize === "row";
		const choice = {
			method: "rtn",
			bits,
			perRow,
			feedback: "none",
			order: "none",
			refit: 0,
		} as const;
		await linearGrid(context, { ...levels, ...choice });
	},
});
