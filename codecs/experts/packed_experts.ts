import type { Gpu } from "../../gpu/device.ts";
import type { InputTransform, StackedWeights } from "../codec.ts";
import { DenseExperts, uploadPlaces } from "./dense_experts.ts";
import { type ExpertProduct, type ExpertWeights, VECTOR_TOKENS } from "./expert_weights.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/** Bytes of unpacked weights at a time. */
const SLAB_BYTES = 256 << 20;
const SLAB_BYTES_ON_CPU = 16 << 20;

/** Packed linear layers of some experts, which transform their input in the same way, if they do. */
export class PackedExperts implements ExpertWeights {
	readonly #places: Tensor;

	/** @param members The expert of each linear layer of the stack, of `experts` of the decoder layer. */
	constructor(
		readonly gpu: Gpu,
		readonly stack: StackedWeights,
		readonly members: readonly number[],
		readonly experts: number,
		readonly transform?: InputTransform,
	) {
		this.#places = uploadPlaces(gpu, members, experts);
	}

	get rows(): number {
		return this.stack.rows;
	}

	get cols(): number {
		return this.stack.cols;
	}

	async multiply(product: ExpertProduct): Promise<void> {
		const { stack, transform, cols } = this;
		const { routed, each, bias, y } = product;
		const { routing, tokens, k } = routed;
		const x = transform ? await routed.transformed(product.x, cols, transform) : product.x;
		if (tokens > VECTOR_TOKENS) return await this.#multiplySlabs({ ...product, x });
		const places = this.#places;
		const choice = { routing, places, vectors: tokens * k, perRow: each ? 1 : k };
		await stack.multiplyVectors(x, choice, y, bias);
	}

	/** Unpacks some experts at a time. */
	async #multiplySlabs(product: ExpertProduct): Promise<void> {
		const { gpu, stack, members, experts, rows, cols } = this;
		const bytes = gpu.software ? SLAB_BYTES_ON_CPU : SLAB_BYTES;
		const together = Math.max(1, Math.floor(bytes / (4 * rows * cols)));
		for (let first = 0; first < members.length; first += together) {
			const some = members.slice(first, first + together);
			using slab = new DenseExperts(gpu, rows, cols, some, experts);
			for (const [i, expert] of some.entries()) {
				await stack.unpack(first + i, slab.matrix(expert));
			}
			await slab.multiply(product);
		}
	}

	[Symbol.dispose](): void {
		this.stack[Symbol.dispose]();
		this.gpu.free(this.#places);
	}
}
