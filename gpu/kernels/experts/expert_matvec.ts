import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { FORMATS } from "../elementwise/formats.ts";
import { withReduction } from "../reduce/reduction.ts";
import source from "./expert_matvec.wgsl" with { type: "text" };

/** The matrices of experts. */
export interface ExpertMatrices {
	/** Matrices `[rows, cols]` of f32, f16 or bf16, each from a multiple of `step` elements on. */
	weights: Tensor;
	step: number;
	rows: number;
	cols: number;
	/** The matrix of each expert, u32 `[experts]`; 0xffffffff for an expert whose rows of `y` stay. */
	places: Tensor;
	/** f32 `[experts, rows]`. */
	bias?: Tensor;
}

/** The products of a few vectors with the matrices of their experts. */
export interface ExpertMatvec extends ExpertMatrices {
	/** f32 `[vectors, cols]`, or one vector for every `perRow` of them. */
	x: Tensor;
	perRow: number;
	vectors: number;
	/** The experts of each token, then their weights, f32 `[tokens, 2 k]`. */
	routing: Tensor;
	/** Receives the products, f32 `[vectors, rows]`. */
	y: Tensor;
}

/** Queues products of vectors with the matrices of their experts, each of which is read once per vector. */
export async function expertMatvec(
	gpu: Gpu,
	{ x, perRow, vectors, routing, weights, step, rows, cols, places, bias, y }: ExpertMatvec,
): Promise<void> {
	const kernel = await gpu.kernel(
		withReduction(gpu, {
			name: "expert_matvec",
			source,
			constants: { FORMAT: FORMATS[weights.dtype]!, HAS_BIAS: Number(bias !== undefined) },
		}),
	);
	kernel.dispatch({
		params: uniform([rows, cols, step, routing.shape[1] / 2, perRow]),
		tensors: [x, weights, routing, places, bias ?? x, y],
		workgroups: [rows, vectors],
	});
}
