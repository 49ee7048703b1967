import type { Gpu } from "./device.ts";
import type { Tensor } from "./tensor.ts";

/** WGSL text and the pipeline constants (`override`) to compile it with. */
export interface KernelSource {
  name: string;
  /** The text, or what generates it, called only when the kernel is not compiled yet. */
  source: string | (() => string);
  constants?: Record<string, number>;
}

/** What a text may need beyond the core of WebGPU. The last two are known to Deno's compiler only. */
export type KernelNeed = "subgroups" | "subgroup barriers" | "f64";

/** What a WGSL text needs beyond the core of WebGPU. */
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
  /** One tensor for each storage binding, in the order of the binding numbers. */
  tensors: readonly Tensor[];
  /** A number is spread over x and y (a dimension holds 65,535); kernels join them again. */
  workgroups: number | readonly [number, number, number?];
  /**
   * The uniform block of the call so many steps later, for calls that differ from step to step when a
   * {@link Recording} is replayed; undefined if they then differ in more than that.
   */
  later?: (steps: number) => Uint8Array | undefined;
}

/** Packs a uniform block whose struct lists its u32 fields first and then its f32 fields. */
export function uniform(u32: readonly number[], f32: readonly number[] = []): Uint8Array {
  const bytes = new Uint8Array(4 * (u32.length + f32.length));
  new Uint32Array(bytes.buffer, 0, u32.length).set(u32);
  new Float32Array(bytes.buffer, 4 * u32.length).set(f32);
  return bytes;
}

/** Workgroups that a dimension of a grid holds. */
export const MAX_GROUPS = 65535;

/** A compiled compute pipeline. Its bindings are read from the WGSL text, all in group 0. */
export class Kernel {
  /** Those of earlier calls, by what they bind; kept by the {@link Gpu}. */
  readonly bindGroups = new Map<string, GPUBindGroup>();

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
   * Queues one call; nothing is read back and nothing is waited for.
   *
   * @throws {RangeError} If the number of tensors is not that of the bindings.
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
