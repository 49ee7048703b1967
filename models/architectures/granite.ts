import type { ArchitectureFamily } from "./architecture.ts";
import type { Fields } from "./fields.ts";
import { attentionBias, type LlamaKind, readLlama } from "./llama.ts";

/** Granite 3 without experts: LLaMA with four factors. */
export const granite: ArchitectureFamily = {
	models: "Granite 3",
	features: "multipliers of embeddings, scores, branches, logits",
	read: (fields) =>
		readLlama(fields, {
			...graniteKind(fields),
			biases: { ...attentionBias(fields), mlp: fields.boolean("mlp_bias", false) },
		}),
};

/** What Granite has in common with and without experts. */
export function graniteKind(fields: Fields): LlamaKind {
	return {
		intermediateSize: 11008,
		maxLength: 2048,
		biases: attentionBias(fields),
		embeddingFactor: fields.number("embedding_multiplier", 1),
		scores: { scale: fields.number("attention_multiplier", 1) },
		residualFactor: fields.number("residual_multiplier", 1),
		logitFactor: 1 / fields.number("logits_scaling", 1),
	};
}
