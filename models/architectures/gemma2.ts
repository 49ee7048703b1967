import type { ArchitectureFamily } from "./architecture.ts";
import type { Fields } from "./fields.ts";
import { attentionBias, type LlamaKind, readLlama } from "./llama.ts";
import { readLayerWindows } from "./sliding_windows.ts";

/** Gemma 2: norms before and behind each branch, soft caps, sliding windows in every other layer. */
export const gemma2: ArchitectureFamily = {
	models: "Gemma 2",
	features: "four norms, soft caps, sliding windows",
	read(original) {
		const fields = original.withDefaults({
			vocab_size: 256000,
			hidden_size: 2304,
			num_hidden_layers: 26,
			num_attention_heads: 8,
		});
		// Absent means the default, null means none.
		const cap = (key: string, fallback: number) =>
			fields.json[key] === null ? undefined : fields.number(key, fallback);
		const kind = gemmaKind(fields);
		return readLlama(fields, {
			...kind,
			maxLength: 8192,
			slidingWindows: (layers) => readLayerWindows(fields, layers, (i) => i % 2 === 0, 4096),
			scores: { ...kind.scores, cap: cap("attn_logit_softcapping", 50) },
			logitCap: cap("final_logit_softcapping", 30),
		});
	},
};

/** What Gemma 2 and 3 have in common. */
export function gemmaKind(fields: Fields): Omit<LlamaKind, "maxLength"> {
	return {
		keyValueHeads: 4,
		headDim: 256,
		intermediateSize: 9216,
		activation: ["hidden_activation", "gelu_pytorch_tanh"],
		norm: { kind: "rms", epsilon: ["rms_norm_eps", 1e-6], offset: 1 },
		norms: {
			attention: "input_layernorm",
			afterAttention: "post_attention_layernorm",
			mlp: "pre_feedforward_layernorm",
			afterMlp: "post_feedforward_layernorm",
		},
		biases: attentionBias(fields),
		scores: { scale: 1 / Math.sqrt(fields.number("query_pre_attn_scalar", 256)) },
		embeddingFactor: Math.sqrt(fields.integer("hidden_size")),
		isTied: true,
	};
}
