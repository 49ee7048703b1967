import {
	type ClampedSwiglu,
	clampedSwiglu as activate,
} from "../../gpu/kernels/elementwise/clamped_swiglu.ts";
import type { OpKind } from "./op.ts";

/** The gated activation of the experts of GPT-OSS, of two registers. */
export interface ClampedSwigluOp extends ClampedSwiglu {
	/** The kind of operation. */
	op: "clamped_swiglu";
	/** Register of the gate. */
	from: string;
	/** Register of the factor. */
	up: string;
	/** Register of the output. */
	to: string;
	/** Numbers per token. */
	width: number;
}

export const clampedSwiglu: OpKind<ClampedSwigluOp> = {
	isCheap: true,
	reads: ({ from, up, width }) => ({ [from]: width, [up]: width }),
	writes: ({ to, width }) => ({ [to]: width }),

	async run({ from, up, to, ...numbers }, { gpu, registers }) {
		return [[to, await activate(gpu, registers.get(from)!, registers.get(up)!, numbers)]];
	},
};
