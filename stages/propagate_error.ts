import { z } from "zod";
import { accumulateCrossTerm, correction } from "../gpu/kernels/hessian/cross_term.ts";
import { mirrorUpper } from "../gpu/kernels/hessian/hessian.ts";
import { changeParts, relativeError } from "../gpu/kernels/reduce/output_error.ts";
import { defineStage, type GroupContext } from "../pipeline/stage.ts";
import { factorSafely } from "./factor.ts";

/** The calibration batches of a group that were observed. */
const observed = new WeakMap<GroupContext, number>();

/** The number of batches, the first ones, that a cross term is computed from. */
function usedBatches(batches: number, share: number): number {
	return Math.max(1, Math.round(batches * share));
}

/**
 * The stage that changes the weights before they are quantized, so that they make up for the error of
 * what is quantized before them: with x the input in the original model and xq that behind the quantized
 * linear layers, W* xq approximates W x.
 *
 *     C = (2 / sequences) Σ (x - xq) xqᵀ
 *     W* = W + strength · W C (H + damping · mean(diagonal of H) · I)⁻¹
 *
 * With strength 1 and no damping that is the solution by least squares, which overfits. C and H are those
 * of the same batches: sampling errors of a C of fewer batches than H would not cancel.
 *
 * @see Quantization error propagation, https://arxiv.org/abs/2504.09629
 * @see GPTAQ's asymmetric calibration, https://arxiv.org/abs/2504.02692
 */
export const propagateError = defineStage({
	name: "propagate-error",
	scope: "group",
	summary: "Correct weights for the error of the linear layers quantized before them",
	options: z.strictObject({
		"strength": z.number().min(0).max(1).default(0.75).describe(
			"The part of the correction that is applied",
		),
		"damping": z.number().min(0).max(10).default(0.1).describe(
			"Added to the diagonal of the Hessian, as a fraction of its mean",
		),
		"share": z.number().gt(0).max(1).default(0.4).describe(
			"The part of the calibration batches that the correction is computed from; less is faster",
		),
	}),
	needs: ["calibration", "hessian"],
	gives: ["cross-term", "cross-hessian"],
	excludes: ["block-error", "packed-model"],
	original: true,

	async observe(context, { share }, input, original) {
		if (original === undefined || original === input) return;
		const { gpu } = context;
		const batch = observed.get(context) ?? 0;
		observed.set(context, batch + 1);
		const { batches: { length }, sequences } = context.get("calibration");
		const used = usedBatches(length, share);
		if (batch >= used) return;
		const [, n] = input.shape;
		let cross = context.find("cross-term");
		if (!cross) context.set("cross-term", cross = gpu.zeros([n, n]));
		await accumulateCrossTerm(gpu, original, input, cross, 2 / sequences);
		if (batch !== used - 1 || used === length) return;
		const hessian = context.find("hessian");
		if (hessian) context.set("cross-hessian", gpu.clone(hessian));
	},

	async run(context, { strength, damping }) {
		const { gpu, linears } = context;
		const cross = context.find("cross-term");
		if (!cross) return; // nothing is quantized before the group
		const part = context.find("cross-hessian");
		if (part) await mirrorUpper(gpu, part);
		const { factor, cost } = await factorSafely(context, part ?? context.get("hessian"), damping);
		gpu.free(cost);
		const rows = linears.reduce((sum, { rows }) => sum + rows, 0);
		using corrected = await correction(gpu, cross, factor, rows, strength);
		for (const linear of linears) {
			using weight = await corrected.apply(linear.original);
			using parts = await changeParts(gpu, weight, linear.original);
			for (const target of [linear.original, linear.weight]) gpu.copy(weight, target);
			linear.correction = Math.sqrt(await relativeError(parts));
		}
		gpu.free(factor);
	},
});
