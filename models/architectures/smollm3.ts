import type { ArchitectureFamily } from "./architecture.ts";
import type { Fields } from "./fields.ts";
import { attentionBias, readLlama } from "./llama.ts";
import { readOptionalWindows } from "./sliding_windows.ts";

/** SmolLM3: LLaMA with rotary positions in three layers of four. */
export const smollm3: ArchitectureFamily = {
	models: "SmolLM3",
	features: "layers without rotary positions",
	read(fields) {
		const hasRotary = readRotaryLayers(fields, fields.integer("num_hidden_layers"));
		return readLlama(fields, {
			keyValueHeads: 4,
			intermediateSize: 11008,
			maxLength: 32768,
			biases: { ...attentionBias(fields), mlp: fields.boolean("mlp_bias", false) },
			slidingWindows: (layers) => readOptionalWindows(fields, layers, (i) => !hasRotary[i]),
			rotary: { theta: 2e6 },
			hasPositions: (layer) => hasRotary[layer],
			isTied: true,
		});
	},
};

/** Whether each layer has rotary positions. */
function readRotaryLayers(fields: Fields, layers: number): boolean[] {
	const flags = fields.json.no_rope_layers;
	if (flags == null) {
		const interval = fields.integer("no_rope_layer_interval", 4);
		return Array.from({ length: layers }, (_, layer) => (layer + 1) % interval !== 0);
	}
	const isRight = Array.isArray(flags) && flags.length === layers &&
		flags.every((flag) => flag === 0 || flag === 1);
	if (!isRight) fields.fail("no_rope_layers", `${layers} times 0 or 1`);
	return (flags as number[]).map((flag) => flag === 1);
}
