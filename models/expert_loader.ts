import type { PackedLinear } from "../codecs/codec.ts";
import { DenseWeight } from "../codecs/dense/weight.ts";
import { DenseExperts } from "../codecs/experts/dense_experts.ts";
import type { ExpertWeights } from "../codecs/experts/expert_weights.ts";
import { expertKind, uploadExperts } from "../codecs/mod.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Dtype, Tensor } from "../gpu/tensor.ts";
import type { LayerWeights } from "./layer_weights.ts";
import { type ExpertsOp, moduleOf } from "./ops/experts.ts";
import type { LinearGroup } from "./ops/op.ts";

/** Reads the linear layers of a decoder layer, for {@link loadExperts}. */
export interface ExpertSource {
	gpu: Gpu;
	weights: LayerWeights;
	/** A packed linear layer, if it is to stay packed; undefined for others. */
	packed(group: LinearGroup, linear: number): PackedLinear | undefined;
	/** Another one as a matrix, in f32 or as stored, owned by the caller. */
	matrix(group: LinearGroup, linear: number): Promise<Tensor>;
	/** The dtype of the matrix. */
	dtypeOf(group: LinearGroup, linear: number): Dtype;
	/** A bias in f32, owned by the caller. */
	bias(group: LinearGroup, linear: number): Promise<Tensor | undefined>;
	/** Has the values of a matrix or bias checked, which lies here from now on. */
	check(group: LinearGroup, linear: number, what: "weight" | "bias", tensor: Tensor): void;
}

/**
 * Loads the linear layers of all experts, role by role. Those that are alike are in one tensor: dense ones
 * of one dtype, and packed ones of one codec and layout.
 */
export async function loadExperts(
	source: ExpertSource,
	op: ExpertsOp,
	groups: readonly LinearGroup[],
): Promise<void> {
	const { gpu, weights } = source;
	for (const [role, { module, rows }] of op.linears.entries()) {
		const parts: ExpertWeights[] = [];
		const bias = op.bias ? gpu.empty([op.experts, rows]) : undefined;
		weights.experts.set(module, { parts, bias });
		const dense = new Map<Dtype, number[]>();
		const packed = new Map<string, { expert: number; linear: PackedLinear }[]>();
		for (const [expert, group] of groups.entries()) {
			const linear = source.packed(group, role);
			const kind = linear && expertKind(gpu, linear);
			if (kind !== undefined) {
				packed.set(kind, [...packed.get(kind) ?? [], { expert, linear: linear! }]);
				continue;
			}
			const dtype = source.dtypeOf(group, role);
			dense.set(dtype, [...dense.get(dtype) ?? [], expert]);
		}
		for (const alike of packed.values()) {
			const members = alike.map(({ expert }) => expert);
			parts.push(
				await uploadExperts(gpu, alike.map(({ linear }) => linear), members, op.experts),
			);
		}
		for (const [dtype, members] of dense) {
			const part = new DenseExperts(gpu, rows, op.cols, members, op.experts, dtype);
			parts.push(part);
			for (const expert of members) {
				const matrix = part.matrix(expert);
				using found = await source.matrix(groups[expert], role);
				gpu.copy(found, matrix);
				if (dtype === "f32") source.check(groups[expert], role, "weight", matrix);
				weights.linears.set(moduleOf(module, expert), {
					weight: new DenseWeight(matrix),
					isView: true,
				});
			}
		}
		for (const [expert, group] of groups.entries()) {
			if (!bias) break;
			using found = (await source.bias(group, role))!;
			const own = bias.view(expert * rows, [rows]);
			gpu.copy(found, own);
		}
		if (bias) source.check(groups[0], role, "bias", bias);
	}
}
