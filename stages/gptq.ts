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
 * The stage that rounds weights to a grid column by column and lets later columns compensate for the
 * error: W[:, later] -= E · U[column, later] with E = (W - Q) / U_jj. The grid of a scale group is
 * determined from the weights as compensated when its first column is reached.
 *
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */
export const gptq = defineStage({
  name: "gptq",
  scope: "block",
  summary: "Round to a grid column by column; later columns compensate for the error",
  options: z.strictObject({
    "bits": bitsOption,
    "group-size": groupSizeOption(128),
    "grid": gridOption,
    "feedback": z.enum(["block", "column"]).default("column").describe(
      "block: only later blocks compensate for an error (as in the released BiLLM program); " +
        "column: also later columns in the block",
    ),
  }).refine(hasGridFor, NO_GRID),
  presets: { reference: { feedback: "block" } },
  excludes: NOT_FOR_GRIDS,
  needs: ["factor"],
  gives: ["block-error"],
  blockSize: blockOfGroup,

  async run(
    context,
    { bits, grid = bits === 1 ? "mean" : "range", "group-size": groupSize, feedback },
  ) {
    await blockGrid(context, { method: "gptq", grid, bits, perRow: groupSize === "row", feedback });
  },
});
