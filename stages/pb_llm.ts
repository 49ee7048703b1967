import { z } from "zod";
import { defineStage } from "../pipeline/stage.ts";
import { blockGrid } from "./block_grid.ts";
import { blockOfGroup, groupSizeOption, NOT_FOR_GRIDS } from "./grid_options.ts";

/**
 * Keeps the most salient weights, wherever they are, in eight bits and binarizes the others to plus or
 * minus a scale, column by column with error feedback.
 *
 * Two things are not as in the released program: it fits mean and scale of the others as if the salient
 * weights were zeros among them, where they are left out here; and it fixes all of that before the first
 * column, here a group of columns is fitted when it is reached.
 *
 * @see PB-LLM, https://arxiv.org/abs/2310.00034
 */
export const pbLlm = defineStage({
  name: "pb-llm",
  scope: "block",
  summary: "Keep the most salient weights in 8 bits and binarize the others",
  options: z.strictObject({
    "fraction": z.number().min(0).max(0.5).default(0.1).describe(
      "Of the weights that are kept in 8 bits",
    ),
    "metric": z.enum(["hessian", "magnitude"]).default("hessian").describe(
      "Saliency of a weight: w² / U_jj², or |w|",
    ),
    "group-size": groupSizeOption(128),
    "center": z.enum(["zero", "mean"]).default("zero").describe(
      "What the others lie around: zero (the paper), or their mean (the released program)",
    ),
    "feedback": z.enum(["none", "block", "column"]).default("column").describe(
      "Columns to come that make up for an error: none, those of other blocks, all",
    ),
  }),
  excludes: NOT_FOR_GRIDS,
  needs: ({ metric, feedback }) => [
    ...(metric === "hessian" ? ["column-costs"] : []),
    ...(feedback !== "none" ? ["factor"] : []),
  ],
  gives: ["block-error"],
  blockSize: blockOfGroup,

  async run(context, { fraction, metric, "group-size": groupSize, center, feedback }) {
    await blockGrid(context, {
      method: "pb-llm",
      grid: center === "mean" ? "mean" : "sign",
      bits: 1,
      perRow: groupSize === "row",
      feedback,
      salient: { fraction, metric },
    });
  },
});
