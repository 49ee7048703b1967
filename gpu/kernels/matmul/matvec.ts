import type { Gpu } from "../../device.ts";
import { MAX_GROUPS, uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { reducesInSubgroup, reductionLanes } from "../reduce/reduction.ts";
import {
	MATVEC_FLAGS,
	MATVEC_ROWS,
	type MatvecDtype,
	matvecKernel,
	matvecStep,
} from "./matvec_source.ts";

/** The arguments of {@link matvec}. */
export interface Matvec {
	/** f32 `[tokens, k]`; few tokens, as each one reads the whole weight. */
	x: Tensor;
	/** `[n, k]`, f32, f16 or bf16. */
	weight: Tensor;
	/** Receives the products, f32. */
	out: Tensor;
	/** The element of `out` that receives the first product; 0 if absent. */
	start?: number;
	/** Elements from the products of one token to those of the next; n if absent. */
	stride?: number;
	/** f32 `[n]`. */
	bias?: Tensor;
	/** f32 `[tokens, n]`; must not share memory with `out`. */
	residual?: Tensor;
}

/**
 * Queues out = x · weightᵀ (+ bias) (+ residual) for one or a few tokens, with the weight as stored.
 */
export async function matvec(
	gpu: Gpu,
	{ x, weight, out, start = 0, stride, bias, residual }: Matvec,
): Promise<void> {
	const [tokens] = x.shape;
	const [n, k] = weight.shape;
	const dtype = weight.dtype as MatvecDtype;
	const aligned = k % matvecStep(dtype) === 0;
	const useSubgroup = reducesInSubgroup(gpu);
	const lanes = reductionLanes(gpu);
	const kernel = await gpu.kernel({
		name: `matvec_${dtype}_${useSubgroup ? "subgroup" : "workgroup"}${aligned ? "" : "_any"}`,
		source: () => matvecKernel(dtype, lanes, useSubgroup, aligned),
	});
	const groups = Math.ceil(n / MATVEC_ROWS);
	const flags = (bias ? MATVEC_FLAGS.bias : 0) | (residual ? MATVEC_FLAGS.residual : 0);
	kernel.dispatch({
		params: uniform([n, k, flags, start, stride ?? n]),
		tensors: [x, weight, bias ?? x, residual ?? x, out],
		workgroups: [Math.min(groups, MAX_GROUPS), Math.ceil(groups / MAX_GROUPS), tokens],
	});
}
