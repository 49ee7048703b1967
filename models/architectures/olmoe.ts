import type { ArchitectureFamily } from "./architecture.ts";
import { EXPERT_MODULES, readExpertCounts } from "./experts.ts";
import { attentionBias, readLlama } from "./llama.ts";

/** OLMoE: LLaMA with experts, and norms of q and k over all heads. */
export const olmoe: ArchitectureFamily = {
	models: "OLMoE",
	features: "experts",
	read(fields) {
		if (fields.json.clip_qkv != null) fields.fail("clip_qkv", "null", "clipping is not supported");
		return readLlama(fields, {
			intermediateSize: 2048,
			maxLength: 4096,
			norm: { kind: "rms", epsilon: ["rms_norm_eps", 1e-5] },
			biases: attentionBias(fields),
			headNorms: { q: "self_attn.q_norm", k: "self_attn.k_norm", over: "all-heads" },
			experts: {
				...readExpertCounts(fields, ["num_experts", "num_local_experts"], {
					count: 64,
					perToken: 8,
				}),
				intermediateSize: fields.integer("intermediate_size", 2048),
				renormalized: fields.boolean("norm_topk_prob", false),
				router: "mlp.gate",
				modules: EXPERT_MODULES,
				hasExperts: () => true,
			},
		});
	},
};
