import type { Gpu } from "../../gpu/device.ts";
import { type SortedPairs, sortPairs } from "../../gpu/kernels/experts/sort_pairs.ts";
import { groupedTileRows } from "../../gpu/kernels/matmul/grouped_gemm.ts";
import type { InputTransform } from "../../gpu/kernels/rotation/rotation.ts";
import { transformInput } from "../../gpu/kernels/rotation/rotate.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/** The experts of a batch's tokens. */
export class RoutedTokens implements Disposable {
	readonly tokens: number;
	/** Experts per token. */
	readonly k: number;
	#sorted?: SortedPairs;
	readonly #transformed: { x: Tensor; key: string; input: Tensor }[] = [];

	/** @param routing The experts of each token, then their weights, f32 `[tokens, 2 k]`. */
	constructor(readonly gpu: Gpu, readonly routing: Tensor, readonly experts: number) {
		const [tokens, width] = routing.shape;
		[this.tokens, this.k] = [tokens, width / 2];
	}

	/** The (token, slot) pairs by expert, in tiles for grouped products. */
	async sorted(): Promise<SortedPairs> {
		const { gpu, routing, experts, tokens, k } = this;
		const tileRows = groupedTileRows(gpu, tokens * k, experts);
		return this.#sorted ??= await sortPairs(gpu, routing, experts, tileRows);
	}

	/**
	 * An input as linear layers with a transform take it, the same tensor each time.
	 *
	 * @param x f32 `[tokens, cols]`, or `[tokens, k · cols]`.
	 */
	async transformed(x: Tensor, cols: number, transform: InputTransform): Promise<Tensor> {
		const { rotation, exponent } = transform;
		const key = `${rotation?.seed} ${rotation?.block} ${exponent}`;
		const known = this.#transformed.find((entry) => entry.x === x && entry.key === key);
		if (known) return known.input;
		const input = await transformInput(this.gpu, x, cols, transform);
		this.#transformed.push({ x, key, input });
		return input;
	}

	[Symbol.dispose](): void {
		this.gpu.free(...this.#transformed.map(({ input }) => input));
		this.#sorted?.[Symbol.dispose]();
	}
}

/** A product of routed tokens with the linear layers of their experts. */
export interface ExpertProduct {
	/** f32 `[tokens, cols]`, or `[tokens, k · cols]` if each slot has an input of its own. */
	x: Tensor;
	each: boolean;
	routed: RoutedTokens;
	/** The biases of all experts, f32 `[experts, rows]`. */
	bias?: Tensor;
	/** Receives the products, f32 `[tokens, k · rows]`; slots of other experts stay. */
	y: Tensor;
}

/** The linear layers of one role, such as "gate", of some experts on the GPU. */
export interface ExpertWeights extends Disposable {
	readonly rows: number;
	readonly cols: number;
	/** Queues a product, without waiting. */
	multiply(product: ExpertProduct): Promise<void>;
}

/** The most tokens for which weights are read once per token and expert. */
export const VECTOR_TOKENS = 8;

/** The place of an expert that is elsewhere. */
export const NOT_HERE = 0xffffffff;
