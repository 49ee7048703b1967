import { gemm, SharedFactor } from "../../gpu/kernels/matmul/gemm.ts";
import { matvec } from "../../gpu/kernels/matmul/matvec.ts";
import { shapeText, type Tensor } from "../../gpu/tensor.ts";
import type { Addends, Weight } from "../codec.ts";

/** A dense weight: an f32, f16 or bf16 matrix `[rows, cols]`, which it owns. */
export class DenseWeight implements Weight {
	readonly #rounded?: SharedFactor;

	/**
	 * Owns the matrix, f32 `[rows, cols]`.
	 *
	 * @param isFixed Whether it never changes and is used for many products: on tensor cores it is then
	 *   rounded once, and the rounded matrix kept.
	 */
	constructor(readonly matrix: Tensor, isFixed = false) {
		if (isFixed) this.#rounded = new SharedFactor();
	}

	/** Outputs. */
	get rows(): number {
		return this.matrix.shape[0];
	}

	/** Inputs. */
	get cols(): number {
		return this.matrix.shape[1];
	}

	async multiply(x: Tensor, { bias, residual, shared }: Addends = {}): Promise<Tensor> {
		const { matrix, rows: n } = this;
		const { gpu } = matrix;
		const [m, k] = x.shape;
		if (k !== this.cols) {
			throw new RangeError(
				`Cannot multiply ${shapeText(x.shape)} with a weight of ${shapeText(matrix.shape)}`,
			);
		}
		const c = gpu.empty([m, n]);
		if (m === 1) await matvec(gpu, { x, weight: matrix, out: c, bias, residual });
		else {
			const product = { layout: "NT", m, n, k, a: x, b: matrix, c, mayRound: true } as const;
			await gemm(gpu, { ...product, bias, residual, sharedA: shared, sharedB: this.#rounded });
		}
		return c;
	}

	/** Frees the matrix. */
	[Symbol.dispose](): void {
		this.#rounded?.[Symbol.dispose]();
		this.matrix[Symbol.dispose]();
	}
}
