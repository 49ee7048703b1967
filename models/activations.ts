import { UserError } from "../base/errors.ts";
import { sum } from "../base/figures.ts";
import type { Gpu } from "../gpu/device.ts";
import type { HostStore, KeptBytes } from "../gpu/host.ts";
import { narrow } from "../gpu/kernels/elementwise/narrow.ts";
import { widen } from "../gpu/kernels/elementwise/widen.ts";
import { DTYPE_BYTES, type Tensor } from "../gpu/tensor.ts";
import type { Registers } from "./registers.ts";

/** The storage format of activations between the operations of a decoder layer. */
export type ActivationDtype = "f32" | "f16";

/** The options of {@link Activations}. */
export interface ActivationsOptions {
	/** Tokens of each batch. */
	tokens: readonly number[];
	/** Elements per token of the residual stream between the layers, which must be kept. */
	width: number;
	/** The most elements per token that are kept if there is room; `width` if absent. */
	nearWidth?: number;
	/** The most elements per token that are kept where there is little room; `width` if absent. */
	leanWidth?: number;
	/** The storage format; f32 if absent. Computation is always in f32. */
	dtype?: ActivationDtype;
	/** The budget of GPU memory in bytes; batches beyond it go to the host. Infinity if absent. */
	gpuBytes?: number;
}

/** The stored content of a register. */
interface Kept {
	shape: readonly number[];
	/** Element offset in the batch's place in GPU memory; -1 on the host. */
	start: number;
	host?: KeptBytes;
}

/** The state of a batch in a decoder layer: its registers before operation `at`. */
interface KeptBatch {
	at: number;
	registers: Map<string, Kept>;
	/** Its place in GPU memory; absent if it is kept on the host. */
	place?: Tensor;
}

/**
 * Approximate size in bytes of the buffers that hold batches: many small ones are expensive for
 * drivers.
 */
const ARENA_BYTES = 1 << 30;
/** Alignment in elements of places and registers, for the alignment of bindings. */
const ALIGNMENT = 128;

/**
 * The activations of batches of tokens between passes through a decoder layer: the registers that a
 * batch needs to resume at some operation. Each batch has a place in GPU memory for the residual stream
 * and, if there is room, for the input of a linear layer beside it. A batch whose stream does not fit
 * is kept by the host.
 *
 * @internal
 */
export class Activations implements Disposable {
	readonly dtype: ActivationDtype;
	readonly #batches: KeptBatch[];
	readonly #arenas: Tensor[] = [];
	/** The stored content behind each tensor that {@link load} returned. */
	readonly #loaded = new WeakMap<Tensor, Kept>();
	readonly #overflows: Tensor;
	/** Registers for which GPU memory has no room. */
	readonly #host: HostStore;

	constructor(readonly gpu: Gpu, options: ActivationsOptions) {
		const {
			tokens,
			width,
			nearWidth = width,
			leanWidth = width,
			dtype = "f32",
			gpuBytes = Infinity,
		} = options;
		this.dtype = dtype;
		this.#batches = tokens.map(() => ({ at: 0, registers: new Map() }));
		this.#overflows = gpu.zeros([1], "u32");
		const stream = tokens.map((count) => placeSize(count * width));
		const beside = tokens.map((count) => placeSize(count * (nearWidth - width)));
		let room = Math.floor(gpuBytes / DTYPE_BYTES[dtype]);
		const wants = (sizes: number[]) =>
			sizes.map((size) => {
				if (size > room) return 0;
				room -= size;
				return size;
			});
		const kept = wants(stream);
		const more = wants(beside);
		const places = kept.map((size, i) => size && size + more[i]);
		const onHost = tokens.map((count, i) => count * leanWidth > places[i] ? count * leanWidth : 0);
		this.#host = gpu.reserveHost(DTYPE_BYTES[dtype] * sum(onHost));
		this.#allocate(places);
	}

	#allocate(sizes: readonly number[]): void {
		const { dtype } = this;
		const most = Math.min(ARENA_BYTES, this.gpu.maxBuffer) / DTYPE_BYTES[dtype];
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

	/** Bytes of GPU memory that the batches occupy. */
	get gpuBytes(): number {
		return this.#arenas.reduce((sum, { bytes }) => sum + bytes, 0);
	}

	get batches(): number {
		return this.#batches.length;
	}

	/** The operation at which a batch resumes. */
	at(batch: number): number {
		return this.#batches[batch].at;
	}

	/** Whether `elements` elements fit in a batch's place in GPU memory. */
	hasRoomFor(batch: number, elements: number): boolean {
		const { place } = this.#batches[batch];
		return place !== undefined && elements <= place.size;
	}

	/**
	 * A batch's registers, f32 `[tokens, width]`. The caller frees them or passes them to {@link keep}.
	 * They are read-only, and invalid after the batch has been kept again.
	 */
	async load(batch: number): Promise<Registers> {
		const { place, registers } = this.#batches[batch];
		const loaded: Registers = new Map();
		for (const [name, kept] of registers) {
			const { host, start, shape } = kept;
			const stored = host
				? this.gpu.upload(host.read(), shape, this.dtype)
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
	 * Stores a batch's registers in place of the previous ones, and frees them.
	 *
	 * @param at The operation to resume at.
	 * @param registers "hidden" first; unchanged registers must be the tensors that {@link load} returned.
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
		const wanted = [...registers].map(([name, tensor], i) => {
			const start = target ? starts[i] : -1;
			const known = this.#loaded.get(tensor);
			const isThere = known && before.get(name) === known && known.start === start;
			return { name, tensor, start, kept: isThere ? known : undefined };
		});
		const stays = new Set(wanted.map(({ kept }) => kept));
		// First, so that the host never has both.
		for (const kept of before.values()) if (!stays.has(kept)) kept.host?.free();
		const after = new Map<string, Kept>();
		for (const { name, tensor, start, kept } of wanted) {
			after.set(name, kept ?? await this.#store(tensor, target, start));
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
		return {
			shape,
			start,
			host: this.#host.keep(bytes.subarray(0, stored.size * DTYPE_BYTES[dtype])),
		};
	}

	/**
	 * Rounds registers to the storage format, as storing and loading them would; replaced tensors are
	 * freed.
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
	 * @param where The place in the model, for the message.
	 * @throws {UserError} If any activation exceeded the range of f16.
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
		this.#host[Symbol.dispose]();
	}
}

/**
 * The activations of one or two streams of the same batches, within one budget of GPU memory. Both
 * residual streams come before the inputs of linear layers beside the first one, then those beside the
 * second one.
 */
export function activationStreams(
	gpu: Gpu,
	options: ActivationsOptions,
	streams: 1 | 2,
): Activations[] {
	if (streams === 1) return [new Activations(gpu, options)];
	const { gpuBytes = Infinity, tokens, width, dtype = "f32" } = options;
	const stream = tokens.reduce((sum, count) => sum + placeSize(count * width), 0) *
		DTYPE_BYTES[dtype];
	const first = new Activations(gpu, {
		...options,
		gpuBytes: Math.max(gpuBytes - stream, gpuBytes / 2),
	});
	return [first, new Activations(gpu, { ...options, gpuBytes: gpuBytes - first.gpuBytes })];
}

/** The elements of a place that holds `elements`. */
function placeSize(elements: number): number {
	return Math.ceil(elements / ALIGNMENT) * ALIGNMENT;
}
