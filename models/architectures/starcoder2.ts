import type { ArchitectureFamily } from "./architecture.ts";
import { readLlama } from "./llama.ts";
import { readSlidingWindow } from "./sliding_windows.ts";

/** StarCoder2: layer norms, biases, and a feed-forward network without a gate. */
export const starcoder2: ArchitectureFamily = {
	models: "StarCoder2",
	features: "layer norms, no gate, sliding window",
	read(fields) {
		const bias = fields.boolean("use_bias", true);
		return readLlama(fields, {
			keyValueHeads: 2,
			intermediateSize: 12288,
			maxLength: 4096,
			activation: ["hidden_act", "gelu_pytorch_tanh"],
			norm: { kind: "layer", epsilon: ["norm_epsilon", 1e-5] },
			biases: { qkv: bias, output: bias, mlp: bias },
			slidingWindows: (layers) => new Array(layers).fill(readSlidingWindow(fields, undefined)),
			ungated: { up: "mlp.c_fc", down: "mlp.c_proj" },
			isTied: true,
		});
	},
};
