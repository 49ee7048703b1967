import { rope as turn } from "../../gpu/kernels/attention/rope.ts";
import type { Rotary } from "../rotary.ts";
import type { OpKind } from "./op.ts";

/** A rotary embedding: rotates the heads of registers in place. */
export interface RopeOp {
	/** The kind of operation. */
	op: "rope";
	/** Registers that it rotates in place. */
	registers: readonly { register: string; heads: number }[];
	/** Angles of the positions. */
	rotary: Rotary;
}

export const rope: OpKind<RopeOp> = {
	isCheap: false,

	reads({ registers, rotary }) {
		const widths = registers.map(({ register, heads }) => [register, heads * rotary.headDim]);
		return Object.fromEntries(widths);
	},

	writes: () => ({}),
	rotary: ({ rotary }) => rotary,
	changes: ({ registers }) => registers.map(({ register }) => register),

	async run({ registers, rotary }, context) {
		const { gpu, window, ropeTables } = context;
		if (typeof window !== "number" && !("segments" in window)) return []; // attention rotates them
		using table = typeof window === "number"
			? ropeTables.of(rotary).rows(window)
			: await ropeTables.of(rotary).rowsOf(window);
		for (const { register, heads } of registers) {
			await turn(gpu, context.registers.get(register)!, table, heads, rotary.interleaved);
		}
		return [];
	},
};
