import type { ArchitectureFamily } from "./architecture.ts";
import type { Fields } from "./fields.ts";
import { attentionBias, HEAD_NORMS, type LlamaKind, readLlama } from "./llama.ts";
import { readPatternWindows } from "./sliding_windows.ts";

/** Command R: attention and feed-forward beside each other, from one layer norm without bias. */
export const cohere: ArchitectureFamily = {
	models: "Command R, Aya",
	features: "parallel branches, interleaved rotation, logit scale",
	read(original) {
		const fields = withSizes(original);
		return readLlama(fields, {
			...cohereKind(fields),
			headNorms: fields.boolean("use_qk_norm", false)
				? { ...HEAD_NORMS, perHead: "rows" }
				: undefined,
			rotary: { interleaved: true },
		});
	},
};

/** Command R7B and A: sliding windows and rotary positions in three layers of four. */
export const cohere2: ArchitectureFamily = {
	models: "Command R7B, Command A",
	features: "as Command R; sliding windows",
	read(original) {
		const fields = withSizes(original);
		const windows = readPatternWindows(fields, fields.integer("num_hidden_layers"), 4);
		return readLlama(fields, {
			...cohereKind(fields),
			slidingWindows: () => windows,
			rotary: { interleaved: true },
			hasPositions: (layer) => windows[layer] !== undefined,
		});
	},
};

function withSizes(fields: Fields): Fields {
	return fields.withDefaults({
		vocab_size: 256000,
		hidden_size: 8192,
		num_hidden_layers: 40,
		num_attention_heads: 64,
	});
}

function cohereKind(fields: Fields): LlamaKind {
	return {
		intermediateSize: 22528,
		maxLength: 8192,
		norm: { kind: "layer", bias: false, epsilon: ["layer_norm_eps", 1e-5] },
		norms: { attention: "input_layernorm" },
		parallel: true,
		biases: attentionBias(fields),
		logitFactor: fields.number("logit_scale", 0.0625),
		isTied: true,
	};
}
