import { multiplyAll } from "../../codecs/transformed_weight.ts";
import type { LinearGroup, OpKind } from "./op.ts";

/** Linear layers that share an input: x · weightᵀ (+ bias) (+ residual). */
export interface LinearOp extends LinearGroup {
	/** The kind of operation. */
	op: "linear";
}

export const linear: OpKind<LinearOp> = {
	isCheap: false,

	reads({ from, cols, residual, linears }) {
		return { [from]: cols, ...(residual && { [residual]: linears[0].rows }) };
	},

	writes: ({ linears }) => Object.fromEntries(linears.map(({ to, rows }) => [to, rows])),

	group: (op) => op,

	async run({ from, linears, residual }, { weights, registers }) {
		const x = registers.get(from)!;
		const addend = residual ? registers.get(residual) : undefined;
		const products = await multiplyAll(
			x,
			linears.map(({ module }) => ({ ...weights.linear(module), residual: addend })),
		);
		return linears.map(({ to }, i) => [to, products[i]]);
	},
};
