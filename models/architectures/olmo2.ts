import type { ArchitectureFamily } from "./architecture.ts";
import type { Fields } from "./fields.ts";
import { attentionBias, type LlamaKind, readLlama } from "./llama.ts";

/** OLMo 2: norms behind attention and feed-forward, and of q and k over all heads. */
export const olmo2: ArchitectureFamily = {
	models: "OLMo 2",
	features: "norms behind the branches and on q and k",
	read: (fields) => readLlama(fields, olmoKind(fields)),
};

/** What OLMo 2 and 3 have in common. */
export function olmoKind(fields: Fields): LlamaKind {
	return {
		intermediateSize: 11008,
		maxLength: 2048,
		norm: { kind: "rms", epsilon: ["rms_norm_eps", 1e-5] },
		norms: { afterAttention: "post_attention_layernorm", afterMlp: "post_feedforward_layernorm" },
		biases: attentionBias(fields),
		headNorms: { q: "self_attn.q_norm", k: "self_attn.k_norm", over: "all-heads" },
	};
}
