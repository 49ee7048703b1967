import { add, type AddOp } from "./add.ts";
import { activation, type ActivationOp } from "./activation.ts";
import { attention, type AttentionOp } from "./attention.ts";
import { linear, type LinearOp } from "./linear.ts";
import { norm, type NormOp } from "./norm.ts";
import type { OpKind } from "./op.ts";
import { rope, type RopeOp } from "./rope.ts";
import { split, type SplitOp } from "./split.ts";

/**
 * An operation of a decoder layer. Registers hold activations, f32 `[tokens, width]`; "hidden" is the
 * layer's input and, at the end, its output. Calibration, quantization by module, evaluation and
 * generation all use this description.
 */
export type Op = NormOp | LinearOp | SplitOp | RopeOp | AttentionOp | ActivationOp | AddOp;

/** The kinds of operations. A new one is a file in this folder and a line here and in {@link Op}. */
export const OPS: { readonly [K in Op["op"]]: OpKind<Extract<Op, { op: K }>> } = {
  norm,
  linear,
  split,
  rope,
  attention,
  activation,
  add,
};

/** The kind of an operation. */
export function kindOf(op: Op): OpKind<Op> {
  return OPS[op.op] as OpKind<Op>;
}
