import type { Gpu } from "../../gpu/device.ts";
import { expertMatvec } from "../../gpu/kernels/experts/expert_matvec.ts";
import { groupedGemm } from "../../gpu/kernels/matmul/grouped_gemm.ts";
import { type Dtype, DTYPE_BYTES, type Tensor } from "../../gpu/tensor.ts";
import {
	type ExpertProduct,
	type ExpertWeights,
	NOT_HERE,
	VECTOR_TOKENS,
} from "./expert_weights.ts";

/** Alignment of matrices in bytes: views of them must begin where bindings may. */
const ALIGNMENT = 256;

/** Dense linear layers of some experts, in one tensor. */
export class DenseExperts implements ExpertWeights {
	/** The matrices, each `[rows, cols]`, from multiples of `step` elements on. */
	readonly weights: Tensor;
	readonly step: number;
	readonly #places: Tensor;

	/**
	 * @param members The experts that it holds, of `experts` of the layer.
	 * @param dtype Of the matrices: f32, f16 or bf16.
	 */
	constructor(
		readonly gpu: Gpu,
		readonly rows: number,
		readonly cols: number,
		readonly members: readonly number[],
		readonly experts: number,
		dtype: Dtype = "f32",
	) {
		const unit = ALIGNMENT / DTYPE_BYTES[dtype];
		this.step = Math.ceil(rows * cols / unit) * unit;
		this.weights = gpu.empty([members.length, this.step], dtype);
		this.#places = uploadPlaces(gpu, members, experts);
	}

	/** The matrix of an expert, a view. */
	matrix(expert: number): Tensor {
		const { rows, cols, step } = this;
		return this.weights.view(this.members.indexOf(expert) * step, [rows, cols]);
	}

	/** A copy with tensors of its own. */
	clone(): DenseExperts {
		const { gpu, rows, cols, members, experts, weights } = this;
		const copy = new DenseExperts(gpu, rows, cols, members, experts, weights.dtype);
		gpu.copy(weights, copy.weights);
		return copy;
	}

	async multiply({ x, each, routed, bias, y }: ExpertProduct): Promise<void> {
		const { gpu, weights, step, rows, cols } = this;
		const { routing, tokens, k } = routed;
		const common = { x, weights, step, rows, cols, places: this.#places, bias, y };
		if (tokens <= VECTOR_TOKENS) {
			const vectors = { vectors: tokens * k, perRow: each ? 1 : k };
			await expertMatvec(gpu, { ...common, ...vectors, routing });
		} else await groupedGemm(gpu, { ...common, each, pairs: await routed.sorted() });
	}

	[Symbol.dispose](): void {
		this.gpu.free(this.weights, this.#places);
	}
}

/** The place of each expert among those that a stack holds, u32 `[experts]`, owned by the caller. */
export function uploadPlaces(gpu: Gpu, members: readonly number[], experts: number): Tensor {
	const places = new Uint32Array(experts).fill(NOT_HERE);
	members.forEach((expert, place) => places[expert] = place);
	return gpu.upload(places, [experts]);
}
