import { UserError } from "../base/errors.ts";
import { type GpuHost, type HostMemory, type HostStore, IN_MEMORY } from "./host.ts";
import {
	type BoundKernel,
	type Dispatch,
	Kernel,
	type KernelForm,
	type KernelSource,
	type Pipeline,
} from "./kernel.ts";
import { Readback } from "./readback.ts";
import { type Scope, TurnScope } from "./scope.ts";
import { type Dtype, DTYPE_BYTES, elementsOf, type Piece, shapeText, Tensor } from "./tensor.ts";

/** The kinds of adapters to open: the fastest, a hardware GPU only, or a software adapter only. */
export const ADAPTER_KINDS = ["auto", "hardware", "software"] as const;
/** One of {@link ADAPTER_KINDS}. */
export type AdapterChoice = typeof ADAPTER_KINDS[number];

/** How large products are computed; see {@link GpuOptions}. */
export const PRECISIONS = ["f32", "f16"] as const;
/** One of {@link PRECISIONS}. */
export type Precision = typeof PRECISIONS[number];

/** The options of {@link Gpu.open}. */
export interface GpuOptions {
	/** The adapter to open; "auto" if absent. */
	adapter?: AdapterChoice;
	/**
	 * The budget of GPU memory in bytes. It limits stored activations and pooled buffers, not the working
	 * memory of a single step. Unlimited if absent.
	 */
	memory?: number;
	/** The host's memory for activations beyond it; all of it, whether it is there or not, if absent. */
	hostMemory?: HostMemory;
	/**
	 * Whether to fill new tensors with NaN, so that tests detect elements that a kernel does not write.
	 */
	poison?: boolean;
	/**
	 * How products of many tokens and Hessians are computed: in f32, or from operands rounded to f16 where
	 * there are tensor cores, with sums in f32. f32 if absent.
	 */
	precision?: Precision;
	/** Lower limits than the adapter's, in bytes, for tests; at least {@link LEAST_LIMIT}. */
	limits?: { binding?: number; buffer?: number };
}

/** There is no adapter at all. */
export class NoAdapter extends UserError {}

/**
 * A section of the GPU's work whose time is measured.
 *
 * @internal
 */
export interface Section {
	name: string;
	/** The weight of the time, if one of several equal pieces of work is measured; 1 if absent. */
	stands?: number;
}

/** GPU memory in bytes; pooled memory is free for reuse but not returned to the system. */
export interface MemoryUse {
	/** In use. */
	current: number;
	/** Free for reuse. */
	pooled: number;
	/** The most that was in use at once. */
	peak: number;
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
	const both = new Uint8Array(a.length + b.length);
	both.set(a);
	both.set(b, a.length);
	return both;
}

/** @internal */
type Grid = readonly [number, number, number];

interface KnownKernel {
	text: KernelSource["source"];
	kernel: Promise<Kernel>;
	isCompiled: boolean;
}

/**
 * What the next {@link Gpu} can take over.
 *
 * @internal
 */
interface Opened {
	adapter: GPUAdapter;
	device: GPUDevice;
	readback: Readback;
	/** Pipelines by the name, the constants and the text of their kernels. */
	pipelines: Map<string, Pipeline>;
}

/** Devices that are not in use, by the adapter that was asked for. */
const spares = new WeakMap<GpuHost, Map<AdapterChoice, Opened>>();

interface Call {
	params?: Uint8Array;
	bound: BoundKernel;
	grid: Grid;
	later?: Dispatch["later"];
}

/**
 * Recorded dispatches, which can be replayed; see {@link Gpu.record}.
 *
 * @internal
 */
export interface Recording {
	readonly calls: Call[];
	/** The memory pool of its dispatches. */
	readonly pool: Map<number, GPUBuffer[]>;
	readonly buffers: Set<GPUBuffer>;
}

/** Bytes per upload. */
export const UPLOAD_CHUNK = 4 << 20;
/** Bytes per allocation when probing the available memory. */
const PROBE_CHUNK = 1 << 30;
/** The most bind groups that each kernel caches for calls with the same tensors. */
const KEPT_BIND_GROUPS = 512;
const UNIFORM_SLOT = 256;
/** The least limit of bindings and buffers in bytes: they begin at multiples of it. */
export const LEAST_LIMIT = UNIFORM_SLOT;
const DISPATCHES_PER_SUBMIT = 64;
/** Timestamps of a query set, two per pass; WebGPU's limit. */
const TIMESTAMPS = 4096;
const POISON = 0x7fc0_7fc0; // NaN as f32, as two bf16 and as two f16

/**
 * A WebGPU device: a memory pool, kernels, and one queue of dispatches that is submitted in batches.
 *
 * Errors of the API are caught in error scopes and thrown by the next {@link read} or {@link idle}.
 * Without scopes, Deno would report nothing and results would be zeros.
 */
