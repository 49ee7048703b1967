import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Addends, InputTransform, VectorOptions, Weight, WeightGroup } from "../codec.ts";
import { type BillmGroupTensors, freeGroup } from "./group.ts";
import { billmProduct } from "./matmul.ts";
import { billmVectorProduct, transformsVectors } from "./vector_product.ts";
import { type BillmTensors, freeBillm } from "./tensors.ts";

/** A BiLLM layer on the GPU, multiplied in packed form; owns its tensors. */
export class BillmWeight implements Weight {
	constructor(readonly gpu: Gpu, readonly tensors: BillmTensors) {}

	get rows(): number {
		return this.tensors.rows;
	}

	get cols(): number {
		return this.tensors.cols;
	}

	multiply(x: Tensor, addends?: Addends): Promise<Tensor> {
		return billmProduct(this.gpu, x, this.tensors, addends);
	}

	[Symbol.dispose](): void {
		freeBillm(this.gpu, this.tensors);
	}
}

/** A group of BiLLM layers that are multiplied with a vector in one dispatch; owns its tensors. */
export class BillmGroup implements WeightGroup {
	readonly weights: readonly BillmWeight[];

	constructor(readonly gpu: Gpu, readonly tensors: BillmGroupTensors) {
		this.weights = tensors.weights.map((part) => new BillmWeight(gpu, part));
	}

	get rows(): number {
		return this.tensors.rows;
	}

	get starts(): readonly number[] {
		return this.tensors.starts;
	}

	transforms(transform: InputTransform): boolean {
		return transformsVectors(transform);
	}

	multiplyVector(x: Tensor, options?: VectorOptions): Promise<Tensor> {
		return billmVectorProduct(this.gpu, x, this.tensors, options);
	}

	[Symbol.dispose](): void {
		freeGroup(this.gpu, this.tensors);
	}
}
