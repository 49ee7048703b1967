import { z } from "zod";
import { fitSalient } from "../gpu/kernels/binarize/fit_rows.ts";
import { defineStage } from "../pipeline/stage.ts";

/**
 * The stage that fits the salient columns of a block with several bit planes: each plane fits the residual
 * of the planes before it.
 *
 * @see BiLLM, "binary residual approximation", https://arxiv.org/abs/2402.04291
 */
export const residualBinarize = defineStage({
	name: "residual-binarize",
	scope: "block",
	summary: "Fit the salient columns with several bit planes",
	options: z.strictObject({
		"planes": z.int().min(1).max(4).default(2).describe("Bits per salient weight"),
	}),
	excludes: ["block-error"],
	needs: ["salient-columns"],
	gives: ["salient-fit"],

	async run(context, { planes }) {
		const { gpu, block } = context;
		const salient = context.get("salient-columns");
		context.set("salient-fit", await fitSalient(gpu, block.weight, salient, planes));
	},
});
