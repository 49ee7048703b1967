// An architecture that no other file knows. Importing this module makes it known.

import type { ArchitectureFamily } from "~/models/architectures/architecture.ts";
import { readLlama } from "~/models/architectures/llama.ts";
import { addArchitecture } from "~/models/architectures/mod.ts";

/** Tokens that the odd layers see. */
export const TOY_WINDOW = 7;

/**
 * A LLaMA whose odd layers have a sliding window and no positions, whose q, k and v, with biases, are
 * one tensor, and whose gate and up are another.
 */
const toy: ArchitectureFamily = {
	read: (fields) =>
		readLlama(fields, {
			intermediateSize: 100,
			maxLength: 128,
			biases: { qkv: true },
			fused: { qkv: "self_attn.qkv_proj", gateUp: "mlp.gate_up_proj" },
			hasPositions: (layer) => layer % 2 === 0,
			slidingWindows: (layers) =>
				Array.from({ length: layers }, (_, layer) => layer % 2 === 0 ? undefined : TOY_WINDOW),
		}),
};

addArchitecture("toy", toy);
