// An architecture that no other file knows. Importing this module makes it known.

import type { ArchitectureFamily } from "../../../models/architectures/architecture.ts";
import { readLlama } from "../../../models/architectures/llama.ts";
import { addArchitecture } from "../../../models/architectures/mod.ts";
import type { Op } from "../../../models/ops/mod.ts";

/** Tokens that the odd layers see. */
export const TOY_WINDOW = 7;

/**
 * A LLaMA whose odd layers have a sliding window and no positions, whose q, k and v, with biases, are
 * one tensor, and whose gate and up are another.
 */
const toy: ArchitectureFamily = {
  read(fields) {
    const kind = { intermediateSize: 100, maxLength: 128, biases: { qkv: true } };
    const { steps, ...llama } = readLlama(fields, kind);
    return {
      ...llama,
      steps: (layer) =>
        steps(layer).flatMap((op): Op[] => {
          if (op.op === "linear" && op.linears.length === 3) {
            return [{ ...op, fused: "self_attn.qkv_proj" }];
          }
          if (op.op === "linear" && op.linears.length === 2) {
            return [{ ...op, fused: "mlp.gate_up_proj" }];
          }
          if (layer % 2 === 0) return [op];
          if (op.op === "rope") return [];
          if (op.op !== "attention") return [op];
          return [{ ...op, rotary: undefined, slidingWindow: TOY_WINDOW }];
        }),
    };
  },
};

addArchitecture("toy", toy);
