import type { ArchitectureFamily } from "./architecture.ts";
import { readLlama } from "./llama.ts";
import { readLayerWindows } from "./sliding_windows.ts";

/** Ministral: Mistral with the sliding window in the layers that config.json lists. */
export const ministral: ArchitectureFamily = {
	models: "Ministral 8B",
	features: "sliding window in some layers",
	read: (fields) =>
		readLlama(fields, {
			keyValueHeads: 8,
			intermediateSize: 14336,
			maxLength: 131072,
			slidingWindows: (layers) => readLayerWindows(fields, layers, () => true, 4096),
		}),
};
