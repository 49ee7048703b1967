import type { Gpu } from "../gpu/device.ts";
import { narrow } from "../gpu/narrow.ts";
import { DTYPE_BYTES, type Tensor } from "../gpu/tensor.ts";
import { widen } from "../gpu/widen.ts";
import { UserError } from "../pipeline/errors.ts";
import type { Registers } from "./decoder.ts";

/** How activations are kept between the operations of a decoder layer. */
export type ActivationDtype = "f32" | "f16";

export interface ActivationsOptions {
  /** f32 unless told otherwise. What is computed is computed in f32 in any case. */
  dtype?: ActivationDtype;
  /** Bytes of GPU memory to keep them in; what is beyond goes to host memory. Infinity if absent. */
  gpuBytes?: number;
}

/** A register's content, in GPU memory or in host memory. */
interface Kept {
  shape: readonly number[];
  stored: Tensor | Uint8Array<ArrayBuffer>;
}

/** Where a batch is in a decoder layer: the registers before operation `step`. */
interface KeptBatch {
  step: number;
  registers: Map<string, Kept>;
}

/**
 * The activations of batches of tokens that are on their way through a model: what a batch needs to
 * go on from some operation of a decoder layer. They lie in GPU memory as long as there is room,
 * else in host memory.
 */
export class Activations implements Disposable {
  readonly dtype: ActivationDtype;
  readonly #limit: number;
  readonly #batches: KeptBatch[];
  /** What the tensors stand for that {@link load} gave out. */
  readonly #loaded = new WeakMap<Tensor, Kept>();
  readonly #overflows: Tensor;
  #gpuBytes = 0;

  /** @param batches Their number. */
  constructor(
    readonly gpu: Gpu,
    batches: number,
    { dtype = "f32", gpuBytes = Infinity }: ActivationsOptions = {},
  ) {
    this.dtype = dtype;
    this.#limit = gpuBytes;
    this.#batches = Array.from({ length: batches }, () => ({ step: 0, registers: new Map() }));
    this.#overflows = gpu.zeros([1], "u32");
  }

  get batches(): number {
    return this.#batches.length;
  }

  /** The operation before which a batch stands. */
  step(batch: number): number {
    return this.#batches[batch].step;
  }

  /** Whether so many more elements can be kept in GPU memory. */
  hasRoomFor(elements: number): boolean {
    return this.#gpuBytes + elements * DTYPE_BYTES[this.dtype] <= this.#limit;
  }

  /** Elements that are kept of a batch. */
  elements(batch: number): number {
    const registers = this.#batches[batch].registers.values();
    return registers.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b), 0);
  }

  /**
   * A batch's registers, f32 `[tokens, width]`. Free them, or hand them to {@link keep}; none of them
   * may be written to.
   */
  async load(batch: number): Promise<Registers> {
    const registers: Registers = new Map();
    for (const [name, kept] of this.#batches[batch].registers) {
      const { stored, shape } = kept;
      let tensor: Tensor;
      if (stored instanceof Uint8Array) {
        tensor = this.gpu.upload(stored, shape, this.dtype);
      } else tensor = stored.view(0, shape);
      if (this.dtype === "f16") {
        using narrow = tensor;
        tensor = await widen(this.gpu, narrow);
      }
      this.#loaded.set(tensor, kept);
      registers.set(name, tensor);
    }
    return registers;
  }

  /**
   * Keeps a batch's registers in the place of those it had, and frees them.
   *
   * @param step The operation to go on with.
   */
  async keep(batch: number, step: number, registers: Registers): Promise<void> {
    const before = this.#batches[batch].registers;
    const after = new Map<string, Kept>();
    for (const [name, tensor] of registers) {
      const kept = this.#loaded.get(tensor);
      if (kept && before.get(name) === kept) after.set(name, kept);
    }
    for (const [name, kept] of before) if (after.get(name) !== kept) this.#free(kept);
    for (const [name, tensor] of registers) {
      if (after.has(name)) this.gpu.free(tensor);
      else after.set(name, await this.#store(tensor));
    }
    this.#batches[batch] = { step, registers: after };
  }

  async #store(tensor: Tensor): Promise<Kept> {
    const { shape } = tensor;
    let stored = tensor.owned ? tensor : this.gpu.clone(tensor);
    if (this.dtype === "f16") {
      using wide = stored;
      stored = await narrow(this.gpu, wide, this.#overflows);
    }
    if (this.hasRoomFor(stored.size)) {
      this.#gpuBytes += stored.bytes;
      return { shape, stored };
    }
    using moved = stored;
    const bytes = await this.gpu.readBytes(moved);
    return { shape, stored: bytes.subarray(0, moved.size * DTYPE_BYTES[this.dtype]) };
  }

  #free({ stored }: Kept): void {
    if (stored instanceof Uint8Array) return;
    this.#gpuBytes -= stored.bytes;
    this.gpu.free(stored);
  }

  /**
   * Waits for the queue.
   *
   * @param where What the activations belong to, for the message.
   * @throws {UserError} If some of them were too large for f16.
   */
  async checkRange(where: string): Promise<void> {
    if (this.dtype === "f32") return;
    const [count] = await this.gpu.read(this.#overflows, "u32");
    if (count === 0) return;
    throw new UserError(
      `${count} activations of ${where} are beyond what f16 holds (65504); ` +
        `use activations: f32`,
    );
  }

  [Symbol.dispose](): void {
    for (const batch of this.#batches) {
      for (const kept of batch.registers.values()) this.#free(kept);
      batch.registers.clear();
    }
    this.gpu.free(this.#overflows);
  }
}
