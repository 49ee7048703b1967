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
 * Rounds one column after the other to its grid, and lets the columns to come make up for the error:
 * W[:, later] -= E · U[column, later] with E = (W - Q) / U_jj. A group's grid is found from the weights
 * as they are when its first column is reached.
 *
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */
export const gptq = defineStage({
  name: "gptq",
  scope: "block",
  summary: "Round to a grid column by column, later columns make up for the error",
  options: z.strictObject({
    "bits": bitsOption,
    "group-size": groupSizeOption(128),
    "grid": gridOption,
    "feedback": z.enum(["block", "column"]).default("column").describe(
      "block: only the blocks to come make up for an error (as the released BiLLM program has it); " +
        "column: also the columns to come in the block",
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
