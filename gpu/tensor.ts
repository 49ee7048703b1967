import type { Gpu } from "./device.ts";

/** f16 and bf16 are storage only: two values in each u32, widened to f32 before any arithmetic. */
export type Dtype = "f32" | "u32" | "i32" | "f16" | "bf16";

/** Bytes of one element. */
export const DTYPE_BYTES: Record<Dtype, number> = { f32: 4, u32: 4, i32: 4, f16: 2, bf16: 2 };

/** The number of elements of a shape; `[]` is one element. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

/** `[2, 3]` for messages. */
export function shapeText(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

/**
 * A row-major array in GPU memory. Freed by `using` or {@link Gpu.free}; a freed tensor's memory is
 * handed to the next tensor of its size, which is safe because the queue runs in order.
 */
export class Tensor implements Disposable {
  /** Number of elements. */
  readonly size: number;
  /** Bytes of the elements, rounded up to whole u32 words. */
  readonly bytes: number;

  constructor(
    readonly gpu: Gpu,
    readonly buffer: GPUBuffer,
    readonly shape: readonly number[],
    readonly dtype: Dtype,
    /** Bytes from the start of the buffer. */
    readonly offset: number,
    /** False for a view: freeing it does nothing. */
    readonly owned: boolean,
  ) {
    this.size = elementsOf(shape);
    this.bytes = Math.ceil(this.size * DTYPE_BYTES[dtype] / 4) * 4;
  }

  /**
   * Another shape for a part of the same memory, from element `start` on.
   *
   * @throws {RangeError} If the part does not lie inside this tensor.
   */
  view(start: number, shape: readonly number[], dtype: Dtype = this.dtype): Tensor {
    const offset = this.offset + start * DTYPE_BYTES[this.dtype];
    const part = new Tensor(this.gpu, this.buffer, shape, dtype, offset, false);
    if (start < 0 || offset + part.bytes > this.offset + this.bytes) {
      throw new RangeError(
        `No view of ${shapeText(shape)} from element ${start} of ${shapeText(this.shape)}`,
      );
    }
    return part;
  }

  [Symbol.dispose](): void {
    this.gpu.free(this);
  }
}
