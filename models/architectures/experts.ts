import type { ActivationName } from "../../gpu/kernels/elementwise/activation.ts";
import type { ClampedSwiglu } from "../../gpu/kernels/elementwise/clamped_swiglu.ts";
import { MOST_EXPERTS } from "../../gpu/kernels/experts/route.ts";
import type { Op } from "../ops/mod.ts";
import type { Fields } from "./fields.ts";

/** The experts of a family's feed-forward layers. */
export interface ExpertsKind {
	/** Experts of a decoder layer. */
	count: number;
	/** Experts per token. */
	perToken: number;
	/** Rows of a gate. */
	intermediateSize: number;
	/** Whether the weights of a token's experts add up to 1; else they are parts of a softmax over all. */
	renormalized: boolean;
	router: string;
	/** Whether the router and the experts have biases. */
	bias?: boolean;
	/** The modules of an expert's linear layers; `*` stands for the expert. */
	modules: { gate: string; up: string; down: string };
	/**
	 * The modules that stack the experts' matrices in checkpoints, and whether their rows are columns there;
	 * each expert has its own if absent.
	 */
	stacked?: { gateUp: string; down: string; columns?: boolean };
	/** The activation, if it is not that of the model. */
	clamped?: ClampedSwiglu;
	/** Whether a decoder layer has experts; others have one feed-forward network. */
	hasExperts(layer: number): boolean;
}

/** The usual modules of an expert. */
export const EXPERT_MODULES = {
	gate: "mlp.experts.*.gate_proj",
	up: "mlp.experts.*.up_proj",
	down: "mlp.experts.*.down_proj",
};

/**
 * The numbers of experts in config.json.
 *
 * @param keys The keys of the number of experts, the current one first.
 */
export function readExpertCounts(
	fields: Fields,
	keys: readonly [string, ...string[]],
	fallback: { count: number; perToken: number },
): { count: number; perToken: number } {
	const key = keys.find((key) => fields.json[key] != null) ?? keys[0];
	const count = fields.integer(key, fallback.count);
	if (count > MOST_EXPERTS) fields.fail(key, `at most ${MOST_EXPERTS}`);
	const perToken = fields.integer("num_experts_per_tok", fallback.perToken);
	if (perToken > count) fields.fail("num_experts_per_tok", `at most ${key}, ${count}`);
	return { count, perToken };
}

/** The operations of a feed-forward layer with experts. */
export function expertSteps(
	kind: ExpertsKind,
	{ input, hiddenSize, activation, residualFactor }: {
		input: string;
		hiddenSize: number;
		activation: ActivationName;
		residualFactor?: number;
	},
): Op[] {
	const { count, perToken, intermediateSize, renormalized, router, modules } = kind;
	const { bias = false, stacked, clamped } = kind;
	const common = { routing: "routing", experts: count, k: perToken, bias };
	const stack = (module: string | undefined) =>
		module === undefined ? {} : { stacked: { module, columns: stacked?.columns } };
	const gates = { from: "gate", up: "up", to: "x", width: perToken * intermediateSize };
	const inner = intermediateSize;
	return [
		{
			op: "route",
			module: router,
			bias,
			from: input,
			to: "routing",
			width: hiddenSize,
			experts: count,
			k: perToken,
			renormalized,
		},
		{
			op: "experts",
			...common,
			from: input,
			cols: hiddenSize,
			each: false,
			linears: [
				{ module: modules.gate, to: "gate", rows: inner },
				{ module: modules.up, to: "up", rows: inner },
			],
			...stack(stacked?.gateUp),
		},
		clamped
			? { op: "clamped_swiglu", ...gates, ...clamped }
			: { op: "activation", ...gates, name: activation },
		{
			op: "experts",
			...common,
			from: "x",
			cols: inner,
			each: true,
			linears: [{ module: modules.down, to: "y", rows: hiddenSize }],
			...stack(stacked?.down),
		},
		{
			op: "combine",
			to: "hidden",
			from: "y",
			routing: "routing",
			width: hiddenSize,
			k: perToken,
			factor: residualFactor,
		},
	];
}
