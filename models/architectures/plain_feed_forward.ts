import type { ActivationName } from "../../gpu/kernels/elementwise/activation.ts";
import type { Op } from "../ops/mod.ts";

/** The sizes and names of {@link plainFeedForward}. */
export interface PlainFeedForward {
	/** Register of the input. */
	from: string;
	hiddenSize: number;
	/** Width between the two linear layers. */
	inner: number;
	activation: ActivationName;
	/** The modules of the two linear layers. */
	modules: readonly [up: string, down: string];
	bias: boolean;
}

/** A feed-forward network without a gate, whose output is added to the register "hidden"; "x" is overwritten. */
export function plainFeedForward(
	{ from, hiddenSize, inner, activation, modules: [up, down], bias }: PlainFeedForward,
): Op[] {
	return [
		{
			op: "linear",
			from,
			cols: hiddenSize,
			linears: [{ module: up, to: "x", rows: inner }],
			bias,
		},
		{ op: "activation", name: activation, from: "x", to: "x", width: inner },
		{
			op: "linear",
			from: "x",
			cols: inner,
			linears: [{ module: down, to: "hidden", rows: hiddenSize }],
			bias,
			residual: "hidden",
		},
	];
}
