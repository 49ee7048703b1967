import { UserError } from "../../base/errors.ts";
import { sum } from "../../base/figures.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Perplexity } from "./figures.ts";
import { Activations } from "../activations.ts";
import { batchWindows, paceBatches } from "../calibration.ts";
import { Decoder } from "../decoder.ts";
import { activationBytes, streamWidth } from "../memory_plan.ts";
import type { ModelFiles } from "../model_files.ts";
import { FinalStates } from "./final_states.ts";
import { runLayers } from "./layer_pass.ts";

/** The options of {@link perplexity}. */
export interface PerplexityOptions {
	/** Windows of one length, at least two tokens each. */
	windows: Int32Array[];
	/** Name of the data, for the record. */
	dataset: string;
	/** Tokens that go through a layer together. */
	batchTokens?: number;
	/** Receives the head's inputs of its windows. */
	states?: FinalStates;
	/** Called after each batch of each layer. */
	onProgress?(done: number, total: number): Promise<void>;
}

/**
 * The perplexity over windows: exp of the mean cross-entropy of all tokens but the first of each window.
 * Runs layer by layer, so that one layer's weights are on the GPU at a time.
 *
 * @throws {UserError} If the model cannot be read or the result is NaN or infinite.
 */
export async function perplexity(
	gpu: Gpu,
	model: ModelFiles,
	{ windows, dataset, batchTokens = 8192, states, onProgress }: PerplexityOptions,
): Promise<Perplexity> {
	using decoder = new Decoder(gpu, model);
	const length = windows[0].length;
	const batches = batchWindows(windows, batchTokens);
	const total = batches.length * (model.architecture.layers + decoder.head.parts);
	const progress = paced(gpu, total, onProgress);
	using activations = await roomFor(decoder, batches);
	const finished = await runBatches(decoder, activations, batches, progress);
	await states?.take(batches, finished);
	const losses = await decoder.head.losses(finished, batches, progress);
	let nats = 0;
	for (const [i, batch] of batches.entries()) {
		for (let window = 0; window < batch.length; window++) {
			const first = window * length;
			const inWindow = losses[i].subarray(first, first + length - 1);
			nats += inWindow.reduce((total, loss) => total + loss, 0) / (length - 1);
		}
	}
	const loss = nats / windows.length;
	if (!Number.isFinite(loss)) {
		throw new UserError(
			`The perplexity of "${model.name}" on "${dataset}" is not a number: ` +
				`activations exceed what f32 holds`,
		);
	}
	return {
		dataset,
		sequenceLength: length,
		windows: windows.length,
		loss,
		perplexity: Math.exp(loss),
	};
}

/**
 * The head's inputs of some windows, without the losses.
 *
 * @param chosen Indices of the windows to run, ascending.
 * @throws {UserError} If the model cannot be read.
 */
export async function finalStates(
	gpu: Gpu,
	model: ModelFiles,
	chosen: readonly number[],
	{ windows, batchTokens = 8192, onProgress }: Omit<PerplexityOptions, "dataset" | "states">,
): Promise<FinalStates> {
	using decoder = new Decoder(gpu, model);
	const batches = batchWindows(chosen.map((window) => windows[window]), batchTokens);
	const progress = paced(gpu, batches.length * model.architecture.layers, onProgress);
	using activations = await roomFor(decoder, batches);
	const finished = await runBatches(decoder, activations, batches, progress);
	const states = new FinalStates([...chosen.keys()]); // all that were run
	await states.take(batches, finished);
	return states;
}

/** A callback for each step of the work, which keeps the host near the GPU. */
function paced(
	gpu: Gpu,
	total: number,
	onProgress: PerplexityOptions["onProgress"],
): () => Promise<void> {
	let done = 0;
	return async () => {
		await paceBatches(gpu, ++done);
		await onProgress?.(done, total);
	};
}

/** A place for the activations of batches of windows. */
async function roomFor(decoder: Decoder, batches: Int32Array[][]): Promise<Activations> {
	const { gpu, model } = decoder;
	const tokens = batches.map((windows) => windows.length * windows[0].length);
	const gpuBytes = await activationBytes(gpu, model, sum(tokens), { batchTokens: tokens[0] });
	return new Activations(gpu, { tokens, width: streamWidth(model), gpuBytes });
}

/** Runs batches through the model up to its head, and returns what {@link runLayers} does. */
async function runBatches(
	decoder: Decoder,
	activations: Activations,
	batches: Int32Array[][],
	progress: () => Promise<void>,
): Promise<(batch: number) => Promise<Tensor>> {
	await decoder.embedding.embedInto(activations, batches);
	const finish = async (batch: number) => {
		using last = (await activations.load(batch)).get("hidden")!;
		return await decoder.head.finish(last);
	};
	const contexts = batches.map(([{ length }]) => length);
	return await runLayers(decoder, activations, contexts, finish, progress);
}
