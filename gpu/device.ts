import { UserError } from "../base/errors.ts";
import type { GpuHost } from "./host.ts";
import { type Dispatch, Kernel, type KernelSource } from "./kernel.ts";
import { Readback } from "./readback.ts";
import { type Scope, TurnScope } from "./scope.ts";
import { type Dtype, DTYPE_BYTES, elementsOf, shapeText, Tensor } from "./tensor.ts";

/** Which adapter to open: the fastest, only a real GPU, or only a software one. */
export type AdapterChoice = "auto" | "hardware" | "software";

export interface GpuOptions {
  adapter?: AdapterChoice;
  /**
   * Bytes of GPU memory that a run should stay under. It bounds what is kept for later, not what a
   * single step needs; no bound if absent.
   */
  memory?: number;
  /** Fill new tensors with NaN, so that a test sees what a kernel left unwritten. */
  poison?: boolean;
}

/** What the GPU's time is counted as. */
export interface Section {
  name: string;
  /** How many times the time counts, where one of several equal pieces of work is measured. */
  stands?: number;
}

/** GPU memory in bytes; pooled memory is free for reuse but still taken from the system. */
export interface MemoryUse {
  current: number;
  pooled: number;
  peak: number;
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

type Grid = readonly [number, number, number];

interface KnownKernel {
  text: KernelSource["source"];
  kernel: Promise<Kernel>;
  isCompiled: boolean;
}

interface Call {
  kernel: Kernel;
  params?: Uint8Array;
  group: GPUBindGroup;
  grid: Grid;
  later?: Dispatch["later"];
}

/** Dispatches that can be queued again; see {@link Gpu.record}. */
export interface Recording {
  readonly calls: Call[];
  /** Memory that its dispatches use, free in between. */
  readonly pool: Map<number, GPUBuffer[]>;
  readonly buffers: Set<GPUBuffer>;
}

/** Bytes that are uploaded at a time. */
export const UPLOAD_CHUNK = 4 << 20;
/** Bytes that are allocated at a time to find out how many there are. */
const PROBE_CHUNK = 1 << 30;
/** Bind groups that each kernel keeps for the next call with the same tensors. */
const KEPT_BIND_GROUPS = 512;
const UNIFORM_SLOT = 256;
const DISPATCHES_PER_SUBMIT = 64;
/** Timestamps of a query set, two for each pass; the most that WebGPU allows. */
const TIMESTAMPS = 4096;
const POISON = 0x7fc0_7fc0; // NaN as f32, as two bf16 and as two f16

/**
 * A WebGPU device: memory, kernels, and one queue of dispatches that is submitted in batches.
 *
 * Errors of the API are caught in error scopes and thrown by the next {@link read} or {@link idle};
 * without that Deno reports nothing and results are zeros.
 */
export class Gpu implements AsyncDisposable {
  readonly host: GpuHost;
  readonly device: GPUDevice;
  /** Name of the adapter and its driver, as the adapter gives it. */
  readonly name: string;
  /** True for a driver that computes on the CPU. */
  readonly software: boolean;
  /** Lanes of a subgroup if the adapter has subgroups of one size, else 0. */
  readonly subgroupSize: number;
  /** Whether a subgroup can wait for its own threads alone. */
  readonly subgroupBarriers: boolean;
  #budget: number;
  /** Whether kernels may compute in f64. */
  readonly f64: boolean;
  readonly poison: boolean;

