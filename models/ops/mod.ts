import { add, type AddOp } from "./add.ts";
import { activation, type ActivationOp } from "./activation.ts";
import { attention, type AttentionOp } from "./attention.ts";
import { clampedSwiglu, type ClampedSwigluOp } from "./clamped_swiglu.ts";
import { combine, type CombineOp } from "./combine.ts";
import { experts, type ExpertsOp } from "./experts.ts";
import { linear, type LinearOp } from "./linear.ts";
import { norm, type NormOp } from "./norm.ts";
import type { LinearGroup, OpKind } from "./op.ts";
import { rope, type RopeOp } from "./rope.ts";
import { route, type RouteOp } from "./route.ts";
import { split, type SplitOp } from "./split.ts";

/**
 * An operation of a decoder layer. Registers hold activations, f32 `[tokens, width]`; "hidden" is the
 * layer's input and, at the end, its output. Calibration, quantization by module, evaluation and
 * generation all use this description.
 */
export type Op =
	| NormOp
	| LinearOp
	| SplitOp
	| RopeOp
	| AttentionOp
	| ActivationOp
	| ClampedSwigluOp
	| AddOp
	| RouteOp
	| ExpertsOp
	| CombineOp;

/** The kinds of operations. A new one is a file in this folder and a line here and in {@link Op}. */
export const OPS: { readonly [K in Op["op"]]: OpKind<Extract<Op, { op: K }>> } = {
	norm,
	linear,
	split,
	rope,
	attention,
	activation,
	clamped_swiglu: clampedSwiglu,
	add,
	route,
	experts,
	combine,
};

/** The kind of an operation. */
export function kindOf(op: Op): OpKind<Op> {
	return OPS[op.op] as OpKind<Op>;
}

/** The operation, if it consists of experts, which are kept apart from other linear layers. */
export function expertsOf(op: Op): ExpertsOp | undefined {
	return op.op === "experts" ? op : undefined;
}

/** The groups of linear layers of an operation, in the order of execution. */
export function groupsOf(op: Op): readonly LinearGroup[] {
	const kind = kindOf(op);
	const group = kind.group?.(op);
	return group ? [group] : kind.groups?.(op) ?? [];
}