export class Gpu implements AsyncDisposable {
	/** What differs by host. */
	readonly host: GpuHost;
	/** The device of the WebGPU API. */
	readonly device: GPUDevice;
	/** The name of the adapter and its driver, as the adapter reports it. */
	readonly name: string;
	/** Whether the adapter is a software adapter, which computes on the CPU. */
	readonly software: boolean;
	/** Lanes of a subgroup if the adapter's subgroups have a fixed size, else 0. */
	readonly subgroupSize: number;
	/** Whether kernels may use subgroup barriers. */
	readonly subgroupBarriers: boolean;
	#budget: number;
	/** The most bytes that were found to be available. */
	#probed = 0;
	readonly #hostMemory: HostMemory;
	/** Whether kernels may use f64. */
	readonly f64: boolean;
	/** Whether kernels may multiply 16 x 16 matrices of f16 with sums in f32, in subgroups of 32. */
	readonly matrices: boolean;
	/** How large products are computed. */
	readonly precision: Precision;
	/** Whether new tensors are filled with NaN. */
	readonly poison: boolean;
	/** The maximum size of a buffer in bytes; larger tensors have several. */
	readonly maxBuffer: number;
	/** The maximum size of a storage binding in bytes; larger tensors are bound as panels. */
	readonly maxBinding: number;