  #readback: Readback;
  #kernels = new Map<string, KnownKernel>();
  #compiled: Kernel[] = [];
  #pool = new Map<number, GPUBuffer[]>();
  #memory: MemoryUse = { current: 0, pooled: 0, peak: 0 };
  #highest = 0;
  #encoder?: GPUCommandEncoder;
  #pass?: GPUComputePassEncoder;
  #dispatches = 0;
  /** A number for each buffer that was ever bound, never used again for another. */
  #numbers = new WeakMap<GPUBuffer, number>();
  #nextNumber = 0;
  #uniforms: GPUBuffer;
  #uniformBytes = new Uint8Array(UNIFORM_SLOT * DISPATCHES_PER_SUBMIT);
  #errors: Promise<GPUError | null>[] = [];
  #lost?: string;
  #section?: Section;
  /** What the work at hand is recorded in, if it is. */
  #recording: Scope<Recording>;
  #timing?: PassTiming;

  private constructor(
    host: GpuHost,
    device: GPUDevice,
    adapter: GPUAdapter,
    readback: Readback,
    { memory = Infinity, poison = false }: GpuOptions,
  ) {
    this.host = host;
    this.#recording = host.scope?.() ?? new TurnScope(() => host.nextTask());
    this.device = device;
    this.name = adapter.info.description || adapter.info.vendor;
    this.software = adapter.info.isFallbackAdapter;
    const { subgroupMinSize: min, subgroupMaxSize: max } = adapter.info;
    const has = (feature: string) => device.features.has(feature as GPUFeatureName);
    const subgroups = has("subgroups");
    this.subgroupSize = subgroups && min === max ? min : 0;
    // Deno's translation of such a barrier does not ask for order in workgroup memory; NVIDIA's own
    // driver and Mesa's software adapter keep it all the same.
    this.subgroupBarriers = has("wgpu-subgroup-barrier") &&
      (this.software || /nvidia(?!.*nvk)/i.test(this.name));
    this.#budget = memory;
    this.f64 = has("wgpu-shader-f64");
    this.poison = poison;
    this.#readback = readback;
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
    device.addEventListener("uncapturederror", (event) => {
      this.#lost ??= (event as GPUUncapturedErrorEvent).error.message;
    });
    device.lost.then(({ message, reason }) => {
      if (reason !== "destroyed") this.#lost ??= `the device was lost: ${message}`;
    });
    this.#openScopes();
  }

  /**
   * Opens an adapter with the limits it offers.
   *
   * @throws {UserError} If there is no adapter of the kind asked for.
   */
  static async open(host: GpuHost, options: GpuOptions = {}): Promise<Gpu> {
    const { adapter: choice = "auto" } = options;
    const adapter = await requestAdapter(host, choice);
    if (!adapter) throw new UserError(`No WebGPU adapter was found; ${host.adapterAdvice}`);
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
    return new Gpu(host, device, adapter, await Readback.open(device), options);
  }

