import { z } from "zod";
import { constant } from "../gpu/constant.ts";
import {
	columnOrder,
	markColumns,
	MAX_BLOCK,
	saliency,
	selectSalientColumns,
} from "../gpu/kernels/binarize/search.ts";
import { defineStage } from "../pipeline/stage.ts";

/**
 * The stage that selects the salient columns of a block, which get more than one bit: the most salient
 * ones, in the number that minimizes the error when they and the others are binarized separately.
 *
 * @see BiLLM, "salient weight selection", https://arxiv.org/abs/2402.04291
 */
export const salientSelect = defineStage({
	name: "salient-select",
	scope: "block",
	summary: "Select the salient columns of each block",
	options: z.strictObject({
		"metric": z.enum(["hessian", "magnitude"]).default("hessian").describe(
			"Saliency of a weight: w² / U_jj², or |w|",
		),
		"max-columns": z.int().min(1).max(64).default(49).describe(
			"Maximum number of salient columns per block",
		),
		"columns": z.int().min(1).max(64).optional().describe(
			"The number of salient columns per block, without a search; searched if absent",
		),
		"norm": z.enum(["l1", "l2"]).default("l1").describe(
			"Order of the columns: by the sum of the saliencies, or by that of their squares (HBLLM)",
		),
		"search": z.enum(["saliency", "weight"]).default("weight").describe(
			"Objective of the search: the error of the saliencies (as in the released program), " +
				"or the error of the weights, weighted by 1 / U_jj²",
		),
	}),
	presets: { reference: { search: "saliency" } },
	excludes: ["block-error"],
	needs: (options) => ["calibration", ...(options.metric === "hessian" ? ["column-costs"] : [])],
	gives: ["salient-columns", "saliency"],

	async run(context, options) {
		const { gpu, block } = context;
		const { metric } = options;
		using order = await columnOrder(gpu, block.weight, block.costs, metric, options.norm);
		if (options.columns) {
			const count = Math.min(options.columns, block.cols - 1);
			context.set("salient-columns", await markColumns(gpu, order, count));
		}
		let values = block.weight;
		let costs = block.costs;
		if (options.search === "saliency") {
			// The released program calls |w| itself the saliency under "magnitude".
			if (metric === "hessian") values = await saliency(gpu, block.weight, block.costs);
			costs = constant(gpu, new Float32Array(MAX_BLOCK).fill(1));
			context.set("saliency", values === block.weight ? values.view(0, values.shape) : values);
		}
		if (options.columns) return;
		context.set(
			"salient-columns",
			await selectSalientColumns(gpu, values, order, costs, options["max-columns"]),
		);
	},
});