	#readback: Readback;
	/** The buffers of tensors. */
	#buffers = new Set<GPUBuffer>();
	#onError = (event: Event) => {
		this.#lost ??= (event as GPUUncapturedErrorEvent).error.message;
	};
	#isDisposed = false;
	#kernels = new Map<string, KnownKernel>();
	#compiled: Kernel[] = [];
	#pool = new Map<number, GPUBuffer[]>();
	#memory: MemoryUse = { current: 0, pooled: 0, peak: 0 };
	#highest = 0;
	#hasFewSizes = false;
	#encoder?: GPUCommandEncoder;
	#pass?: GPUComputePassEncoder;
	#dispatches = 0;
	/** A unique number for each buffer that was ever bound. */
	#numbers = new WeakMap<GPUBuffer, number>();
	#nextNumber = 0;
	#uniforms: GPUBuffer;
	#uniformBytes = new Uint8Array(UNIFORM_SLOT * DISPATCHES_PER_SUBMIT);
	#errors: Promise<GPUError | null>[] = [];
	#lost?: string;
	#section?: Section;
	/** The scope of the recording that the current work belongs to, if any. */
	#recording: Scope<Recording>;
	#timing?: PassTiming;

	private constructor(
		host: GpuHost,
		/** @internal */
		readonly opened: Opened,
		private readonly options: GpuOptions,
	) {
		const { adapter, device } = opened;
		const { memory = Infinity, hostMemory = IN_MEMORY, poison = false, limits = {} } = options;
		this.precision = options.precision ?? "f32";
		this.host = host;
		this.#recording = host.scope?.() ?? new TurnScope(() => host.nextTask());
		this.device = device;
		this.name = adapter.info.description || adapter.info.vendor;
		this.software = adapter.info.isFallbackAdapter;
		const { subgroupMinSize: min, subgroupMaxSize: max } = adapter.info;
		const has = (feature: string) => device.features.has(feature as GPUFeatureName);
		const subgroups = has("subgroups");
		this.subgroupSize = subgroups && min === max ? min : 0;
		// Deno translates subgroup barriers without memory semantics for workgroup memory; only NVIDIA's
		// driver and Mesa's software adapter are known to order workgroup memory anyway.
		this.subgroupBarriers = has("wgpu-subgroup-barrier") &&
			(this.software || /nvidia(?!.*nvk)/i.test(this.name));
		this.#budget = memory;
		this.#hostMemory = hostMemory;
		this.f64 = has("wgpu-shader-f64");
		this.matrices = has("chromium-experimental-subgroup-matrix") && has("shader-f16") &&
			this.subgroupSize === 32 && hasSquares(adapter);
		this.poison = poison;
		const { maxBufferSize, maxStorageBufferBindingSize } = device.limits;
		const whole = (bytes: number) => Math.floor(bytes / UNIFORM_SLOT) * UNIFORM_SLOT;
		this.maxBuffer = whole(Math.min(limits.buffer ?? Infinity, maxBufferSize));
		this.maxBinding = whole(Math.min(limits.binding ?? Infinity, maxStorageBufferBindingSize));
		this.#readback = opened.readback;
		if (has("timestamp-query")) {
			this.#timing = {
				set: device.createQuerySet({ type: "timestamp", count: TIMESTAMPS }),
				labels: [],
				pending: [],
				seconds: {},
			};
		}
		this.#uniforms = device.createBuffer({
			label: "uniforms",
			size: this.#uniformBytes.byteLength,
			usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
		});
		device.addEventListener("uncapturederror", this.#onError);
		device.lost.then(({ message, reason }) => {
			if (reason !== "destroyed") this.#lost ??= `the device was lost: ${message}`;
		});
		this.#openScopes();
	}

	/**
	 * Opens a device with the adapter's limits.
	 *
	 * @throws {UserError} If there is no adapter of the requested kind.
	 */
	static async open(host: GpuHost, options: GpuOptions = {}): Promise<Gpu> {
		const { adapter: choice = "auto" } = options;
		const spare = spares.get(host)?.get(choice);
		if (spare) {
			spares.get(host)!.delete(choice);
			return new Gpu(host, spare, options);
		}
		const adapter = await requestAdapter(host, choice);
		if (!adapter) throw new NoAdapter(`No WebGPU adapter was found; ${host.adapterAdvice}`);
		const { description, isFallbackAdapter } = adapter.info;
		if (choice === "hardware" && isFallbackAdapter) {
			throw new UserError(
				`gpu.adapter is "hardware", but the only adapter found is "${description}", which computes on the CPU; ` +
					`install the GPU's Vulkan driver or set gpu.adapter to "auto"`,
			);
		}
		const limits: Record<string, number> = {};
		for (
			const limit of [
				"maxStorageBufferBindingSize",
				"maxBufferSize",
				"maxComputeWorkgroupStorageSize",
				"maxComputeInvocationsPerWorkgroup",
				"maxComputeWorkgroupSizeX",
				"maxStorageBuffersPerShaderStage",
				"minStorageBufferOffsetAlignment",
			] as const
		) limits[limit] = adapter.limits[limit];
		const device = await requestDevice(host, adapter, limits);
		const readback = await Readback.open(device);
		return new Gpu(host, { adapter, device, readback, pipelines: new Map() }, options);
	}

	/** Why the device can no longer be used; undefined if it can. */
	get fault(): string | undefined {
		return this.#lost;
	}

	/** Whether products that may be rounded to f16 are, see `mayRound` of `gemm`. */
	get roundsProducts(): boolean {
		return this.precision === "f16" && this.matrices;
	}

	/** The current and peak memory use. */
	get memory(): MemoryUse {
		return { ...this.#memory };
	}

	/**
	 * The part of `bytes` of memory that is available: within the budget or, without one, as much as can
	 * be allocated. If that is less than `bytes`, it becomes the budget.
	 */
	async memoryFor(bytes: number): Promise<number> {
		if (this.#budget === Infinity && bytes > this.#probed) {
			const found = await this.#probe(bytes);
			if (found < bytes) this.#budget = found;
			else this.#probed = bytes;
		}
		return Math.min(bytes, this.#budget);
	}

	/**
	 * A store of the host for about so many bytes that GPU memory has no room for.
	 *
	 * @throws {UserError} If the host has no room for them.
	 */
	reserveHost(bytes: number): HostStore {
		const isShared = this.host.systemMemory?.(this.software) !== undefined;
		// Without a budget, there was more than enough.
		const left = isShared && this.#budget < Infinity ? this.#budget - this.#memory.current : 0;
		return this.#hostMemory.reserve(bytes, Math.max(0, left));
	}

	async #probe(bytes: number): Promise<number> {
		if (bytes < PROBE_CHUNK) return bytes;
		const left = this.host.systemMemory?.(this.software);
		if (left !== undefined) return 0.8 * left;
		// Probes on a separate device, because running out of memory may lose the device.
		const adapter = await requestAdapter(this.host, "auto");
		if (!adapter) return bytes;
		const maxBufferSize = Math.min(adapter.limits.maxBufferSize, PROBE_CHUNK);
		const device = await adapter.requestDevice({ requiredLimits: { maxBufferSize } });
		const buffers: GPUBuffer[] = [];
		let found = 0;
		while (found < bytes) {
			device.pushErrorScope("out-of-memory");
			buffers.push(device.createBuffer({ size: maxBufferSize, usage: GPUBufferUsage.STORAGE }));
			if (await device.popErrorScope()) break;
			found += maxBufferSize;
		}
		for (const buffer of buffers) buffer.destroy();
		await device.queue.onSubmittedWorkDone(); // only then is the memory released
		device.destroy();
		// The probe cannot allocate memory in use, which counts as available; 5 % is left to the driver.
		return found < bytes ? 0.95 * found + this.#memory.current : bytes;
	}

	/** The peak of the bytes of tensors since the last call, without pooled memory. */
	takeHighest(): number {
		const highest = this.#highest;
		this.#highest = this.#memory.current;
		return highest;
	}

	/** Starts a new measurement of `memory.peak`. */
	resetPeak(): void {
		this.#memory.peak = this.#memory.current + this.#memory.pooled;
	}

	/**
	 * Runs work whose tensors have ever other sizes: their memory is then of one of few sizes, so that what is
	 * freed serves again. It may be an eighth larger than needed.
	 */
	async inFewSizes<Result>(work: () => Promise<Result>): Promise<Result> {
		const before = this.#hasFewSizes;
		this.#hasFewSizes = true;
		try {
			return await work();
		} finally {
			this.#hasFewSizes = before;
		}
	}

	/** A tensor with undefined content (NaN if poisoned). */
	empty(shape: readonly number[], dtype: Dtype = "f32", label = ""): Tensor {
		const wanted = Math.max(elementsOf(shape) * DTYPE_BYTES[dtype], 4);
		const unit = this.#hasFewSizes
			? Math.max(UNIFORM_SLOT, 2 ** (Math.floor(Math.log2(wanted)) - 3))
			: UNIFORM_SLOT;
		let left = Math.ceil(wanted / unit) * unit;
		const buffers: GPUBuffer[] = [];
		for (; left > 0; left -= this.maxBuffer) {
			buffers.push(this.#memoryOf(Math.min(left, this.maxBuffer), label));
		}
		const tensor = new Tensor(this, buffers, shape, dtype, 0, true);
		if (this.poison) {
			this.flush(); // dispatches before this point must still see the old content
			this.#write(tensor, 0, new Uint8Array(new Uint32Array(tensor.bytes / 4).fill(POISON).buffer));
		}
		return tensor;
	}

	#memoryOf(size: number, label: string): GPUBuffer {
		const recording = this.#recording.getStore();
		const buffer = this.#fromRecording(recording, size) ?? this.#fromPool(size) ??
			this.device.createBuffer({
				label,
				size,
				usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
			});
		this.#buffers.add(buffer);
		recording?.buffers.add(buffer);
		this.#memory.current += buffer.size;
		const { current, pooled, peak } = this.#memory;
		this.#memory.peak = Math.max(peak, current + pooled);
		this.#highest = Math.max(this.#highest, current);
		return buffer;
	}

	/** A tensor of zeros. */
	zeros(shape: readonly number[], dtype: Dtype = "f32"): Tensor {
		const tensor = this.empty(shape, dtype);
		this.clear(tensor);
		return tensor;
	}

	/** Sets every element to zero. */
	clear(tensor: Tensor): void {
		this.#refuseRecording("cleared");
		this.#endPass();
		const commands = this.#commands();
		for (const { buffer, offset, bytes } of tensor.pieces()) {
			commands.clearBuffer(buffer, offset, bytes);
		}
		this.#count();
	}

	/**
	 * A tensor with a copy of host data; f16 and bf16 are passed as bit patterns.
	 *
	 * @param data The whole data, or consecutive chunks. A chunk is copied before the next one is
	 *   requested.
	 * @throws {RangeError} If the size of the data does not match the shape.
	 */
	upload(
		data: ArrayBufferView | Iterable<Uint8Array>,
		shape: readonly number[],
		dtype: Dtype = data instanceof Float32Array
			? "f32"
			: data instanceof Int32Array
			? "i32"
			: "u32",
	): Tensor {
		this.#refuseRecording("uploaded");
		const tensor = this.empty(shape, dtype);
		const wanted = tensor.size * DTYPE_BYTES[dtype];
		const pieces = ArrayBuffer.isView(data)
			? [new Uint8Array(data.buffer, data.byteOffset, data.byteLength)]
			: data;
		let found = 0;
		let rest = new Uint8Array(); // the incomplete last word of a chunk
		try {
			this.flush(); // dispatches before this point must still see the old content
			for (let piece of pieces) {
				if (rest.length > 0) piece = concat(rest, piece);
				const start = found - rest.length;
				found = start + piece.length;
				if (found > wanted) continue;
				const whole = found === wanted ? piece.length : piece.length - piece.length % 4;
				this.#write(tensor, start, piece.subarray(0, whole));
				rest = piece.slice(whole);
			}
			if (found !== wanted) {
				throw new RangeError(`${found} bytes of data do not fill ${shapeText(shape)} ${dtype}`);
			}
		} catch (error) {
			this.free(tensor);
			throw error;
		}
		return tensor;
	}

	/** Writes host data to a tensor at byte `start`. */
	#write(tensor: Tensor, start: number, bytes: Uint8Array): void {
		const { queue } = this.device;
		let passed = 0; // bytes of the pieces so far
		for (const piece of tensor.pieces()) {
			const end = Math.min(piece.bytes, start + bytes.length - passed);
			for (let at = Math.max(0, start - passed); at < end; at += UPLOAD_CHUNK) {
				const from = passed + at - start;
				let chunk = bytes.subarray(from, Math.min(from + UPLOAD_CHUNK, passed + end - start));
				if (chunk.byteLength % 4) {
					const padded = new Uint8Array(Math.ceil(chunk.byteLength / 4) * 4);
					padded.set(chunk);
					chunk = padded;
				}
				queue.writeBuffer(piece.buffer, piece.offset + at, chunk as BufferSource);
				queue.submit([]); // so that the driver releases its staging memory
			}
			passed += piece.bytes;
		}
	}

	/** A copy of `source`. */
	clone(source: Tensor): Tensor {
		const copy = this.empty(source.shape, source.dtype);
		this.copy(source, copy);
		return copy;
	}

	/** Copies the content of a tensor to another one of the same size. */
	copy(source: Tensor, target: Tensor): void {
		this.#refuseRecording("copied");
		this.#endPass();
		const commands = this.#commands();
		const pieces = [...target.pieces()];
		let to = pieces.shift();
		for (const from of source.pieces()) {
			for (let done = 0; done < from.bytes && to;) {
				const bytes = Math.min(from.bytes - done, to.bytes);
				commands.copyBufferToBuffer(from.buffer, from.offset + done, to.buffer, to.offset, bytes);
				done += bytes;
				to = bytes < to.bytes
					? { ...to, offset: to.offset + bytes, bytes: to.bytes - bytes }
					: pieces.shift();
			}
		}
		this.#count();
	}

	/** Frees tensors; views are ignored. */
	free(...tensors: Tensor[]): void {
		const recording = this.#recording.getStore();
		for (const buffer of tensors.flatMap(({ owned, buffers }) => owned ? buffers : [])) {
			const pool = recording?.buffers.has(buffer) ? recording.pool : this.#pool;
			const kept = pool.get(buffer.size) ?? [];
			if (kept.includes(buffer)) throw new Error("A tensor was freed twice");
			kept.push(buffer);
			pool.set(buffer.size, kept);
			this.#memory.current -= buffer.size;
			this.#memory.pooled += buffer.size;
		}
	}

	/**
	 * Returns the pooled memory to the system, the largest buffers first.
	 *
	 * @param kept Bytes that may stay in the pool, with the bind groups of their buffers; none if absent.
	 */
	trim(kept = 0): void {
		this.flush();
		const destroyed = new Set<number>();
		let left = 0;
		for (const size of [...this.#pool.keys()].sort((a, b) => a - b)) {
			// In the order of their creation, so that equal work finds equal buffers, and their bind groups.
			const buffers = this.#pool.get(size)!.sort((a, b) => this.#numberOf(b) - this.#numberOf(a));
			const count = Math.min(buffers.length, Math.floor((kept - left) / size));
			for (const buffer of buffers.splice(count)) {
				this.#memory.pooled -= buffer.size; // recordings keep theirs
				destroyed.add(this.#numberOf(buffer));
				this.#buffers.delete(buffer);
				buffer.destroy();
			}
			left += count * size;
			if (count === 0) this.#pool.delete(size);
		}
		if (destroyed.size === 0) return;
		for (const { bindGroups } of this.#compiled) {
			for (const [key, { buffers }] of bindGroups) {
				if (buffers.some((number) => destroyed.has(number))) bindGroups.delete(key);
			}
		}
	}

	#fromRecording(recording: Recording | undefined, size: number): GPUBuffer | undefined {
		const buffer = recording?.pool.get(size)?.pop();
		if (buffer) this.#memory.pooled -= buffer.size;
		return buffer;
	}

	/**
	 * A pooled buffer of this size. If the budget has no room for a new buffer, a slightly larger pooled
	 * one is used; if there is none, the pool is returned to the system.
	 */
	#fromPool(size: number): GPUBuffer | undefined {
		const { current, pooled } = this.#memory;
		const isTight = pooled > 0 && current + pooled + size > this.#budget;
		let found = this.#pool.get(size);
		if (!found?.length && isTight) {
			const sizes = [...this.#pool.keys()].filter((other) => other > size && other <= 2 * size)
				.sort((a, b) => a - b);
			found = sizes.map((other) => this.#pool.get(other)!).find(({ length }) => length > 0);
		}
		const buffer = found?.pop();
		if (buffer) this.#memory.pooled -= buffer.size;
		else if (isTight) {
			this.trim();
			// Destroyed buffers take memory until the queue has passed their last use.
			if (this.#readback.synchronous) this.#readback.wait().catch(() => {}); // the next read throws it
		}
		return buffer;
	}

	/**
	 * Waits for the queue and reads a tensor's bits as f32 or u32, regardless of its dtype.
	 *
	 * @throws {Error} If anything queued before this point failed.
	 */
	async read(tensor: Tensor): Promise<Float32Array<ArrayBuffer>>;
	/** The elements of a tensor. */
	async read<Dtype extends "u32">(tensor: Tensor, as: Dtype): Promise<Uint32Array<ArrayBuffer>>;
	async read(tensor: Tensor, as?: "u32"): Promise<Float32Array | Uint32Array> {
		const bytes = await this.readBytes(tensor);
		return as === "u32" ? new Uint32Array(bytes.buffer) : new Float32Array(bytes.buffer);
	}

	/** The bytes of a tensor, padded to whole words. */
	async readBytes(tensor: Tensor): Promise<Uint8Array<ArrayBuffer>> {
		this.#recording.leave?.();
		this.flush();
		const bytes = new Uint8Array(tensor.bytes);
		let start = 0;
		for (const piece of tensor.pieces()) {
			const target = bytes.subarray(start, start += piece.bytes);
			await this.#readback.read(piece.buffer, piece.offset, target);
		}
		await this.#throwErrors();
		return bytes;
	}

	/** Waits until everything queued so far is done. */
	async idle(): Promise<void> {
		this.#recording.leave?.();
		this.flush();
		await this.#readback.wait();
		await this.#throwErrors();
	}

	/** Whether the device has timestamp queries. */
	get isTimed(): boolean {
		return this.#timing !== undefined;
	}

	/**
	 * Attributes the GPU time of all following dispatches to a section. Each change costs about as much as
	 * two dispatches.
	 *
	 * @returns The previous section.
	 */
	section(section: Section | undefined): Section | undefined {
		const before = this.#section;
		if (section !== before) this.#endPass();
		this.#section = section;
		return before;
	}

	/** GPU seconds of each section so far; waits for the queue. */
	async sectionSeconds(): Promise<Record<string, number>> {
		const timing = this.#timing;
		if (!timing) return {};
		this.flush(true);
		const passes: { section: Section; begin: bigint; end: bigint }[] = [];
		for (const { labels, buffer } of timing.pending.splice(0)) {
			const ticks = new BigUint64Array(2 * labels.length);
			await this.#readback.read(buffer, 0, new Uint8Array(ticks.buffer));
			buffer.destroy();
			labels.forEach((section, i) =>
				passes.push({ section, begin: ticks[2 * i], end: ticks[2 * i + 1] })
			);
		}
		if (passes.length > 0) {
			timing.firstTick ??= passes[0].begin;
			// A tick is a nanosecond on most devices; the host's clock reveals longer ticks. The last pass has
			// just ended.
			const sinceFirst = Number(passes.at(-1)!.end - timing.firstTick) / 1e9;
			const byHost = (performance.now() - timing.started!) / 1000;
			if (byHost > 0.05) timing.unit ??= sinceFirst > byHost / 2 ? 1 : byHost / sinceFirst;
		}
		for (const { section: { name, stands = 1 }, begin, end } of passes) {
			const seconds = stands * (timing.unit ?? 1) * Number(end - begin) / 1e9;
			timing.seconds[name] = (timing.seconds[name] ?? 0) + seconds;
		}
		await this.#throwErrors();
		return { ...timing.seconds };
	}

	#beginPass(commands: GPUCommandEncoder): GPUComputePassEncoder {
		const timing = this.#timing;
		if (!timing || this.#section === undefined) return commands.beginComputePass();
		timing.started ??= performance.now();
		const first = 2 * timing.labels.push(this.#section) - 2;
		return commands.beginComputePass({
			timestampWrites: {
				querySet: timing.set,
				beginningOfPassWriteIndex: first,
				endOfPassWriteIndex: first + 1,
			},
		});
	}

	/** Resolves the timestamps to a separate buffer, so that the query set can be reused. */
	#resolveTimestamps({ set, labels, pending }: PassTiming, commands: GPUCommandEncoder): void {
		const count = 2 * labels.length;
		const buffer = this.device.createBuffer({
			label: "timestamps",
			size: 8 * count,
			usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
		});
		commands.resolveQuerySet(set, 0, count, buffer, 0);
		pending.push({ labels: labels.splice(0), buffer });
	}

	async #throwErrors(): Promise<void> {
		this.#nextScopes();
		for (const error of await Promise.all(this.#errors.splice(0))) {
			if (error) throw new Error(`WebGPU: ${error.message}`);
		}
		if (this.#lost) throw new Error(`WebGPU: ${this.#lost}`);
	}

	/**
	 * The compiled kernel; each combination of name and constants is compiled once.
	 *
	 * @throws {Error} If the name was used with a different text.
	 */
	kernel(source: KernelSource): Promise<Kernel> {
		const { name, constants } = source;
		const key = constants ? JSON.stringify([name, constants]) : name;
		let known = this.#kernels.get(key);
		if (!known) {
			const kernel = Kernel.compile(this, source);
			const entry: KnownKernel = { text: source.source, kernel, isCompiled: false };
			kernel.then((compiled) => {
				entry.isCompiled = true;
				this.#compiled.push(compiled);
			}, () => {}); // the caller sees the error
			this.#kernels.set(key, known = entry);
		} else if (typeof source.source === "string" && source.source !== known.text) {
			throw new Error(`There is another kernel "${source.name}"; give yours a name of its own`);
		}
		if (!known.isCompiled) this.#recording.leave?.();
		return known.kernel;
	}

	/** Queues one dispatch; called by {@link Kernel.dispatch}. */
	dispatch(
		kernel: Kernel,
		params: Uint8Array | undefined,
		tensors: readonly Tensor[],
		grid: Grid,
		later?: Dispatch["later"],
	): void {
		if (kernel.uniformBinding !== undefined && !params) {
			throw new Error(`The kernel "${kernel.name}" lacks its parameters`);
		}
		const call = { params, bound: this.#bind(kernel, tensors), grid, later };
		this.#recording.getStore()?.calls.push(call);
		this.#queue(call, params);
	}

	#queue({ bound: { form, group }, grid }: Call, params?: Uint8Array): void {
		const commands = this.#commands();
		let dynamicOffsets: number[] = [];
		if (params) {
			const offset = this.#dispatches * UNIFORM_SLOT;
			this.#uniformBytes.set(params, offset);
			dynamicOffsets = [offset];
		}
		this.#pass ??= this.#beginPass(commands);
		this.#pass.setPipeline(form.pipeline);
		this.#pass.setBindGroup(0, group, dynamicOffsets);
		this.#pass.dispatchWorkgroups(...grid);
		this.#count();
	}

	/**
	 * Runs some work and records its dispatches, so that they can be replayed without the work of the
	 * host. The work must not read, upload, copy or clear, and must free the tensors that it allocates;
	 * their memory stays with the recording. Concurrent work of other callers is not recorded.
	 *
	 * @returns The recording, to be released. It cannot be replayed if the work had to wait, for example
	 *   for a kernel to compile, on a host without asynchronous context tracking.
	 */
	async record(work: () => Promise<void>): Promise<Recording> {
		const recording: Recording = { calls: [], pool: new Map(), buffers: new Set() };
		let isWhole = false;
		try {
			await this.#recording.run(recording, async () => {
				await work();
				isWhole = this.#recording.getStore() === recording;
			});
		} finally {
			if (!isWhole) this.release(recording);
		}
		return recording;
	}

	/**
	 * Replays a recording with its dispatches advanced by `steps` steps.
	 *
	 * @returns Whether it was replayed; if not, nothing was queued.
	 */
	replay({ calls }: Recording, steps: number): boolean {
		if (calls.length === 0) return false;
		const all: (Uint8Array | undefined)[] = [];
		for (const { params, later } of calls) {
			const wanted = later ? later(steps) : params;
			if (later && !wanted) return false;
			all.push(wanted);
		}
		calls.forEach((call, i) => this.#queue(call, all[i]));
		return true;
	}

	/** Frees the memory of a recording, which can no longer be replayed. */
	release({ calls, pool, buffers }: Recording): void {
		calls.length = 0;
		buffers.clear();
		for (const [size, freed] of pool) {
			this.#pool.set(size, [...this.#pool.get(size) ?? [], ...freed]);
		}
		pool.clear();
	}

	#refuseRecording(what: string): void {
		if (this.#recording.getStore()) throw new Error(`Nothing can be ${what} in a recording`);
	}

	/** A bind group, cached: pooled buffers recur in the same bindings, block after block. */
	#bind(kernel: Kernel, tensors: readonly Tensor[]): BoundKernel {
		let key = "";
		for (const { buffers, offset, bytes } of tensors) {
			for (const buffer of buffers) key += `${this.#numberOf(buffer)} `;
			key += `${offset} ${bytes},`;
		}
		const groups = kernel.bindGroups;
		const known = groups.get(key);
		if (known) return known;
		const panels = tensors.map((tensor) => [...tensor.pieces(this.maxBinding)]);
		const form = this.#formFor(kernel, tensors, panels);
		const entries: GPUBindGroupEntry[] = panels.flatMap((pieces, i) =>
			pieces.map(({ buffer, offset, bytes }, panel) => ({
				binding: form.bindings[i][panel],
				resource: { buffer, offset, size: bytes },
			}))
		);
		if (kernel.uniformBinding !== undefined) {
			entries.push({
				binding: kernel.uniformBinding,
				resource: { buffer: this.#uniforms, offset: 0, size: UNIFORM_SLOT },
			});
		}
		const group = this.device.createBindGroup({ layout: form.layout, entries });
		const numbers = panels.flatMap((pieces) => pieces.map(({ buffer }) => this.#numberOf(buffer)));
		const bound = { form, group, buffers: numbers };
		if (groups.size >= KEPT_BIND_GROUPS) groups.clear();
		groups.set(key, bound);
		return bound;
	}

	#formFor(kernel: Kernel, tensors: readonly Tensor[], panels: readonly Piece[][]): KernelForm {
		const counts = panels.map(({ length }) => length);
		const total = counts.reduce((a, b) => a + b, 0);
		if (total === tensors.length) return kernel.whole;
		const { maxStorageBuffersPerShaderStage: most } = this.device.limits;
		const form = total <= most ? kernel.form(counts) : undefined;
		if (form) return form;
		const { shape, dtype, bytes } = tensors[counts.indexOf(Math.max(...counts))];
		// A kernel without a form reads elements that panels might cut.
		const bound = total > most ? `${this.maxBinding} in each of ${most} bindings` : this.maxBinding;
		throw new UserError(
			`A tensor of ${shapeText(shape)} ${dtype} takes ${bytes} bytes, more than the kernel ` +
				`"${kernel.name}" can bind on "${this.name}" (${bound})`,
		);
	}

	#numberOf(buffer: GPUBuffer): number {
		let number = this.#numbers.get(buffer);
		if (number === undefined) this.#numbers.set(buffer, number = this.#nextNumber++);
		return number;
	}

	/** Submits the queue; resolves all timestamps so far if `resolves`. */
	flush(resolves = false): void {
		const timing = this.#timing;
		resolves &&= timing !== undefined && timing.labels.length > 0;
		if (!this.#encoder && !resolves) return;
		this.#endPass();
		const commands = this.#commands();
		// Each dispatch of a batch adds at most two timestamps.
		const full = TIMESTAMPS - 2 * DISPATCHES_PER_SUBMIT;
		if (timing && (resolves || 2 * timing.labels.length > full)) {
			this.#resolveTimestamps(timing, commands);
		}
		const { queue } = this.device;
		const used = this.#dispatches * UNIFORM_SLOT;
		if (used) queue.writeBuffer(this.#uniforms, 0, this.#uniformBytes, 0, used);
		queue.submit([commands.finish()]);
		this.#encoder = undefined;
		this.#dispatches = 0;
		this.#nextScopes();
	}

	/**
	 * Opens error scopes. They are always open: `uncapturederror` comes too late to fail the next read.
	 */
	#openScopes(): void {
		this.device.pushErrorScope("out-of-memory");
		this.device.pushErrorScope("validation");
	}

	#nextScopes(): void {
		this.#errors.push(this.device.popErrorScope(), this.device.popErrorScope());
		this.#openScopes();
	}

	#commands(): GPUCommandEncoder {
		return this.#encoder ??= this.device.createCommandEncoder();
	}

	#endPass(): void {
		this.#pass?.end();
		this.#pass = undefined;
	}

	#count(): void {
		if (++this.#dispatches === DISPATCHES_PER_SUBMIT) this.flush();
	}

	/** Waits for the queue and frees everything. */
	async [Symbol.asyncDispose](): Promise<void> {
		if (this.#isDisposed) return;
		this.#isDisposed = true;
		let isSpare = false;
		try {
			await this.idle();
			isSpare = this.host.keepsDevices === true;
		} finally {
			if (isSpare) await this.#leaveDevice();
			else this.device.destroy();
		}
	}

	/** Leaves the device to the next {@link Gpu}, with nothing of this one. */
	async #leaveDevice(): Promise<void> {
		const { device, host, options: { adapter: choice = "auto" } } = this;
		for (const buffer of [...this.#buffers, this.#uniforms]) buffer.destroy();
		this.#timing?.set.destroy();
		device.removeEventListener("uncapturederror", this.#onError);
		const errors = await Promise.all([device.popErrorScope(), device.popErrorScope()]);
		const others = spares.get(host) ?? new Map<AdapterChoice, Opened>();
		if (others.has(choice) || errors.some((error) => error)) return device.destroy();
		spares.set(host, others.set(choice, this.opened));
	}
}

function requestAdapter(host: GpuHost, choice: AdapterChoice): Promise<GPUAdapter | null> {
	return host.requestAdapter({
		powerPreference: "high-performance",
		forceFallbackAdapter: choice === "software",
	});
}

/** The timestamps of the passes that belong to a section. */
interface PassTiming {
	set: GPUQuerySet;
	/** The sections of the passes in the query set. */
	labels: Section[];
	/** Resolved timestamps that are not yet read back. */
	pending: { labels: Section[]; buffer: GPUBuffer }[];
	/** Seconds of each section, as read so far. */
	seconds: Record<string, number>;
	/** The first timestamp, and the host's clock in milliseconds when it was queued. */
	firstTick?: bigint;
	started?: number;
	/** Nanoseconds of a tick, once known. */
	unit?: number;
}

/** Whether an adapter multiplies 16 x 16 matrices of f16 with sums in f32. */
function hasSquares({ info }: GPUAdapter): boolean {
	const { subgroupMatrixConfigs = [] } = info as {
		subgroupMatrixConfigs?: Iterable<
			{ componentType: string; resultComponentType: string; M: number; N: number; K: number }
		>;
	};
	return [...subgroupMatrixConfigs].some(({ componentType, resultComponentType, M, N, K }) =>
		componentType === "f16" && resultComponentType === "f32" && M === 16 && N === 16 && K === 16
	);
}

/** A device with the best set of wanted features that the adapter grants. */
async function requestDevice(
	host: GpuHost,
	adapter: GPUAdapter,
	requiredLimits: Record<string, number>,
): Promise<GPUDevice> {
	const timing = (["timestamp-query"] as const).filter((name) => adapter.features.has(name));
	for (const features of host.wantedFeatures(adapter)) {
		try {
			const requiredFeatures = [...features as GPUFeatureName[], ...timing];
			return await adapter.requestDevice({ requiredFeatures, requiredLimits });
		} catch {
			continue; // refused
		}
	}
	return await adapter.requestDevice({ requiredFeatures: timing, requiredLimits });
}
