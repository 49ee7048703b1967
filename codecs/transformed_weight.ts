import type { Gpu } from "../gpu/device.ts";
import { SharedFactor } from "../gpu/kernels/matmul/gemm.ts";
import { transformInput } from "../gpu/kernels/rotation/rotate.ts";
import { shapeText, type Tensor } from "../gpu/tensor.ts";
import type { Addends, InputTransform, VectorSource, Weight, WeightGroup } from "./codec.ts";

/** A weight that transforms its input before the product; owns the weight that it multiplies with. */
export class TransformedWeight implements Weight {
	constructor(
		readonly gpu: Gpu,
		readonly inner: Weight,
		readonly transform: InputTransform,
	) {}

	get rows(): number {
		return this.inner.rows;
	}

	get cols(): number {
		return this.inner.cols;
	}

	async multiply(x: Tensor, addends?: Addends): Promise<Tensor> {
		using input = await this.input(x);
		return await this.inner.multiply(input, addends);
	}

	/**
	 * The transformed input, f32 `[tokens, cols]`, owned by the caller.
	 *
	 * @throws {RangeError} If the shape of x does not match.
	 */
	async input(x: Tensor): Promise<Tensor> {
		const { gpu, rows, cols, transform } = this;
		if (x.shape[1] !== cols) {
			const shapes = `${shapeText(x.shape)} with a weight of ${shapeText([rows, cols])}`;
			throw new RangeError(`Cannot multiply ${shapes}`);
		}
		return await transformInput(gpu, x, cols, transform);
	}

	[Symbol.dispose](): void {
		this.inner[Symbol.dispose]();
	}
}

/**
 * A group whose common input is transformed: by its product with a vector if the group's kernel can do so,
 * otherwise once in a dispatch of its own. Owns the group that it multiplies with.
 */
export class TransformedGroup implements WeightGroup {
	readonly weights: readonly TransformedWeight[];

	constructor(
		readonly gpu: Gpu,
		readonly inner: WeightGroup,
		readonly transform: InputTransform,
		/** Whether the product transforms its input. */
		readonly isFused = !gpu.software && inner.transforms?.(transform) === true,
	) {
		this.weights = inner.weights.map((weight) => new TransformedWeight(gpu, weight, transform));
	}

	get rows(): number {
		return this.inner.rows;
	}

	get starts(): readonly number[] {
		return this.inner.starts;
	}

	/** In one dispatch, or one computes the source and transforms it, and the next one multiplies. */
	async multiplyVector(
		x: Tensor,
		{ source, ...addends }: Addends & { source?: VectorSource } = {},
	): Promise<Tensor> {
		const { gpu, inner, rows, transform } = this;
		const [{ cols }] = this.weights;
		const up = source?.op === "activation" ? source.up ?? 0 : 0;
		if (x.size !== up + cols) {
			const shapes = `${shapeText(x.shape)} with weights of ${shapeText([rows, cols])}`;
			throw new RangeError(`Cannot multiply ${shapes}`);
		}
		if (this.isFused) return await inner.multiplyVector(x, { source, transform, ...addends });
		using input = await transformInput(gpu, x, cols, transform, source);
		return await inner.multiplyVector(input, addends);
	}

	[Symbol.dispose](): void {
		this.inner[Symbol.dispose]();
	}
}

/**
 * The products of one input with several weights, as {@link Weight.multiply} gives them. The input is
 * transformed once for all weights that transform it in the same way, and rounded once for tensor cores.
 *
 * @param x f32 `[tokens, cols]`.
 * @returns f32 `[tokens, rows]` each, owned by the caller.
 */
export async function multiplyAll(
	x: Tensor,
	products: readonly (Addends & { weight: Weight })[],
): Promise<Tensor[]> {
	using plain = new SharedFactor();
	const inputs = new Map<string, { input: Tensor; shared: SharedFactor }>();
	const results: Tensor[] = [];
	for (const { weight, ...addends } of products) {
		if (!(weight instanceof TransformedWeight)) {
			results.push(await weight.multiply(x, { ...addends, shared: plain }));
			continue;
		}
		const { rotation, exponent } = weight.transform;
		const key = `${rotation?.seed} ${rotation?.block} ${exponent}`;
		let known = inputs.get(key);
		if (!known) {
			inputs.set(key, known = { input: await weight.input(x), shared: new SharedFactor() });
		}
		const { input, shared } = known;
		results.push(await weight.inner.multiply(input, { ...addends, shared }));
	}
	for (const { input, shared } of inputs.values()) {
		shared[Symbol.dispose]();
		x.gpu.free(input);
	}
	return results;
}
