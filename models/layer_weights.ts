import type { Weight, WeightGroup } from "../codecs/codec.ts";
import { DenseWeight } from "../codecs/dense/weight.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { ExpertWeights } from "../codecs/experts/expert_weights.ts";
import { DenseExperts } from "../codecs/experts/dense_experts.ts";
import type { LayerPlan } from "./layer_plan.ts";
import { expertsOf, groupsOf, type Op } from "./ops/mod.ts";

/** A linear layer on the GPU; its bias is f32 `[rows]`. */
export interface LoadedLinear<W extends Weight = Weight> {
	weight: W;
	bias?: Tensor;
	/** Whether the weight is a view of a matrix of all experts, which is used in its place. */
	isView?: boolean;
}

/** The linear layers of one role of all experts of a decoder layer. */
export interface LoadedExperts {
	/** Each expert is in one of them. */
	parts: readonly ExpertWeights[];
	/** f32 `[experts, rows]`. */
	bias?: Tensor;
}

/** The weights of a decoder layer on the GPU, by names without the layer's prefix. */
export class LayerWeights<W extends Weight = Weight> implements Disposable {
	/** Linear layers by module: "self_attn.q_proj". */
	readonly linears: Map<string, LoadedLinear<W>> = new Map();
	/** Other tensors in f32, by name: "input_layernorm.weight". */
	readonly tensors: Map<string, Tensor> = new Map();
	/** Groups of linear layers by operation; their members are also in `linears`. */
	readonly groups: Map<Op, { group: WeightGroup; biases?: Tensor }> = new Map();

	/** Those of experts by module, with `*` in place of an expert: "mlp.experts.*.gate_proj". */
	readonly experts: Map<string, LoadedExperts> = new Map();

	/** @param layer The layer's index, from 0. */
	constructor(readonly layer: number, readonly plan: LayerPlan) {}

	/** @throws {Error} If it is not loaded. */
	linear(module: string): LoadedLinear<W> {
		return loaded(this.linears, module);
	}

	/** @throws {Error} If it is not loaded. */
	tensor(name: string): Tensor {
		return loaded(this.tensors, name);
	}

	/**
	 * The linear layers of all experts.
	 *
	 * @param module With `*` in place of an expert.
	 * @throws {Error} If they are not loaded.
	 */
	expertsOf(module: string): LoadedExperts {
		return loaded(this.experts, module);
	}

	/** Frees the linear layers of the operations before one. */
	deleteBefore(end: number): void {
		for (const op of this.plan.ops.slice(0, end)) {
			for (const { linears } of groupsOf(op)) for (const { module } of linears) this.delete(module);
			for (const { module } of expertsOf(op)?.linears ?? []) this.deleteExperts(module);
		}
	}

	/** Frees linear layers of experts that are no longer needed. */
	deleteExperts(module: string): void {
		const experts = this.experts.get(module);
		for (const part of experts?.parts ?? []) part[Symbol.dispose]();
		experts?.bias?.[Symbol.dispose]();
		this.experts.delete(module);
	}

	/** Frees a linear layer that is no longer needed. */
	delete(module: string): void {
		const linear = this.linears.get(module);
		linear?.weight[Symbol.dispose]();
		linear?.bias?.[Symbol.dispose]();
		this.linears.delete(module);
	}

	[Symbol.dispose](): void {
		for (const module of [...this.linears.keys()]) this.delete(module);
		for (const tensor of this.tensors.values()) tensor[Symbol.dispose]();
		for (const { group, biases } of this.groups.values()) {
			group[Symbol.dispose]();
			biases?.[Symbol.dispose]();
		}
		for (const module of [...this.experts.keys()]) this.deleteExperts(module);
		this.tensors.clear();
		this.groups.clear();
	}
}

/** A copy of a layer of dense weights, with tensors of its own. */
export function cloneLayer(weights: LayerWeights<DenseWeight>): LayerWeights<DenseWeight> {
	const clone = (tensor: Tensor) => tensor.gpu.clone(tensor);
	const copy = new LayerWeights<DenseWeight>(weights.layer, weights.plan);
	for (const [module, { weight: { matrix }, bias, isView }] of weights.linears) {
		if (isView) continue;
		const weight = new DenseWeight(clone(matrix));
		copy.linears.set(module, { weight, bias: bias && clone(bias) });
	}
	for (const [module, { parts, bias }] of weights.experts) {
		const copies = parts.map((part) => (part as DenseExperts).clone());
		copy.experts.set(module, { parts: copies, bias: bias && clone(bias) });
	}
	for (const [name, tensor] of weights.tensors) copy.tensors.set(name, clone(tensor));
	return copy;
}

/**
 * Puts a matrix in the place of a linear layer's, which is left to the caller.
 *
 * @param matrix f32 `[rows, cols]`; owned by the weights from now on.
 */
export function replaceMatrix(
	weights: LayerWeights<DenseWeight>,
	module: string,
	matrix: Tensor,
): void {
	const known = weights.linears.get(module);
	if (!known?.isView) {
		weights.linears.set(module, { ...known, weight: new DenseWeight(matrix) });
		return;
	}
	const { gpu } = matrix;
	gpu.copy(matrix, known.weight.matrix);
	gpu.free(matrix);
}

function loaded<Value>(values: ReadonlyMap<string, Value>, name: string): Value {
	const value = values.get(name);
	if (value === undefined) throw new Error(`The layer has no "${name}"`);
	return value;
}
