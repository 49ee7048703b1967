import { DenseWeight } from "../../codecs/dense/weight.ts";
import { route as choose } from "../../gpu/kernels/experts/route.ts";
import type { OpKind } from "./op.ts";

/** The choice of each token's experts: the greatest k logits of a router, and their softmax. */
export interface RouteOp {
	/** The kind of operation. */
	op: "route";
	/** The router, a linear layer that is never quantized. */
	module: string;
	/** Whether it has a bias. */
	bias?: boolean;
	/** Register of the input. */
	from: string;
	/** Receives the k experts of each token by falling logits, then their weights: `[tokens, 2 k]`. */
	to: string;
	/** Of `from`. */
	width: number;
	/** Number of experts. */
	experts: number;
	/** Experts per token. */
	k: number;
	/** Whether the weights of the chosen experts add up to 1; else they are parts of a softmax over all. */
	renormalized: boolean;
}

export const route: OpKind<RouteOp> = {
	isCheap: true,
	reads: ({ from, width }) => ({ [from]: width }),
	writes: ({ to, k }) => ({ [to]: 2 * k }),

	tensors({ module, bias, experts, width }) {
		return [
			{ name: `${module}.weight`, shape: [experts, width] },
			...(bias ? [{ name: `${module}.bias`, shape: [experts] }] : []),
		];
	},

	async run({ module, bias, from, to, k, renormalized }, { gpu, weights, registers }) {
		const router = new DenseWeight(weights.tensor(`${module}.weight`));
		using logits = await router.multiply(registers.get(from)!);
		const options = { k, renormalized, ...(bias && { bias: weights.tensor(`${module}.bias`) }) };
		return [[to, await choose(gpu, logits, options)]];
	},
};
