import { add as sum } from "../../gpu/kernels/elementwise/add.ts";
import type { OpKind } from "./op.ts";

/** The sum of a register and a multiple of another, such as the residual stream and a branch. */
export interface AddOp {
	/** The kind of operation. */
	op: "add";
	/** The register that receives the sum. */
	to: string;
	/** Register that is added. */
	from: string;
	/** Factor of `from`; 1 if absent. */
	factor?: number;
	/** Numbers per token. */
	width: number;
}

export const add: OpKind<AddOp> = {
	isCheap: true,
	reads: ({ to, from, width }) => ({ [to]: width, [from]: width }),
	writes: ({ to, width }) => ({ [to]: width }),

	async run({ to, from, factor }, { gpu, registers }) {
		return [[to, await sum(gpu, registers.get(to)!, registers.get(from)!, factor)]];
	},
};
