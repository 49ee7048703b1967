import type { ArchitectureFamily } from "./architecture.ts";
import { attentionBias, HEAD_NORMS, readLlama } from "./llama.ts";
import { readQwenWindows } from "./sliding_windows.ts";

export const qwen3: ArchitectureFamily = {
	models: "Qwen3",
	features: "norms on the heads of q and k",
	read: (fields) =>
		readLlama(fields, {
			keyValueHeads: 32,
			headDim: 128,
			intermediateSize: 22016,
			maxLength: 32768,
			biases: attentionBias(fields),
			headNorms: HEAD_NORMS,
			slidingWindows: (layers) => readQwenWindows(fields, layers),
		}),
};
