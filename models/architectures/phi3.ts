import type { ArchitectureFamily } from "./architecture.ts";
import { readLlama } from "./llama.ts";
import { readSlidingWindow } from "./sliding_windows.ts";

/** Phi-3, Phi-3.5 and Phi-4: LLaMA with fused q, k and v, and gate and up; LongRoPE in long variants. */
export const phi3: ArchitectureFamily = {
	models: "Phi-3, Phi-3.5, Phi-4 and their mini models",
	features: "fused q, k, v and gate, up; LongRoPE; partial rotation",
	read(original) {
		// Early checkpoints call LongRoPE "yarn", whose fields they do not have.
		const scaling = original.json.rope_scaling as Record<string, unknown> | null | undefined;
		const fields = scaling?.type === "yarn" && scaling.short_factor
			? original.replaced({ rope_scaling: { ...scaling, type: "longrope" } })
			: original;
		return readLlama(fields, {
			intermediateSize: 8192,
			maxLength: 4096,
			norm: { kind: "rms", epsilon: ["rms_norm_eps", 1e-5] },
			slidingWindows: (layers) => new Array(layers).fill(readSlidingWindow(fields, undefined)),
			fused: { qkv: "self_attn.qkv_proj", gateUp: "mlp.gate_up_proj" },
		});
	},
};
