import {
	activation as activate,
	type ActivationName,
} from "../../gpu/kernels/elementwise/activation.ts";
import { Tensor } from "../../gpu/tensor.ts";
import type { OpKind } from "./op.ts";

/** An activation function of a register, or of one times another. */
export interface ActivationOp {
	/** The kind of operation. */
	op: "activation";
	/** The function. */
	name: ActivationName;
	/** Register of the input. */
	from: string;
	/** The register that f(x) is multiplied by, if any. */
	up?: string;
	/** Register of the output. */
	to: string;
	/** Numbers per token. */
	width: number;
}

export const activation: OpKind<ActivationOp> = {
	isCheap: true,
	reads: ({ from, up, width }) => ({ [from]: width, ...(up && { [up]: width }) }),
	writes: ({ to, width }) => ({ [to]: width }),

	source({ name, from, up: upRegister }, { gpu, registers }) {
		const x = registers.get(from)!;
		if (!upRegister) return { x, source: { op: "activation", name } };
		const half = registers.get(upRegister)!;
		if (!half.sharesMemoryWith(x) || half.offset < x.offset) return undefined;
		const up = (half.offset - x.offset) / 4;
		const both = new Tensor(gpu, x.buffers, [1, up + half.size], "f32", x.offset, false);
		return { x: both, source: { op: "activation", name, up } };
	},

	async run({ name, from, up, to }, { gpu, registers }) {
		const factor = up ? registers.get(up) : undefined;
		return [[to, await activate(gpu, name, registers.get(from)!, factor)]];
	},
};
