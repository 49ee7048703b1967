import { z } from "zod";
import { constant } from "../gpu/constant.ts";
import { fitZones } from "../gpu/kernels/binarize/fit_rows.ts";
import { MAX_BLOCK, splitZones } from "../gpu/kernels/binarize/search.ts";
import { splitByOutput } from "../gpu/kernels/binarize/split_output.ts";
import { quantiles } from "../gpu/kernels/reduce/quantile.ts";
import { defineStage } from "../pipeline/stage.ts";
import { saliencyOf, salientColumnsOf } from "./block_bits.ts";

/**
 * The stage that splits the weights of the other columns into a low and a high zone, one bit plane each,
 * at the break-point with the smallest error.
 *
 * @see BiLLM, "optimal splitting for binarization", https://arxiv.org/abs/2402.04291
 */
export const splitSearch = defineStage({
	name: "split-search",
	scope: "block",
	summary: "Split the other weights into a low and a high zone",
	options: z.strictObject({
		"candidates": z.int().min(2).max(128).default(81).describe(
			"Number of break-points: quantiles of the magnitude from 0.10 to 0.90",
		),
		"search": z.enum(["saliency", "weight", "output"]).default("weight").describe(
			"Objective of the search: the error of the saliencies (as in the released program), " +
				"the error of the weights, weighted by 1 / U_jj², or the error of the saliencies, weighted by " +
				"the calibration data (ARB-X)",
		),
	}),
	presets: { reference: { search: "saliency" } },
	excludes: ["block-error"],
	needs: ({ search }) => [
		"calibration",
		...(search === "weight" ? [] : ["saliency"]),
		...(search === "output" ? ["hessian"] : []),
	],
	gives: ["zones", "zone-fits"],

	async run(context, options) {
		const { gpu, block } = context;
		const salient = salientColumnsOf(context);
		const bySaliency = options.search !== "weight";
		const values = bySaliency ? await saliencyOf(context) : block.weight;
		const costs = bySaliency ? constant(gpu, new Float32Array(MAX_BLOCK).fill(1)) : block.costs;
		const last = options.candidates - 1;
		const probabilities = Array.from({ length: last + 1 }, (_, i) => 0.1 + 0.8 * i / last);
		using threshold = await quantiles(gpu, values, salient, probabilities);
		const zones = options.search === "output"
			? await splitByOutput(gpu, values, salient, context.get("hessian"), block.first, threshold)
			: await splitZones(gpu, values, salient, costs, threshold);
		context.set("zones", zones);
		context.set("zone-fits", await fitZones(gpu, block.weight, salient, zones));
	},
});
