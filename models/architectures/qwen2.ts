import type { ArchitectureFamily } from "./architecture.ts";
import { readLlama } from "./llama.ts";
import { readQwenWindows } from "./sliding_windows.ts";

export const qwen2: ArchitectureFamily = {
	models: "Qwen2, Qwen2.5",
	features: "biases on q, k, v; sliding window in some layers",
	read: (fields) =>
		readLlama(fields, {
			keyValueHeads: 32,
			intermediateSize: 22016,
			maxLength: 32768,
			biases: { qkv: true },
			slidingWindows: (layers) => readQwenWindows(fields, layers),
		}),
};
