import type { Gpu } from "./device.ts";

/**
 * The dtype of a tensor. f16 and bf16 are storage formats only: two values per u32 word, widened to f32
 * for arithmetic.
 */
export type Dtype = "f32" | "u32" | "i32" | "f16" | "bf16";

/** Bytes of one element. */
export const DTYPE_BYTES: Record<Dtype, number> = { f32: 4, u32: 4, i32: 4, f16: 2, bf16: 2 };

/** The number of elements of a shape; `[]` is one element. */
export function elementsOf(shape: readonly number[]): number {
	return shape.reduce((product, length) => product * length, 1);
}

/** A shape in messages: `[2, 3]`. */
export function shapeText(shape: readonly number[]): string {
	return `[${shape.join(", ")}]`;
}

/**
 * A range of bytes of one buffer.
 *
 * @internal
 */
export interface Piece {
	buffer: GPUBuffer;
	offset: number;
	bytes: number;
}

/**
 * A row-major array in GPU memory. Freed by `using` or {@link Gpu.free}. The memory of a freed tensor is
 * reused for the next tensor of its size, which is safe because the queue runs in order.
 */
export class Tensor implements Disposable {
	/** Number of elements. */
	readonly size: number;
	/** Bytes of the elements, rounded up to whole u32 words. */
	readonly bytes: number;

	/** Made by {@link GpuDevice}, which owns the memory. */
	constructor(
		readonly gpu: Gpu,
		/** The memory: one buffer, or several that follow one another if it is more than one can hold. */
		readonly buffers: readonly GPUBuffer[],
		readonly shape: readonly number[],
		readonly dtype: Dtype,
		/** Bytes from the start of the first buffer. */
		readonly offset: number,
		/** False for a view: freeing it has no effect. */
		readonly owned: boolean,
	) {
		this.size = elementsOf(shape);
		this.bytes = Math.ceil(this.size * DTYPE_BYTES[dtype] / 4) * 4;
	}

	/**
	 * A view of a part of this tensor, from element `start` on, with its own shape and dtype.
	 *
	 * @throws {RangeError} If the part is not inside this tensor.
	 */
	view(start: number, shape: readonly number[], dtype: Dtype = this.dtype): Tensor {
		const offset = this.offset + start * DTYPE_BYTES[this.dtype];
		const part = new Tensor(this.gpu, this.buffers, shape, dtype, offset, false);
		if (start < 0 || offset + part.bytes > this.offset + this.bytes) {
			throw new RangeError(
				`No view of ${shapeText(shape)} from element ${start} of ${shapeText(this.shape)}`,
			);
		}
		return part;
	}

	/** Whether two tensors are in the same memory, whole or in part. */
	sharesMemoryWith({ buffers }: Tensor): boolean {
		return this.buffers[0] === buffers[0];
	}

	/** The parts of this tensor, in order, none across two buffers and none longer than `most` bytes. */
	*pieces(most = Infinity): Generator<Piece> {
		let skipped = this.offset;
		let left = this.bytes;
		for (const buffer of this.buffers) {
			const end = Math.min(buffer.size, skipped + left);
			for (let offset = skipped; offset < end;) {
				const bytes = Math.min(most, end - offset);
				yield { buffer, offset, bytes };
				offset += bytes;
				left -= bytes;
			}
			skipped = Math.max(0, skipped - buffer.size);
		}
	}

	/** Gives the memory back to the pool. */
	[Symbol.dispose](): void {
		this.gpu.free(this);
	}
}
