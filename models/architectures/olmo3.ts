import type { ArchitectureFamily } from "./architecture.ts";
import { readLlama } from "./llama.ts";
import { olmoKind } from "./olmo2.ts";
import { readRotary } from "./rotary_fields.ts";
import { readPatternWindows } from "./sliding_windows.ts";

/** OLMo 3: OLMo 2 with sliding windows in three layers of four, whose rotary positions are not scaled. */
export const olmo3: ArchitectureFamily = {
	models: "OLMo 3",
	features: "as OLMo 2; sliding windows",
	read(fields) {
		const windows = (layers: number) => readPatternWindows(fields, layers, 4);
		return readLlama(fields, {
			...olmoKind(fields),
			slidingWindows: windows,
			rotaries(headDim, layers) {
				const full = readRotary(fields, headDim, {}, "full_attention");
				const { scaling: _, ...sliding } = readRotary(fields, headDim, {}, "sliding_attention");
				return windows(layers).map((window) => window === undefined ? full : sliding);
			},
		});
	},
};
