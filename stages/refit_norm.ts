import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { ChannelMoments } from "../gpu/kernels/reduce/channel_moments.ts";
import { norm } from "../gpu/kernels/reduce/norm.ts";
import { hasBias } from "../models/ops/norm.ts";
import { type Calibration, paceBatches } from "../models/calibration.ts";
import { defineStage, type ModelContext } from "../pipeline/stage.ts";

/** The final norm's factors and, if it has them, biases. */
export interface NormFit {
	weight: Float32Array;
	bias?: Float32Array;
}

/**
 * The stage that fits the final norm of the quantized model to the output of the original one, by least
 * squares for each channel. With z the normalized last state of the quantized model and h the output of
 * the original norm:
 *
 *     without bias  weight = E[h z] / E[z²]
 *     with bias     weight = cov(h, z) / var(z)    bias = E[h] - weight E[z]
 *
 * The result takes the place of the original tensors in the packed model.
 */
export const refitNorm = defineStage({
	name: "refit-norm",
	scope: "group",
	summary: "Fit the final norm to the output of the original model",
	options: z.strictObject({}),
	needs: ["calibration"],
	gives: ["outside-tensors"],
	excludes: ["packed-model"],
	original: true,

	async check(context) {
		finalNormOf(context);
	},

	async run() {}, // the norm is behind all layers

	async finish(context) {
		const finalNorm = finalNormOf(context);
		const { module, offset = 0 } = finalNorm;
		const withBias = hasBias(finalNorm);
		const model = context.get("model-files");
		await model.fetchTensors(["weight", "bias"].map((name) => `${module}.${name}`));
		const read = (name: string) => model.checkpoint.readFloat32(`${module}.${name}`);
		const original = {
			weight: read("weight").map((value) => value + offset),
			bias: withBias ? read("bias") : undefined,
		};
		const moments = await momentsOf(context, context.get("calibration"));
		const fit = withBias ? fitLayerNorm(moments, original) : fitScale(moments, original);
		const tensors = new Map(context.find("outside-tensors"));
		tensors.set(`${module}.weight`, fit.weight.map((value) => value - offset));
		if (fit.bias) tensors.set(`${module}.bias`, fit.bias);
		context.set("outside-tensors", tensors);
		const change = changeOf(original.weight, fit.weight);
		context.emit({
			type: "stage",
			stage: "refit-norm",
			text: `"${module}.weight" changed by ${(100 * change).toPrecision(3)} %`,
		});
	},
});

/** |b - a| / |a| */
function changeOf(a: Float32Array, b: Float32Array): number {
	return Math.hypot(...b.map((value, i) => value - a[i])) / Math.hypot(...a);
}

/** @throws {UserError} If the model has no final norm. */
function finalNormOf(context: ModelContext) {
	const { name, architecture } = context.get("model-files");
	if (architecture.finalNorm) return architecture.finalNorm;
	throw new UserError(
		`Cannot refit the final norm of "${name}": the model has none; leave refit-norm out`,
	);
}

/** The moments of the normalized last states of the original model (a) and the quantized one (b). */
async function momentsOf(
	context: ModelContext,
	{ activations, original }: Calibration,
): Promise<ChannelMoments> {
	const { gpu } = context;
	const { kind, width, epsilon } = finalNormOf(context);
	const moments = new ChannelMoments(width);
	using ones = gpu.upload(new Float32Array(width).fill(1), [width]);
	const normalized = async (stream: Calibration["activations"], batch: number) => {
		using hidden = (await stream.load(batch)).get("hidden")!;
		return await norm(gpu, hidden, ones, undefined, epsilon, { center: kind === "layer" });
	};
	for (let batch = 0; batch < activations.batches; batch++) {
		using a = await normalized(original!, batch);
		using b = await normalized(activations, batch);
		await moments.add(gpu, a, b);
		await paceBatches(gpu, batch + 1);
		await context.pause();
	}
	return moments;
}

/**
 * A norm without bias, fitted by least squares.
 *
 * @param moments Those of the normalized states of the original (a) and the quantized model (b).
 * @param original The original norm; channels that are always zero keep its values.
 */
export function fitScale(moments: ChannelMoments, original: NormFit): NormFit {
	const { rows, meanA, meanB, products, squares } = moments;
	return {
		weight: original.weight.map((weight, i) => {
			const fit = (products[i] + rows * meanA[i] * meanB[i]) / (squares[i] + rows * meanB[i] ** 2);
			return Number.isFinite(fit) ? weight * fit : weight;
		}),
	};
}

/** A norm with bias, fitted by least squares, see {@link fitScale}; constant channels keep their weight. */
export function fitLayerNorm(moments: ChannelMoments, original: NormFit): NormFit {
	const { meanA, meanB, products, squares } = moments;
	const weight = original.weight.map((weight, i) => {
		const fit = products[i] / squares[i];
		return Number.isFinite(fit) ? weight * fit : weight;
	});
	const bias = original.bias!.map((bias, i) =>
		original.weight[i] * meanA[i] + bias - weight[i] * meanB[i]
	);
	return { weight, bias };
}
