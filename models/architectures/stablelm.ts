import type { ArchitectureFamily } from "./architecture.ts";
import { readLlama } from "./llama.ts";

/** StableLM: LLaMA with layer norms, and rotary positions for a part of each head. */
export const stablelm: ArchitectureFamily = {
	models: "StableLM",
	features: "layer norms, partial rotation, parallel branches",
	read(fields) {
		const parallel = fields.boolean("use_parallel_residual", false);
		return readLlama(fields, {
			intermediateSize: 6912,
			maxLength: 4096,
			norm: { kind: "layer", epsilon: ["layer_norm_eps", 1e-5] },
			norms: {
				attention: "input_layernorm",
				mlp: parallel ? undefined : "post_attention_layernorm",
			},
			parallel,
			biases: { qkv: fields.boolean("use_qkv_bias", false) },
			headNorms: fields.boolean("qk_layernorm", false)
				? {
					q: "self_attn.q_layernorm",
					k: "self_attn.k_layernorm",
					over: "head",
					perHead: "modules",
					bias: false,
				}
				: undefined,
			rotary: { share: 0.25 },
		});
	},
};
