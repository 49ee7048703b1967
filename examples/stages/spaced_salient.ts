// Is the saliency worth its Hessian? Takes evenly spaced columns instead of the most salient ones.
import { defineStage, z } from "../../mod.ts";

export default defineStage({
	name: "spaced-salient",
	scope: "block",
	summary: "Take evenly spaced columns as the salient ones",
	options: z.strictObject({ columns: z.int().min(1).max(32).default(8).describe("How many") }),
	needs: [],
	gives: ["salient-columns"],

	async run({ gpu, block, set }, { columns }) {
		const mask = new Uint32Array(block.cols);
		for (let i = 0; i < columns; i++) mask[Math.floor(i * block.cols / columns)] = 1;
		set("salient-columns", gpu.upload(mask, [block.cols]));
	},
});
