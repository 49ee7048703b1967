import { z } from "zod";
import { defineStage } from "../pipeline/stage.ts";
import { blockGrid } from "./block_grid.ts";
import {
  bitsOption,
  blockOfGroup,
  gridOption,
  groupSizeOption,
  hasGridFor,
  NO_GRID,
  NOT_FOR_GRIDS,
} from "./grid_options.ts";

/**
 * The stage that rounds each weight to the nearest value of its grid, without calibration.
 *
 * Grids are those of GPTQ's program: asymmetric, from the smallest to the largest weight, with zero as one
 * of the values.
 */
export const rtn = defineStage({
  name: "rtn",
  scope: "block",
  summary: "Round each weight to the nearest value of a grid",
  options: z.strictObject({
    "bits": bitsOption,
    "group-size": groupSizeOption("row"),
    "grid": gridOption,
  }).refine(hasGridFor, NO_GRID),
  excludes: NOT_FOR_GRIDS,
  needs: ["model-files"],
  gives: ["block-error"],
  blockSize: blockOfGroup,

  async run(context, { bits, grid = bits === 1 ? "mean" : "range", "group-size": groupSize }) {
    const perRow = groupSize === "row";
    await blockGrid(context, { method: "rtn", grid, bits, perRow, feedback: "none" });
  },
});
