import type { Architecture } from "./architectures/architecture.ts";
import { groupsOf, kindOf, type Op } from "./ops/mod.ts";
import type { LinearGroup } from "./ops/op.ts";

/** The live registers before an operation, with their widths. */
export type LiveRegisters = ReadonlyMap<string, number>;

/** The total width of some registers: elements per token. */
export function totalWidth(registers: LiveRegisters): number {
	return registers.values().reduce((sum, width) => sum + width, 0);
}

/** The operations at which the computation of a group's input can resume. */
export interface Restarts {
	/** Minimizes recomputation: only norms and activation functions are recomputed. */
	near: number;
	/** Minimizes memory: linear layers and attention may be recomputed. */
	lean: number;
}

/** The operations of a decoder layer with derived liveness information. */
export class LayerPlan {
	readonly ops: readonly Op[];
	/** The groups of linear layers in the order of execution, each with the index of its operation. */
	readonly groups: readonly (LinearGroup & { at: number })[];
	/** The live registers before each operation; the last entry is the layer's output. */
	readonly live: readonly LiveRegisters[];

	/**
	 * @throws {Error} If an operation reads a register that was not written, or was written with another
	 *   width: a defect in the architecture.
	 */
	constructor({ steps, hiddenSize }: Pick<Architecture, "steps" | "hiddenSize">, layer: number) {
		this.ops = steps(layer);
		this.groups = this.ops.flatMap((op, at) => groupsOf(op).map((group) => ({ ...group, at })));
		const widths = new Map([["hidden", hiddenSize]]);
		const before = (at: number) =>
			new Map([...widths].filter(([register]) => isRead(this.ops, register, at)));
		const live = [before(0)];
		for (const [at, op] of this.ops.entries()) {
			for (const [register, width] of Object.entries(kindOf(op).reads(op))) {
				if (widths.get(register) === width) continue;
				throw new Error(
					`Operation ${at} of layer ${layer} (${op.op}) reads "${register}" as ${width} wide, ` +
						`but it is ${widths.get(register) ?? 0} wide`,
				);
			}
			for (const [register, width] of Object.entries(kindOf(op).writes(op))) {
				widths.set(register, width);
			}
			live.push(before(at + 1));
		}
		this.live = live;
	}

	/** The linear layers, in the order of execution. */
	get modules(): string[] {
		return this.groups.flatMap(({ linears }) => linears.map(({ module }) => module));
	}

	/**
	 * The operations at which registers may be stored so that operation `at` can be reached from there
	 * again: those with the fewest elements.
	 */
	restartsOf(at: number): Restarts {
		return restarts(this.ops, this.live, at);
	}
}

/** Whether an operation from `start` on reads a register before it is overwritten. */
function isRead(ops: readonly Op[], register: string, start: number): boolean {
	for (const op of ops.slice(start)) {
		if (Object.hasOwn(kindOf(op).reads(op), register)) return true;
		if (Object.hasOwn(kindOf(op).writes(op), register)) return false;
	}
	return register === "hidden"; // what the next layer reads
}

/** {@link LayerPlan.restartsOf} for registers of any widths. */
export function restarts(
	ops: readonly Op[],
	live: readonly LiveRegisters[],
	at: number,
): Restarts {
	let near = at;
	let lean = at;
	let isNear = true;
	for (let start = at - 1; start >= 0; start--) {
		isNear &&= kindOf(ops[start]).isCheap;
		if (!keepsRegisters(ops, live[start], start, at)) continue;
		const width = totalWidth(live[start]);
		if (width < totalWidth(live[lean])) lean = start;
		if (isNear && width < totalWidth(live[near])) near = start;
	}
	return { near, lean };
}

/** Whether no operation in between changes a stored register. */
function keepsRegisters(
	ops: readonly Op[],
	kept: LiveRegisters,
	from: number,
	to: number,
): boolean {
	return !ops.slice(from, to).some((op) =>
		kindOf(op).changes?.(op).some((register) => kept.has(register))
	);
}
