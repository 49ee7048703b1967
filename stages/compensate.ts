import { z } from "zod";
import { defineStage } from "../pipeline/stage.ts";
import { blockBits } from "./block_bits.ts";
import { spreadError } from "./spread_error.ts";

/** Rounds of refinement where the file says nothing: more gain less than another seed does. */
const REFINE = 8;

/**
 * Turns the block into bits and lets the columns to come make up for its error:
 * W[:, later] -= E · U[block, later] with E = (W - Q) / U_jj.
 *
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */
export const compensate = defineStage({
  name: "compensate",
  scope: "block",
  summary: "Let the columns to come make up for each block's error",
  options: z.strictObject({
    "block-size": z.literal([32, 64, 128, 256]).default(128).describe(
      "Columns that share scales and are quantized together",
    ),
    "feedback": z.enum(["block", "column"]).default("column").describe(
      "block: only the blocks to come make up for an error (as the released program does); " +
        "column: also the columns to come in the block",
    ),
    "assign": z.enum(["fit", "nearest"]).default("nearest").describe(
      "The bits of a weight: those that the fit saw, or those of the nearest stored value",
    ),
    "refine": z.int().min(0).max(100).optional().describe(
      "Times that means and scales are moved to fit the bits, and the bits to fit them; " +
        "8 if absent, none with assign: fit",
    ),
  }).refine(({ assign, refine }) => assign === "nearest" || !refine, {
    path: ["refine"],
    message: "must be 0 with assign: fit",
  }),
  presets: { reference: { feedback: "block", assign: "fit" } },
  excludes: ["block-error"],
  needs: ["factor"],
  gives: ["block-error"],
  blockSize: (options) => options["block-size"],

  async run(context, options) {
    const error = await blockBits(context, {
      feedback: options.feedback === "column",
      nearest: options.assign === "nearest",
      refine: options.refine ?? (options.assign === "nearest" ? REFINE : 0),
    });
    await spreadError(context, error);
  },
});
