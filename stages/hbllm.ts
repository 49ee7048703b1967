import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { HaarDraft } from "../codecs/haar/draft.ts";
import { quantizeHaarBlock } from "../codecs/haar/quantize_block.ts";
import { defineStage } from "../pipeline/stage.ts";
import { salientColumnsOf } from "./block_bits.ts";
import { draftOf } from "./draft_of.ts";
import { spreadError } from "./spread_error.ts";

/**
 * The stage that quantizes Haar coefficients of a block (HBLLM), and lets later columns compensate for the
 * error.
 *
 * @see HBLLM, https://arxiv.org/abs/2512.00862
 */
export const hbllm = defineStage({
	name: "hbllm",
	scope: "block",
	summary: "HBLLM: signs and groups of Haar coefficients",
	options: z.strictObject({
		"variant": z.enum(["row", "column"]).default("row").describe(
			"row: transform rows, and pairs of rows in salient columns on top; column: transform pairs " +
				"of rows only, which stores less",
		),
		"candidates": z.int().min(2).max(128).default(41).describe(
			"Number of break-points of each row: quantiles of the magnitude from 0.10 to 0.90",
		),
		"scale": z.enum(["mean", "rms"]).default("mean").describe(
			"Scale of a group: the mean distance from the mean, which has the smaller error, or the root " +
				"mean square (as in the released program)",
		),
		"refine": z.int().min(0).max(100).default(8).describe(
			"Rounds of nearest values and least squares; 0 as published",
		),
		"feedback": z.enum(["block", "column"]).default("column").describe(
			"block: only later blocks compensate for an error (as published); column: also later columns " +
				"in the block",
		),
		"assign": z.enum(["fit", "nearest"]).default("nearest").describe(
			"Sign and group of a coefficient: those of the fit (as published), or those of the nearest value",
		),
		"block-size": z.literal([32, 64, 128, 256]).default(128).describe(
			"Columns that share scales and are quantized together",
		),
	}).refine(({ assign, refine }) => assign === "nearest" || !refine, {
		path: ["refine"],
		message: "must be 0 with assign: fit",
	}).refine(({ assign, feedback }) => assign === "nearest" || feedback === "block", {
		path: ["feedback"],
		message: "must be block with assign: fit",
	}),
	presets: { reference: { scale: "rms", refine: 0, feedback: "block", assign: "fit" } },
	excludes: ["block-error"],
	needs: ["factor"],
	gives: ["block-error"],
	blockSize: (options) => options["block-size"],

	async run(context, { variant, candidates, scale, refine, feedback, assign }) {
		const { gpu, linear, block } = context;
		const { rows, cols } = linear;
		if (rows % 2 || cols % 2) {
			throw new UserError(
				`hbllm pairs rows and columns, but "${linear.name}" has ${rows} x ${cols} weights; ` +
					`use arb or compensate`,
			);
		}
		linear.method = hbllm.name;
		const layout = { rows, cols, blockSize: block.size, axis: variant };
		const draft = draftOf(linear, HaarDraft, () => new HaarDraft(gpu, layout));
		const error = await quantizeHaarBlock(
			gpu,
			{
				first: block.first,
				weight: block.weight,
				salient: salientColumnsOf(context),
				factor: context.get("factor"),
			},
			{
				...{ candidates, scale, rounds: refine },
				nearest: assign === "nearest",
				feedback: feedback === "column",
			},
			draft.linear,
			linear.quantized,
		);
		context.set("block-error", error);
		await spreadError(context, error);
	},
});
