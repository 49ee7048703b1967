import { z } from "zod";
import { defineStage } from "../pipeline/stage.ts";
import { blockGrid } from "./block_grid.ts";
import { blockOfGroup, groupSizeOption, NOT_FOR_GRIDS } from "./grid_options.ts";

/**
 * The stage that replaces each weight by its sign times the mean magnitude of its row, without calibration.
 *
 * @see XNOR-Net, https://arxiv.org/abs/1603.05279
 */
export const sign = defineStage({
	name: "sign",
	scope: "block",
	summary: "Replace each weight by its sign times the mean magnitude of its row",
	options: z.strictObject({ "group-size": groupSizeOption("row") }),
	excludes: NOT_FOR_GRIDS,
	needs: ["model-files"],
	gives: ["block-error"],
	blockSize: blockOfGroup,

	async run(context, { "group-size": groupSize }) {
		const perRow = groupSize === "row";
		await blockGrid(context, { method: "sign", grid: "sign", bits: 1, perRow, feedback: "none" });
	},
});
