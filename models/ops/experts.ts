import { RoutedTokens } from "../../codecs/experts/expert_weights.ts";
import type { Outputs } from "../registers.ts";
import type { GroupedLinear, LinearGroup, OpKind } from "./op.ts";

/**
 * Linear layers of experts: each token passes through those of its experts, which share an input. The
 * outputs are `[tokens, k · rows]`, slot by slot.
 */
export interface ExpertsOp {
	/** The kind of operation. */
	op: "experts";
	/** Register of the input. */
	from: string;
	/** The register that tells the experts of each token. */
	routing: string;
	/** Numbers per input. */
	cols: number;
	/** Experts of the layer, and per token. */
	experts: number;
	/** Experts per token. */
	k: number;
	/** Whether each slot of a token has an input of its own, `[tokens, k · cols]`. */
	each: boolean;
	/** The linear layers of an expert; `*` in the module stands for its index. */
	linears: readonly GroupedLinear[];
	/** Whether they have biases. */
	bias: boolean;
	/** The module that stacks those of all experts in checkpoints; absent if each has its own tensors. */
	stacked?: { module: string; columns?: boolean };
}

export const experts: OpKind<ExpertsOp> = {
	isCheap: false,

	reads({ from, routing, cols, k, each }) {
		return { [from]: each ? k * cols : cols, [routing]: 2 * k };
	},

	writes: ({ linears, k }) => Object.fromEntries(linears.map(({ to, rows }) => [to, k * rows])),

	groups(op) {
		const { from, cols, linears, experts, k, bias, routing, stacked } = op;
		return Array.from({ length: experts }, (_, index): LinearGroup => ({
			from,
			cols,
			linears: linears.map(({ module: role, ...linear }) => (
				{ ...linear, module: moduleOf(role, index), role }
			)),
			bias,
			...(stacked && {
				fused: stacked.module,
				stack: {
					matrix: index,
					of: experts,
					...(stacked.columns && { columns: true }),
				},
			}),
			expert: { index, of: experts, k, routing },
		}));
	},

	async run(op, { gpu, weights, registers }) {
		const { from, routing, experts, linears, k, each } = op;
		const x = registers.get(from)!;
		const [tokens] = x.shape;
		using routed = new RoutedTokens(gpu, registers.get(routing)!, experts);
		const outputs: Outputs = [];
		for (const { module, to, rows } of linears) {
			const y = gpu.empty([tokens, k * rows]);
			const { parts, bias } = weights.expertsOf(module);
			for (const part of parts) await part.multiply({ x, each, routed, bias, y });
			outputs.push([to, y]);
		}
		return outputs;
	},
};

/** A module, with `*` in place of the index of an expert: "mlp.experts.*.gate_proj". */
export function roleOf(module: string): string {
	return module.replace(/\bexperts\.\d+\./, "experts.*.");
}

/** The module of one expert. */
export function moduleOf(pattern: string, expert: number): string {
	return pattern.replace("*", String(expert));
}
