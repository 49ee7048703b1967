import { z } from "zod";
import { defineStage } from "../pipeline/stage.ts";
import { blockBits } from "./block_bits.ts";

/** The implicit last step of a chain that fits bits to blocks without a stage that stores them. */
export const binarize = defineStage({
	name: "binarize",
	scope: "block",
	summary: "Store the bits of the fits",
	options: z.strictObject({}),
	needs: [],
	gives: ["block-error"],
	completes: "block-error",

	async run(context) {
		await blockBits(context, { feedback: false, nearest: false, refine: 0 });
	},
});
