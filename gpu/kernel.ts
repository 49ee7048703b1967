import type { Gpu } from "./device.ts";
import type { Tensor } from "./tensor.ts";

/** WGSL text and the pipeline constants (`override`) to compile it with. */
export interface KernelSource {
  name: string;
  /** The text, or a function that generates it, called only if the kernel is not compiled yet. */
  source: string | (() => string);
  constants?: Record<string, number>;
}

/** An extension to core WebGPU that a text uses. Only Deno's compiler supports the last two. */
export type KernelNeed = "subgroups" | "subgroup barriers" | "f64";

/** The extensions to core WebGPU that a WGSL text uses. */
export function needsOf(source: string): KernelNeed[] {
  const code = source.replaceAll(/\/\/.*/g, "");
  const needs: [KernelNeed, RegExp][] = [
    ["subgroups", /\bsubgroup(?!Barrier\b)\w+\(|\bsubgroup_(size|invocation_id|id)\b/],
    ["subgroup barriers", /\bsubgroupBarrier\(/],
    ["f64", /\bf64\b|\dlf\b/],
  ];
  return needs.filter(([, pattern]) => pattern.test(code)).map(([need]) => need);
}

/** One call of a kernel. */
export interface Dispatch {
  /** The uniform block, see {@link uniform}; only for kernels that declare one. */
  params?: Uint8Array;
  /** One tensor per storage binding, in the order of the binding numbers. */
  tensors: readonly Tensor[];
  /** A single number is split over x and y (a dimension is at most 65,535), which kernels recombine. */
  workgroups: number | readonly [number, number, number?];
  /**
   * The uniform block of the call `steps` steps later, for calls that depend on the step when a
   * {@link Recording} is replayed. Returns undefined if more than the block would differ.
   */
  later?: (steps: number) => Uint8Array | undefined;
}

/** The bytes of a uniform block whose struct has its u32 fields first and then its f32 fields. */
export function uniform(u32: readonly number[], f32: readonly number[] = []): Uint8Array {
  const bytes = new Uint8Array(4 * (u32.length + f32.length));
  new Uint32Array(bytes.buffer, 0, u32.length).set(u32);
  new Float32Array(bytes.buffer, 4 * u32.length).set(f32);
  return bytes;
}

/** WebGPU's limit of workgroups per dimension. */
export const MAX_GROUPS = 65535;

/** A compiled compute pipeline. Its bindings are read from the WGSL text, all in group 0. */
export class Kernel {
  /**
   * The bind groups of earlier calls by what they bind, with the numbers of their buffers; managed by the
   * {@link Gpu}.
   */
  readonly bindGroups = new Map<string, { group: GPUBindGroup; buffers: readonly number[] }>();

  private constructor(
    readonly gpu: Gpu,
    readonly name: string,
    readonly pipeline: GPUComputePipeline,
    readonly layout: GPUBindGroupLayout,
    /** Binding number of the uniform block. */
    readonly uniformBinding: number | undefined,
    /** Binding numbers of the storage buffers, ascending. */
    readonly storageBindings: readonly number[],
  ) {}

  /**
   * Compiles a kernel.
   *
   * @throws {Error} With the compiler's message, which shows the line, if the WGSL is wrong.
   */
  static async compile(gpu: Gpu, { name, source: text, constants }: KernelSource): Promise<Kernel> {
    const source = typeof text === "string" ? text : text();
    const entries: GPUBindGroupLayoutEntry[] = [];
    let uniformBinding: number | undefined;
    const storageBindings: number[] = [];
    for (const [, number, space] of source.matchAll(/@binding\((\d+)\)\s*var<([^>]*)>/g)) {
      const binding = Number(number);
      const isUniform = space === "uniform";
      const type = isUniform
        ? "uniform"
        : /read_write/.test(space)
        ? "storage"
        : "read-only-storage";
      entries.push({
        binding,
        visibility: GPUShaderStage.COMPUTE,
        buffer: { type, hasDynamicOffset: isUniform },
      });
      if (isUniform) uniformBinding = binding;
      else storageBindings.push(binding);
    }
    const { device, host } = gpu;
    const code = (host.prelude?.(needsOf(source)) ?? "") + source;
    device.pushErrorScope("validation");
    const layout = device.createBindGroupLayout({ label: name, entries });
    const pipeline = device.createComputePipeline({
      label: name,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: device.createShaderModule({ label: name, code }), constants },
    });
    const error = await device.popErrorScope();
    if (error) throw new Error(`Cannot compile the kernel "${name}": ${error.message}`);
    storageBindings.sort((a, b) => a - b);
    return new Kernel(gpu, name, pipeline, layout, uniformBinding, storageBindings);
  }

  /**
   * Queues one call, without waiting.
   *
   * @throws {RangeError} If the number of tensors differs from that of the bindings.
   */
  dispatch({ params, tensors, workgroups, later }: Dispatch): void {
    if (tensors.length !== this.storageBindings.length) {
      throw new RangeError(
        `The kernel "${this.name}" binds ${this.storageBindings.length} tensors, got ${tensors.length}`,
      );
    }
    const grid: [number, number, number] = typeof workgroups === "number"
      ? [Math.min(workgroups, MAX_GROUPS), Math.ceil(workgroups / MAX_GROUPS), 1]
      : [workgroups[0], workgroups[1], workgroups[2] ?? 1];
    if (grid.some((groups) => groups > MAX_GROUPS)) {
      throw new RangeError(`The kernel "${this.name}" needs a grid of ${grid}, at most 65535`);
    }
    if (grid.includes(0)) return;
    this.gpu.dispatch(this, params, tensors, grid, later);
  }
}
