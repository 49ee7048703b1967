import type { ArchitectureFamily } from "./architecture.ts";
import { EXPERT_MODULES, readExpertCounts } from "./experts.ts";
import { readLlama } from "./llama.ts";
import { readLayerWindows } from "./sliding_windows.ts";

/**
 * GPT-OSS: experts with biases and a clamped activation, attention with sinks and, in every other layer, a
 * sliding window.
 */
export const gptOss: ArchitectureFamily = {
	models: "GPT-OSS",
	features: "experts stored as MXFP4, attention sinks",
	read: (fields) => {
		const bias = fields.boolean("attention_bias", true);
		return readLlama(fields, {
			headDim: 64,
			keyValueHeads: 8,
			intermediateSize: 2880,
			maxLength: 131072,
			hasFinalLength: true,
			norm: { kind: "rms", epsilon: ["rms_norm_eps", 1e-5] },
			rotary: { theta: 150000 },
			biases: { qkv: bias, output: bias },
			sinks: "self_attn.sinks",
			slidingWindows: (layers) => readLayerWindows(fields, layers, (layer) => layer % 2 === 0, 128),
			experts: {
				...readExpertCounts(fields, ["num_local_experts", "num_experts"], {
					count: 128,
					perToken: 4,
				}),
				intermediateSize: fields.integer("intermediate_size", 2880),
				renormalized: true,
				router: "mlp.router",
				bias: true,
				modules: EXPERT_MODULES,
				stacked: {
					gateUp: "mlp.experts.gate_up_proj",
					down: "mlp.experts.down_proj",
					columns: true,
				},
				clamped: {
					alpha: fields.number("swiglu_alpha", 1.702),
					limit: fields.number("swiglu_limit", 7),
				},
				hasExperts: () => true,
			},
		});
	},
};
