import { z } from "zod";
import { defineStage } from "../pipeline/stage.ts";
import { blockBits } from "./block_bits.ts";
import { spreadError } from "./spread_error.ts";

/** Default rounds of refinement: more rounds gain less than the variation between seeds. */
const REFINE = 8;

/**
 * The stage that quantizes a block to bits and lets later columns compensate for its error:
 * W[:, later] -= E · U[block, later] with E = (W - Q) / U_jj.
 *
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */
export const compensate = defineStage({
	name: "compensate",
	scope: "block",
	summary: "Let later columns compensate for each block's error",
	options: z.strictObject({
		"block-size": z.literal([32, 64, 128, 256]).default(128).describe(
			"Columns that share scales and are quantized together",
		),
		"feedback": z.enum(["block", "column"]).default("column").describe(
			"block: only later blocks compensate for an error (as in the released program); " +
				"column: also later columns in the block",
		),
		"assign": z.enum(["fit", "nearest"]).default("nearest").describe(
			"Bits of a weight: those of the fit, or those of the nearest stored value",
		),
		"refine": z.int().min(0).max(100).optional().describe(
			"Rounds of refitting means and scales to the bits, and the bits to them; " +
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
