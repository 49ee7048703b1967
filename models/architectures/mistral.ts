import type { ArchitectureFamily } from "./architecture.ts";
import { readLlama } from "./llama.ts";
import { readSlidingWindow } from "./sliding_windows.ts";

export const mistral: ArchitectureFamily = {
	models: "Mistral, Mistral Nemo",
	features: "sliding window",
	read: (fields) =>
		readLlama(fields, {
			keyValueHeads: 8,
			intermediateSize: 14336,
			maxLength: 131072,
			slidingWindows: (layers) => new Array(layers).fill(readSlidingWindow(fields)),
		}),
};
