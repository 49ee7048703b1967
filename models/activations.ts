import { UserError } from "../base/errors.ts";
import type { Gpu } from "../gpu/device.ts";
import { narrow } from "../gpu/kernels/elementwise/narrow.ts";
import { widen } from "../gpu/kernels/elementwise/widen.ts";
import { DTYPE_BYTES, type Tensor } from "../gpu/tensor.ts";
import type { Registers } from "./registers.ts";

/** How activations are kept between the operations of a decoder layer. */
export type ActivationDtype = "f32" | "f16";

export interface ActivationsOptions {
  /** Tokens of each batch. */
  tokens: readonly number[];
  /** Elements of a token that must be kept: those of the stream between the layers. */
  width: number;
  /** Elements of a token that are kept at most, where there is room; `width` if absent. */
  nearWidth?: number;
  /** f32 unless told otherwise. What is computed is computed in f32 in any case. */
  dtype?: ActivationDtype;
  /** Bytes of GPU memory to keep them in; what is beyond goes to host memory. Infinity if absent. */
  gpuBytes?: number;
}

/** A register's content. */
interface Kept {
  shape: readonly number[];
  /** Elements from the start of the batch's place in GPU memory; -1 in host memory. */
  start: number;
  bytes?: Uint8Array<ArrayBuffer>;
}

/** Where a batch is in a decoder layer: the registers before operation `at`. */
interface KeptBatch {
  at: number;
  registers: Map<string, Kept>;
  /** Its place in GPU memory; none if it is kept in host memory. */
  place?: Tensor;
}

/** Places of batches lie in buffers of about this many bytes: small ones cost drivers a lot each. */
const ARENA_BYTES = 1 << 30;
/** Elements that places and registers start at multiples of, so that kernels can bind them. */
const ALIGNMENT = 128;

/**
 * The activations of batches of tokens that are on their way through a model: what a batch needs to
 * go on from some operation of a decoder layer. Each batch has a place in GPU memory for the stream
 * between the layers and, as long as there is room, for the input of a linear layer beside it. Where
 * there is no room for the stream it is kept in host memory.
 */
export class Activations implements Disposable {
  readonly dtype: ActivationDtype;
  readonly #batches: KeptBatch[];
  readonly #arenas: Tensor[] = [];
  /** What the tensors stand for that {@link load} gave out. */
  readonly #loaded = new WeakMap<Tensor, Kept>();
  readonly #overflows: Tensor;

  constructor(readonly gpu: Gpu, options: ActivationsOptions) {
    const { tokens, width, nearWidth = width, dtype = "f32", gpuBytes = Infinity } = options;
    this.dtype = dtype;
    this.#batches = tokens.map(() => ({ at: 0, registers: new Map() }));
    this.#overflows = gpu.zeros([1], "u32");
    const aligned = (elements: number) => Math.ceil(elements / ALIGNMENT) * ALIGNMENT;
    const stream = tokens.map((count) => aligned(count * width));
    const beside = tokens.map((count) => aligned(count * (nearWidth - width)));
    let room = Math.floor(gpuBytes / DTYPE_BYTES[dtype]);
    const wants = (sizes: number[]) =>
      sizes.map((size) => {
        if (size > room) return 0;
        room -= size;
        return size;
      });
    const kept = wants(stream);
    const more = wants(beside);
    this.#allocate(kept.map((size, i) => size && size + more[i]));
  }

  #allocate(sizes: readonly number[]): void {
    const { dtype } = this;
    const most = Math.min(ARENA_BYTES, this.gpu.device.limits.maxBufferSize) / DTYPE_BYTES[dtype];
    for (let first = 0; first < sizes.length;) {
      let end = first;
      let total = 0;
      while (end < sizes.length && (end === first || total + sizes[end] <= most)) {
        total += sizes[end++];
      }
      const arena = total > 0 && this.gpu.empty([total], dtype);
      if (arena) this.#arenas.push(arena);
      for (let start = 0; first < end; start += sizes[first++]) {
        const size = sizes[first];
        if (arena && size > 0) this.#batches[first].place = arena.view(start, [size]);
      }
    }
  }

  get batches(): number {
    return this.#batches.length;
  }

  /** The operation before which a batch stands. */
  at(batch: number): number {
    return this.#batches[batch].at;
  }

  /** Whether so many elements of a batch can be kept in GPU memory. */
  hasRoomFor(batch: number, elements: number): boolean {
    const { place } = this.#batches[batch];
    return place !== undefined && elements <= place.size;
  }

  /**
   * A batch's registers, f32 `[tokens, width]`. Free them, or hand them to {@link keep}; none of them
   * may be written to, nor be read after the batch has been kept anew.
   */
  async load(batch: number): Promise<Registers> {
    const { place, registers } = this.#batches[batch];
    const loaded: Registers = new Map();
    for (const [name, kept] of registers) {
      const { bytes, start, shape } = kept;
      const stored = bytes
        ? this.gpu.upload(bytes, shape, this.dtype)
        : place!.view(start, shape, this.dtype);
      let tensor = stored;
      if (this.dtype === "f16") {
        using narrow = stored;
        tensor = await widen(this.gpu, narrow);
      }
      this.#loaded.set(tensor, kept);
      loaded.set(name, tensor);
    }
    return loaded;
  }

  /**
   * Keeps a batch's registers in the place of those it had, and frees them.
   *
   * @param at The operation to go on with.
   * @param registers "hidden" first; what is unchanged must come as {@link load} gave it.
   */
  async keep(batch: number, at: number, registers: Registers): Promise<void> {
    const { place, registers: before } = this.#batches[batch];
    const starts: number[] = [];
    let end = 0;
    for (const { size } of registers.values()) {
      starts.push(Math.ceil(end / ALIGNMENT) * ALIGNMENT);
      end = starts.at(-1)! + size;
    }
    const target = place && end <= place.size ? place : undefined;
    const after = new Map<string, Kept>();
    for (const [name, tensor] of registers) {
      const start = target ? starts[after.size] : -1;
      const known = this.#loaded.get(tensor);
      const isThere = known && before.get(name) === known && known.start === start;
      after.set(name, isThere ? known : await this.#store(tensor, target, start));
      this.gpu.free(tensor);
    }
    this.#batches[batch] = { at, registers: after, place };
  }

  async #store(source: Tensor, place: Tensor | undefined, start: number): Promise<Kept> {
    const { gpu, dtype } = this;
    const { shape } = source;
    if (place) {
      const target = place.view(start, shape, dtype);
      if (dtype === "f16") await narrow(gpu, source, this.#overflows, target);
      else gpu.copy(source, target);
      return { shape, start };
    }
    using stored = dtype === "f16"
      ? await narrow(gpu, source, this.#overflows)
      : source.view(0, shape);
    const bytes = await gpu.readBytes(stored);
    return { shape, start, bytes: bytes.subarray(0, stored.size * DTYPE_BYTES[dtype]) };
  }

  /**
   * Rounds registers to what is kept of them, in place of keeping them and loading them again; they
   * are freed where they change.
   */
  async round(registers: Registers): Promise<void> {
    if (this.dtype === "f32") return;
    for (const [name, tensor] of registers) {
      if (this.#loaded.has(tensor)) continue;
      using wide = tensor;
      using stored = await narrow(this.gpu, wide, this.#overflows);
      registers.set(name, await widen(this.gpu, stored));
    }
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
    this.gpu.free(...this.#arenas, this.#overflows);
  }
}