  /** Memory in use now and at the worst moment so far. */
  get memory(): MemoryUse {
    return { ...this.#memory };
  }

  /** Largest number of bytes that one binding of a kernel can reach. */
  get maxBinding(): number {
    return this.device.limits.maxStorageBufferBindingSize;
  }

  /**
   * How much of `bytes` of memory there is: as much as the run may use or, where nobody said, as can
   * be allocated. A run that wants more than there is stays under it from then on.
   */
  async memoryFor(bytes: number): Promise<number> {
    if (this.#budget === Infinity) {
      const found = await this.#probe(bytes);
      if (found < bytes) this.#budget = found;
    }
    return Math.min(bytes, this.#budget);
  }

  async #probe(bytes: number): Promise<number> {
    if (bytes < PROBE_CHUNK) return bytes;
    const left = this.host.systemMemory?.(this.software);
    if (left !== undefined) return 0.8 * left;
    // On a device of its own: running out of memory may cost the device.
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
    await device.queue.onSubmittedWorkDone(); // only then the memory is given back
    device.destroy();
    // What is in use already was not to be had; some of the rest is left to the driver.
    return found < bytes ? 0.95 * found + this.#memory.current : bytes;
  }

  /** The most bytes that tensors took since the last call, without pooled memory. */
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
   * A tensor of undefined content (NaN when poisoned).
   *
   * @throws {UserError} If the adapter cannot hold a buffer of this size.
   */
  empty(shape: readonly number[], dtype: Dtype = "f32", label = ""): Tensor {
    const wanted = Math.max(elementsOf(shape) * DTYPE_BYTES[dtype], 4);
    const size = Math.ceil(wanted / UNIFORM_SLOT) * UNIFORM_SLOT;
    if (size > this.device.limits.maxBufferSize) {
      throw new UserError(
        `A tensor of ${shapeText(shape)} ${dtype} takes ${size} bytes, ` +
          `more than a buffer of "${this.name}" can hold (${this.device.limits.maxBufferSize})`,
      );
    }
    const recording = this.#recording.getStore();
    const buffer = this.#fromRecording(recording, size) ?? this.#fromPool(size) ??
      this.device.createBuffer({
        label,
        size,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
      });
    recording?.buffers.add(buffer);
    this.#memory.current += buffer.size;
    const { current, pooled, peak } = this.#memory;
    this.#memory.peak = Math.max(peak, current + pooled);
    this.#highest = Math.max(this.#highest, current);
    const tensor = new Tensor(this, buffer, shape, dtype, 0, true);
    if (this.poison) {
      this.flush(); // dispatches before this point must still see the old content
      this.#write(tensor, 0, new Uint8Array(new Uint32Array(size / 4).fill(POISON).buffer));
    }
    return tensor;
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
    this.#commands().clearBuffer(tensor.buffer, tensor.offset, tensor.bytes);
    this.#count();
  }

  /**
   * A tensor with a copy of host data; f16 and bf16 come as their bit patterns.
   *
   * @param data All of it, or pieces one after the other. A piece is copied before the next one is
   *   asked for.
   * @throws {RangeError} If the data do not fill the shape exactly.
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
    let rest = new Uint8Array(); // of a piece that does not end with a word
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

  /** Overwrites a tensor with host data from byte `start` on. */
  #write(tensor: Tensor, start: number, bytes: Uint8Array): void {
    const { queue } = this.device;
    for (let done = 0; done < bytes.length; done += UPLOAD_CHUNK) {
      let chunk = bytes.subarray(done, done + UPLOAD_CHUNK);
      if (chunk.byteLength % 4) {
        const padded = new Uint8Array(Math.ceil(chunk.byteLength / 4) * 4);
        padded.set(chunk);
        chunk = padded;
      }
      queue.writeBuffer(tensor.buffer, tensor.offset + start + done, chunk as BufferSource);
      queue.submit([]); // lets the driver release its staging memory
    }
  }

  /** Copies `source` to a tensor of its own. */
  clone(source: Tensor): Tensor {
    const copy = this.empty(source.shape, source.dtype);
    this.copy(source, copy);
    return copy;
  }

  /** Copies the content of one tensor over another of the same size. */
  copy(source: Tensor, target: Tensor): void {
    this.#refuseRecording("copied");
    this.#endPass();
    const { buffer, offset, bytes } = source;
    this.#commands().copyBufferToBuffer(buffer, offset, target.buffer, target.offset, bytes);
    this.#count();
  }

  /** Hands tensors back; a view is ignored. */
  free(...tensors: Tensor[]): void {
    for (const { owned, buffer } of tensors) {
      if (!owned) continue;
      const recording = this.#recording.getStore();
      const pool = recording?.buffers.has(buffer) ? recording.pool : this.#pool;
      const kept = pool.get(buffer.size) ?? [];
      if (kept.includes(buffer)) throw new Error("A tensor was freed twice");
      kept.push(buffer);
      pool.set(buffer.size, kept);
      this.#memory.current -= buffer.size;
      this.#memory.pooled += buffer.size;
    }
  }

