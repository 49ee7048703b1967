import { UserError } from "../../base/errors.ts";
import type { Gpu } from "../../gpu/device.ts";
import { embed } from "../../gpu/kernels/elementwise/embed.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { Activations } from "../activations.ts";
import { paceBatches } from "../calibration.ts";
import { Decoder } from "../decoder.ts";
import { activationBytes, streamWidth } from "../memory_plan.ts";
import type { ModelFiles } from "../model_files.ts";
import { runLayers } from "./layer_pass.ts";
import { batchPrompts, type Prompt, type PromptBatch, uploadBatch } from "./prompt_batch.ts";

/** The options of {@link logLikelihoods}. */
export interface LogLikelihoodOptions {
	/** Tokens that go through a layer together. */
	batchTokens?: number;
	/** Whether the shared prefix of a group's prompts is computed once; true if absent. */
	shares?: boolean;
	/** Called after each batch of each layer. */
	onProgress?(done: number, total: number): Promise<void>;
}

/** The least number of batches of a pass through the layers, even if they spill to host memory. */
const BATCHES_PER_PASS = 16;

/**
 * The log-likelihoods of prompts, each the sum over its scored tokens, in nats. Runs layer by layer, so
 * that one layer's weights are on the GPU at a time; in several passes if GPU memory does not hold the
 * activations of all prompts. The head multiplies only the rows that predict a scored token.
 *
 * @param groups Prompts with a common prefix belong to one group.
 * @returns The log-likelihoods of each group's prompts.
 * @throws {UserError} If the model cannot be read, a prompt exceeds the model's maximum length, or a
 *   result is NaN or infinite.
 */
export async function logLikelihoods(
	gpu: Gpu,
	model: ModelFiles,
	groups: readonly (readonly Prompt[])[],
	{ batchTokens = 8192, shares, onProgress }: LogLikelihoodOptions = {},
): Promise<number[][]> {
	using decoder = new Decoder(gpu, model);
	const batches = batchPrompts(groups, {
		tokens: batchTokens,
		shares,
		kindOf: (length) => decoder.positionsOf(length),
	});
	const work = { batchTokens: Math.max(...batches.map(tokensOf)) };
	const tokens = batches.reduce((sum, batch) => sum + tokensOf(batch), 0);
	const gpuBytes = await activationBytes(gpu, model, tokens, work);
	const passes = passesOf(batches, gpuBytes / (4 * streamWidth(model)) / tokens);
	const total = batches.length * (model.architecture.layers + decoder.head.parts);
	let done = 0;
	const progress = async () => {
		await paceBatches(gpu, ++done);
		await onProgress?.(done, total);
	};
	const results = groups.map((prompts) => new Array<number>(prompts.length));
	for (const batches of passes) {
		const losses = await lossesOf(decoder, batches, gpuBytes, progress);
		for (const [i, { prompts }] of batches.entries()) {
			let first = 0;
			for (const { group, prompt, scored } of prompts) {
				const own = losses[i].subarray(first, first += scored);
				results[group][prompt] = -own.reduce((sum, loss) => sum + loss, 0);
			}
		}
	}
	if (!results.flat().every(Number.isFinite)) {
		throw new UserError(
			`The log-likelihoods of "${model.name}" are not all numbers: ` +
				`activations exceed what f32 holds`,
		);
	}
	return results;
}

function tokensOf({ ids }: PromptBatch): number {
	return ids.length;
}

/** @param share The fraction of the batches that fits in GPU memory. */
function passesOf(batches: PromptBatch[], share: number): PromptBatch[][] {
	const most = Math.max(BATCHES_PER_PASS, Math.floor(batches.length * Math.min(1, share)));
	const perPass = Math.ceil(batches.length / Math.ceil(batches.length / most));
	const passes: PromptBatch[][] = [];
	for (let i = 0; i < batches.length; i += perPass) passes.push(batches.slice(i, i + perPass));
	return passes;
}

/** The cross-entropies of the scored tokens of each batch, in nats. */
async function lossesOf(
	decoder: Decoder,
	batches: readonly PromptBatch[],
	gpuBytes: number,
	progress: () => Promise<void>,
): Promise<Float32Array[]> {
	const { gpu, model } = decoder;
	const onGpu = batches.map((batch) => uploadBatch(gpu, batch));
	try {
		const width = streamWidth(model);
		using activations = new Activations(gpu, { tokens: batches.map(tokensOf), width, gpuBytes });
		await decoder.embedding.embedPromptsInto(activations, batches);
		const finish = (batch: number) => finishScored(decoder, batches[batch], batch, activations);
		const finished = await runLayers(decoder, activations, onGpu, finish, progress);
		return await decoder.head.targetLosses(
			finished,
			batches.map(({ targets }) => targets),
			progress,
		);
	} finally {
		for (const batch of onGpu) batch[Symbol.dispose]();
	}
}

/**
 * The head's input for a batch: the rows of the last layer's output that predict a scored token.
 *
 * @param batch The batch's index among the activations.
 * @returns f32 `[scored, width]`, owned by the caller.
 */
export async function finishScored(
	decoder: Decoder,
	{ rows }: PromptBatch,
	batch: number,
	activations: Activations,
): Promise<Tensor> {
	const { gpu } = decoder;
	using all = (await activations.load(batch)).get("hidden")!;
	using wanted = gpu.upload(rows, [rows.length]);
	using scored = gpu.empty([rows.length, all.shape[1]]);
	await embed(gpu, wanted, all, 0, scored);
	return await decoder.head.finish(scored);
}
