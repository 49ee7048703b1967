import type { ArchitectureFamily } from "./architecture.ts";
import type { Fields } from "./fields.ts";
import { gemmaKind } from "./gemma2.ts";
import { HEAD_NORMS, readLlama } from "./llama.ts";
import { readRotary } from "./rotary_fields.ts";
import { readPatternWindows } from "./sliding_windows.ts";

/** Gemma 3, text: norms on the heads of q and k, five layers of six with a window and positions of their own. */
export const gemma3Text: ArchitectureFamily = {
	models: "Gemma 3 (text)",
	features: "four norms, sliding windows, two rotary bases",
	read(original) {
		const fields = original.withDefaults({
			vocab_size: 262208,
			hidden_size: 2304,
			num_hidden_layers: 26,
			num_attention_heads: 8,
		});
		if (fields.boolean("use_bidirectional_attention", false)) {
			fields.fail("use_bidirectional_attention", "false");
		}
		const windows = (layers: number) => readPatternWindows(fields, layers, 6);
		const kind = gemmaKind(fields);
		return readLlama(fields, {
			...kind,
			maxLength: 131072,
			hasFinalLength: true,
			headNorms: HEAD_NORMS,
			slidingWindows: windows,
			rotaries(headDim, layers) {
				const full = readRotary(fields, headDim, { theta: 1e6 }, "full_attention");
				const sliding = readLocalRotary(fields, headDim);
				return windows(layers).map((window) => window === undefined ? full : sliding);
			},
			scores: { ...kind.scores, cap: fields.optional("attn_logit_softcapping") },
			logitCap: fields.optional("final_logit_softcapping"),
		});
	},
};

/** The text model inside a Gemma 3 with a vision tower. */
export const gemma3: ArchitectureFamily = {
	models: "Gemma 3 (the text part of multimodal models)",
	features: "as the text models",
	read: (fields) => gemma3Text.read(fields.within("text_config")),
};

/** The rotary positions of sliding layers, which older files give as `rope_local_base_freq`. */
function readLocalRotary(fields: Fields, headDim: number) {
	const parameters = fields.json.rope_parameters as Record<string, unknown> | null | undefined;
	if (parameters?.sliding_attention != null) {
		return readRotary(fields, headDim, {}, "sliding_attention");
	}
	return { headDim, theta: fields.number("rope_local_base_freq", 10000) };
}
