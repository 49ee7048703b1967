import { UserError } from "../base/errors.ts";
import { sum } from "../base/figures.ts";
import { generate, ResidentModel } from "../models/generation/generation.ts";
import type { ModelFiles } from "../models/model_files.ts";
import type { ModelContext } from "../pipeline/stage.ts";

/** Tokens of the prompt, and the most that a model adds. */
const PROMPT = 24;
const ADDED = 48;

/** The prompt of sample texts: the first tokens of a window. */
export function samplePrompt(window: Int32Array): number[] {
	return [...window.subarray(0, Math.min(PROMPT, window.length >> 1))];
}

/**
 * How a model continues a prompt with the most likely tokens. Undefined where its weights would take more
 * GPU memory than the run has taken anyway, and where it cannot generate.
 */
export async function continuation(
	{ gpu, signal, layerRecords }: ModelContext,
	model: ModelFiles,
	prompt: readonly number[],
): Promise<string | undefined> {
	const peak = Math.max(gpu.memory.peak, ...layerRecords.map(({ peakGpuBytes }) => peakGpuBytes));
	const bytes = sum([...model.checkpoint.tensors.values()].map(({ bytes }) => bytes));
	if (2 * bytes > peak) return undefined;
	try {
		using resident = await ResidentModel.load(gpu, model, { signal });
		let text = "";
		const tokens = generate(resident, { prompt, maxTokens: ADDED, signal });
		for await (const token of tokens) text += token.text;
		signal.throwIfAborted();
		return text;
	} catch (error) {
		if (error instanceof UserError) return undefined;
		throw error;
	}
}
