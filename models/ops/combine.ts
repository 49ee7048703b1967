import { combine as addUp } from "../../gpu/kernels/experts/combine.ts";
import type { OpKind } from "./op.ts";

/** The sum of a register and the weighted outputs of each token's experts. */
export interface CombineOp {
	/** The kind of operation. */
	op: "combine";
	/** The register that receives the sum. */
	to: string;
	/** The outputs of the experts, `[tokens, k · width]`. */
	from: string;
	/** Register of the experts and their weights. */
	routing: string;
	/** Numbers per token. */
	width: number;
	/** Experts per token. */
	k: number;
	/** Factor of the outputs; 1 if absent. */
	factor?: number;
}

export const combine: OpKind<CombineOp> = {
	isCheap: true,
	reads: ({ to, from, routing, width, k }) => ({
		[to]: width,
		[from]: k * width,
		[routing]: 2 * k,
	}),
	writes: ({ to, width }) => ({ [to]: width }),

	async run({ to, from, routing, factor }, { gpu, registers }) {
		const [residual, y, weights] = [to, from, routing].map((name) => registers.get(name)!);
		return [[to, await addUp(gpu, y, weights, residual, factor)]];
	},
};
