import { z } from "zod";
import { ArbDraft } from "../codecs/arb/draft.ts";
import { fitArbRows, fitArbScales } from "../codecs/arb/fit_scales.ts";
import { storeArbBlock } from "../codecs/arb/store_block.ts";
import { constant } from "../gpu/constant.ts";
import { splitSalient } from "../gpu/kernels/binarize/salient_zones.ts";
import { MAX_BLOCK } from "../gpu/kernels/binarize/search.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { type BlockContext, defineStage } from "../pipeline/stage.ts";
import { saliencyOf, salientColumnsOf } from "./block_bits.ts";
import { draftOf } from "./draft_of.ts";
import { spreadError } from "./spread_error.ts";

/** Candidates for the zones of salient columns. */
const PROBABILITIES = Array.from({ length: 81 }, (_, i) => 0.1 + 0.8 * i / 80);

/**
 * The stage that refines scales and bits of a block in turns (ARB-LLM), and lets later columns compensate
 * for the error.
 *
 * @see ARB-LLM, https://arxiv.org/abs/2410.03129
 */
export const arb = defineStage({
	name: "arb",
	scope: "block",
	summary: "ARB-LLM: refine scales and bits in turns",
	options: z.strictObject({
		"variant": z.enum(["rc", "x"]).default("rc").describe(
			"rc: scales of rows times scales of columns; x: means and scales of rows, at last fitted to the " +
				"output of the block on the calibration data",
		),
		"group-bitmap": z.boolean().default(true).describe(
			"Whether salient columns are split into two zones, too (the column-group bitmap)",
		),
		"iterations": z.int().min(0).max(100).default(15).describe("Rounds of refinement"),
		"block-size": z.literal([32, 64, 128, 256]).default(128).describe(
			"Columns that share scales of a row and are quantized together",
		),
		"search": z.enum(["saliency", "weight"]).default("weight").describe(
			"Objective of the zones of salient columns: the error of the saliencies, or of the weights, " +
				"weighted by 1 / U_jj²",
		),
		"feedback": z.enum(["block", "column"]).default("column").describe(
			"block: only later blocks compensate for an error (as published); column: also later columns " +
				"in the block",
		),
		"assign": z.enum(["fit", "nearest"]).default("nearest").describe(
			"fit: zones do not change, and errors of all columns count alike (as published); nearest: a " +
				"weight takes the nearest value of any zone, and errors are weighted by 1 / U_jj²",
		),
	}),
	presets: { reference: { search: "saliency", feedback: "block", assign: "fit" } },
	excludes: ["block-error"],
	needs: (options) => [
		"factor",
		"zones",
		...(options.variant === "x" ? ["hessian"] : []),
		...(options["group-bitmap"] && options.search === "saliency" ? ["saliency"] : []),
	],
	gives: ["block-error"],
	blockSize: (options) => options["block-size"],

	async run(context, options) {
		const { variant, iterations, search, feedback, assign, "group-bitmap": bitmap } = options;
		const { gpu, linear, block } = context;
		const { rows, cols } = linear;
		linear.method = arb.name;
		const salient = salientColumnsOf(context);
		const ones = constant(gpu, new Float32Array(MAX_BLOCK).fill(1)).view(0, [block.cols]);
		const layout = { rows, cols, blockSize: block.size, columnScales: variant === "rc", bitmap };
		const draft = draftOf(linear, ArbDraft, () => new ArbDraft(gpu, layout));
		const own = context.get("zones");
		using zones = bitmap
			? await allZones(context, salient, search === "saliency", ones)
			: own.view(0, own.shape);
		const nearest = assign === "nearest";
		const costs = nearest ? block.costs : ones;
		const { weight } = block;
		const input = { weight, salient, costs, zones, bitmap, size: block.size };
		const fit = variant === "rc"
			? await fitArbScales(gpu, input, iterations, nearest)
			: await fitArbRows(gpu, input, context.get("hessian"), block.first, iterations, nearest);
		const error = await storeArbBlock(
			gpu,
			{
				...{ first: block.first, weight, salient, zones, fit, nearest },
				factor: context.get("factor"),
				feedback: feedback === "column",
			},
			draft.linear,
			linear.quantized,
		);
		gpu.free(fit.signs, fit.rowFits, fit.colScales);
		context.set("block-error", error);
		await spreadError(context, error);
	},
});

/** The zones of ordinary columns with those of salient ones, owned by the caller. */
async function allZones(
	context: BlockContext,
	salient: Tensor,
	bySaliency: boolean,
	ones: Tensor,
): Promise<Tensor> {
	const { gpu, block } = context;
	const values = bySaliency ? await saliencyOf(context) : block.weight;
	const costs = bySaliency ? ones : block.costs;
	const zones = context.get("zones");
	return await splitSalient(gpu, values, salient, costs, PROBABILITIES, zones, block.size);
}
