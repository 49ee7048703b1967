import type { ArchitectureFamily } from "./architecture.ts";
import { readExpertCounts } from "./experts.ts";
import { readLlama } from "./llama.ts";
import { readSlidingWindow } from "./sliding_windows.ts";

/** Mixtral: Mistral with experts in all layers. */
export const mixtral: ArchitectureFamily = {
	models: "Mixtral",
	features: "experts",
	read: (fields) =>
		readLlama(fields, {
			keyValueHeads: 8,
			intermediateSize: 14336,
			maxLength: 131072,
			norm: { kind: "rms", epsilon: ["rms_norm_eps", 1e-5] },
			rotary: { theta: 1000000 },
			slidingWindows: (layers) => new Array(layers).fill(readSlidingWindow(fields, undefined)),
			experts: {
				...readExpertCounts(fields, ["num_local_experts", "num_experts"], {
					count: 8,
					perToken: 2,
				}),
				intermediateSize: fields.integer("intermediate_size", 14336),
				renormalized: true,
				router: "block_sparse_moe.gate",
				modules: {
					gate: "block_sparse_moe.experts.*.w1",
					up: "block_sparse_moe.experts.*.w3",
					down: "block_sparse_moe.experts.*.w2",
				},
				hasExperts: () => true,
			},
		}),
};