  /** Gives the pooled memory back to the system. */
  trim(): void {
    this.flush();
    for (const buffer of [...this.#pool.values()].flat()) {
      this.#memory.pooled -= buffer.size; // recordings keep theirs
      buffer.destroy();
    }
    this.#pool.clear();
    for (const kernel of this.#compiled) kernel.bindGroups.clear();
  }

  #fromRecording(recording: Recording | undefined, size: number): GPUBuffer | undefined {
    const buffer = recording?.pool.get(size)?.pop();
    if (buffer) this.#memory.pooled -= buffer.size;
    return buffer;
  }

  /**
   * A pooled buffer of this size. Where the budget leaves no room for a new one, a somewhat larger one
   * does as well; if there is none, the pool is given back.
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
      // What is destroyed takes memory until the queue has come past it.
      if (this.#readback.synchronous) this.#readback.wait().catch(() => {}); // the next read throws it
    }
    return buffer;
  }

  /**
   * Waits for the queue and reads a tensor as f32, or as u32 if told so, whatever its dtype.
   *
   * @throws {Error} If anything queued before this point failed.
   */
  async read(tensor: Tensor): Promise<Float32Array<ArrayBuffer>>;
  async read<Dtype extends "u32">(tensor: Tensor, as: Dtype): Promise<Uint32Array<ArrayBuffer>>;
  async read(tensor: Tensor, as?: "u32"): Promise<Float32Array | Uint32Array> {
    const bytes = await this.readBytes(tensor);
    return as === "u32" ? new Uint32Array(bytes.buffer) : new Float32Array(bytes.buffer);
  }

  /** The bytes of a tensor, rounded up to whole words. */
  async readBytes(tensor: Tensor): Promise<Uint8Array<ArrayBuffer>> {
    this.#recording.leave?.();
    this.flush();
    const bytes = new Uint8Array(tensor.bytes);
    await this.#readback.read(tensor.buffer, tensor.offset, bytes);
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

  /** Whether the GPU says how long its work took; else only waiting tells. */
  get isTimed(): boolean {
    return this.#timing !== undefined;
  }

  /**
   * Counts the time that the GPU spends on the dispatches from here on under a name. Each change costs
   * about as much as two dispatches.
   *
   * @returns The section until now.
   */
  section(section: Section | undefined): Section | undefined {
    const before = this.#section;
    if (section !== before) this.#endPass();
    this.#section = section;
    return before;
  }

  /** Seconds that the GPU has spent on each section so far; waits for the queue. */
  async sectionSeconds(): Promise<Record<string, number>> {
    const timing = this.#timing;
    if (!timing) return {};
    this.flush(true);
    for (const { labels, buffer } of timing.pending.splice(0)) {
      const ticks = new BigUint64Array(2 * labels.length);
      await this.#readback.read(buffer, 0, new Uint8Array(ticks.buffer));
      buffer.destroy();
      timing.firstTick ??= ticks[0];
      // A tick is a nanosecond on most devices; the host's clock tells where it is longer.
      const sinceFirst = Number(ticks.at(-1)! - timing.firstTick) / 1e9;
      const byHost = (performance.now() - timing.started!) / 1000;
      if (byHost > 0.05) timing.unit ??= sinceFirst > byHost / 2 ? 1 : byHost / sinceFirst;
      labels.forEach(({ name, stands = 1 }, i) => {
        const ticked = Number(ticks[2 * i + 1] - ticks[2 * i]);
        const seconds = stands * (timing.unit ?? 1) * ticked / 1e9;
        timing.seconds[name] = (timing.seconds[name] ?? 0) + seconds;
      });
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

  /** Has the timestamps written to a buffer of their own, so that the query set can be used anew. */
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
   * The compiled kernel; each name is compiled once for each set of constants.
   *
   * @throws {Error} If another kernel of this name has another text.
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
      }, () => {}); // its user sees the error
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
    const call = { kernel, params, group: this.#bindGroup(kernel, tensors), grid, later };
    this.#recording.getStore()?.calls.push(call);
    this.#queue(call, params);
  }

  #queue({ kernel, group, grid }: Call, params?: Uint8Array): void {
    const commands = this.#commands();
    let dynamicOffsets: number[] = [];
    if (params) {
      const offset = this.#dispatches * UNIFORM_SLOT;
      this.#uniformBytes.set(params, offset);
      dynamicOffsets = [offset];
    }
    this.#pass ??= this.#beginPass(commands);
    this.#pass.setPipeline(kernel.pipeline);
    this.#pass.setBindGroup(0, group, dynamicOffsets);
    this.#pass.dispatchWorkgroups(...grid);
    this.#count();
  }

  /**
   * Does some work and remembers its dispatches, so that they can be queued again without the host's
   * share of the work. The work must not read, upload, copy or clear, and must free the tensors that
   * it makes; their memory stays with the recording. What other callers do meanwhile is not recorded.
   *
   * @returns The recording, to be released. It cannot be replayed if the work had to wait, as for a
   *   kernel that was not compiled yet, and the host does not follow what a function awaits.
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
   * Queues the dispatches of a recording again, as they are so many steps later.
   *
   * @returns Whether that can be done; if not, nothing is queued.
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

  /** Gives the memory of a recording back; it cannot be replayed any more. */
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

  /** The tensors bound to a kernel; pooled buffers come back in the same places, block after block. */
  #bindGroup(kernel: Kernel, tensors: readonly Tensor[]): GPUBindGroup {
    let key = "";
    for (const { buffer, offset, bytes } of tensors) {
      key += `${this.#numberOf(buffer)} ${offset} ${bytes},`;
    }
    const groups = kernel.bindGroups;
    const known = groups.get(key);
    if (known) return known;
    const entries: GPUBindGroupEntry[] = tensors.map((tensor, i) => {
      if (tensor.bytes > this.maxBinding) {
        throw new UserError(
          `A tensor of ${shapeText(tensor.shape)} ${tensor.dtype} takes ${tensor.bytes} bytes, ` +
            `more than a kernel on "${this.name}" can bind (${this.maxBinding})`,
        );
      }
      const { buffer, offset, bytes } = tensor;
      return { binding: kernel.storageBindings[i], resource: { buffer, offset, size: bytes } };
    });
    if (kernel.uniformBinding !== undefined) {
      entries.push({
        binding: kernel.uniformBinding,
        resource: { buffer: this.#uniforms, offset: 0, size: UNIFORM_SLOT },
      });
    }
    const group = this.device.createBindGroup({ layout: kernel.layout, entries });
    if (groups.size >= KEPT_BIND_GROUPS) groups.clear();
    groups.set(key, group);
    return group;
  }

  #numberOf(buffer: GPUBuffer): number {
    let number = this.#numbers.get(buffer);
    if (number === undefined) this.#numbers.set(buffer, number = this.#nextNumber++);
    return number;
  }

  /** Submits what is queued; and has all timestamps so far written out, if told so. */
  flush(resolves = false): void {
    const timing = this.#timing;
    resolves &&= timing !== undefined && timing.labels.length > 0;
    if (!this.#encoder && !resolves) return;
    this.#endPass();
    const commands = this.#commands();
    // A batch of dispatches adds no more than two timestamps each.
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

  /** Scopes are always open: `uncapturederror` comes too late for the read that it should fail. */
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

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.idle();
    } finally {
      this.device.destroy();
    }
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
  /** The sections of the passes in the query set so far. */
  labels: Section[];
  /** Timestamps that are on their way to the host. */
  pending: { labels: Section[]; buffer: GPUBuffer }[];
  /** Of the sections, as read so far. */
  seconds: Record<string, number>;
  /** The first timestamp, and the host's clock in milliseconds when it was queued. */
  firstTick?: bigint;
  started?: number;
  /** Nanoseconds of a tick, once known. */
  unit?: number;
}

/** Asks for the features that the host wants, and does without if they are refused. */
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
