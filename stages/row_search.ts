import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { BillmDraft } from "../codecs/billm/draft.ts";
import { canSearch, searchBits } from "../codecs/billm/search.ts";
import { dampedHessian } from "../gpu/kernels/hessian/hessian.ts";
import { defineStage } from "../pipeline/stage.ts";
import { hbllm } from "./hbllm.ts";
import { searchOperations } from "./run_needs.ts";
import { formText } from "./block_bits.ts";

/** The bits of codes of means and scales. */
const SCALE_BITS = { f16: undefined, i8: 8, i4: 4 } as const;

/**
 * The stage that improves the means, scales and bits of whole rows after all blocks are quantized, in the
 * loss tr(E H Eᵀ) with E = W - Q: refits each block's means and scales, moves single weights to better
 * values (coordinate descent), and changes bits of a row even uphill, keeping the best (tabu search).
 * The stored form does not change. The bits of arb and hbllm get the tabu search alone, with their scales
 * as they are.
 */
export const rowSearch = defineStage({
	name: "row-search",
	scope: "linear",
	summary: "Refit means and scales and search better bits over whole rows",
	options: z.strictObject({
		"rounds": z.int().min(1).max(20).default(1).describe(
			"Rounds of refits and coordinate descent, each followed by tabu search",
		),
		"sweeps": z.int().min(1).max(20).default(2).describe(
			"Refits and coordinate descent of each block per round; those of arb and hbllm have none",
		),
		"moves": z.number().min(0).max(8).default(0.5).describe(
			"Moves of the tabu search per column and round; 0 for none",
		),
		"damping": z.number().min(0).max(10).default(0.01).describe(
			"Added to the diagonal of the Hessian, as a fraction of its mean",
		),
		"scales": z.enum(["f16", "i8", "i4"]).default("f16").describe(
			"The form of means and scales for a last search of the bits: i4 where pack stores them so",
		),
	}),
	needs: ["hessian", "block-error"],
	gives: [],
	excludes: ["packed-model"],
	work: ({ rounds, sweeps, moves }, shape) => searchOperations({ rounds, sweeps, moves }, shape),

	check({ stages }) {
		// Before any long work; what the bits are like shows when they are there.
		const known = stages.some(({ stage }) => stage.gives.includes("zones") || stage === hbllm);
		if (known) return Promise.resolve();
		throw new UserError("row-search needs two zones: put split-search before it, or use hbllm");
	},

	async run(context, { rounds, sweeps, moves, damping, scales }) {
		const { gpu, linear } = context;
		const { draft, original, quantized } = linear;
		if (draft?.search) {
			using damped = await dampedHessian(gpu, context.get("hessian"), damping);
			const matrices = { target: original, hessian: damped, quantized };
			await draft.search({ ...matrices, rounds, moves, pause: () => context.pause() });
			return;
		}
		if (!(draft instanceof BillmDraft)) {
			throw new UserError(
				`row-search needs the bits of split-search and compensate, arb or hbllm; ` +
					`"${linear.name}" is ${draft ? `quantized as "${draft.codec.name}"` : "not quantized"}`,
			);
		}
		if (!canSearch(draft.bits)) {
			throw new UserError(
				`row-search needs 2 zones, and 2 planes of salient columns or none; the bits of ` +
					`"${linear.name}" have ${
						formText(draft.bits)
					}. Set planes of residual-binarize to 2, or ` +
					`leave out salient-select`,
			);
		}
		using damped = await dampedHessian(gpu, context.get("hessian"), damping);
		await searchBits(
			gpu,
			original,
			damped,
			draft.bits,
			quantized,
			{ rounds, sweeps, moves, scaleBits: SCALE_BITS[scales] },
			() => context.pause(),
		);
	},
});
