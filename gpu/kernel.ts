import { UserError } from "../base/errors.ts";
import type { Gpu } from "./device.ts";
import { splitBindings } from "./panels.ts";
import type { Tensor } from "./tensor.ts";

/** WGSL text and the pipeline constants (`override`) to compile it with. */
export interface KernelSource {
	/** Its name in messages and timings. */
	name: string;
	/** The text, or a function that generates it, called only if the kernel is not compiled yet. */
	source: string | (() => string);
	/** Values of the shader's overrides. */
	constants?: Record<string, number>;
}

/**
 * An extension to core WebGPU that a text uses. Only Deno's compiler supports subgroup barriers and f64,
 * only Dawn's subgroup matrices.
 */
export type KernelNeed = "subgroups" | "subgroup barriers" | "f64" | "f16" | "subgroup matrices";

/** The extensions to core WebGPU that a WGSL text uses. */
export function needsOf(source: string): KernelNeed[] {
	const code = source.replaceAll(/\/\/.*/g, "");
	const needs: [KernelNeed, RegExp][] = [
		["subgroups", /\bsubgroup(?!Barrier\b|Matrix)\w+\(|\bsubgroup_(size|invocation_id|id)\b/],
		["subgroup barriers", /\bsubgroupBarrier\(/],
		["f64", /\bf64\b|\dlf\b/],
		["f16", /\bf16\b/],
		["subgroup matrices", /\bsubgroupMatrix\w+/],
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

/**
 * A compiled text.
 *
 * @internal
 */
export interface Pipeline {
	pipeline: GPUComputePipeline;
	layout: GPUBindGroupLayout;
}

/**
 * A pipeline of a kernel.
 *
 * @internal
 */
export interface KernelForm extends Pipeline {
	/** The binding numbers of each tensor's panels, by tensor. */
	bindings: readonly (readonly number[])[];
}

/**
 * A bind group and the form of the kernel that it belongs to.
 *
 * @internal
 */
export interface BoundKernel {
	form: KernelForm;
	group: GPUBindGroup;
	/** The numbers of the buffers that it binds. */
	buffers: readonly number[];
}

/** A compiled compute pipeline. Its bindings are read from the WGSL text, all in group 0. */
export class Kernel {
	/** The bind groups of earlier calls, by the buffers that they bind; managed by the {@link Gpu}. */
	readonly bindGroups: Map<string, BoundKernel> = new Map();
	/** The forms for tensors of several panels, by the numbers of panels. */
	readonly #forms = new Map<string, KernelForm>();

	private constructor(
		readonly gpu: Gpu,
		readonly name: string,
		private readonly source: string,
		private readonly constants: Record<string, number> | undefined,
		/** The form for tensors that can each be bound as one. */
		readonly whole: KernelForm,
		/** Binding number of the uniform block. */
		readonly uniformBinding: number | undefined,
	) {}

	/**
	 * Compiles a kernel.
	 *
	 * @throws {UserError} If it binds more buffers than the adapter allows.
	 * @throws {Error} With the compiler's message, which shows the line, if the WGSL is wrong.
	 */
	static async compile(gpu: Gpu, { name, source: text, constants }: KernelSource): Promise<Kernel> {
		const source = typeof text === "string" ? text : text();
		const declared = declaredBindings(source);
		const bindings = declared.filter(({ isUniform }) => !isUniform)
			.map(({ binding }) => [binding])
			.sort(([a], [b]) => a - b);
		const most = gpu.device.limits.maxStorageBuffersPerShaderStage;
		if (bindings.length > most) {
			throw new UserError(
				`"${gpu.name}" lets a kernel bind ${most} buffers, but "${name}" binds ${bindings.length}; ` +
					`use another adapter, or a model that was quantized by another method`,
			);
		}
		const uniformBinding = declared.find(({ isUniform }) => isUniform)?.binding;
		const key = JSON.stringify([name, constants, source]);
		const { pipelines } = gpu.opened;
		let pipeline = pipelines.get(key);
		if (!pipeline) {
			gpu.device.pushErrorScope("validation");
			pipeline = pipelineOf(gpu, name, source, constants);
			const error = await gpu.device.popErrorScope();
			if (error) throw new Error(`Cannot compile the kernel "${name}": ${error.message}`);
			pipelines.set(key, pipeline);
		}
		const whole = { ...pipeline, bindings };
		return new Kernel(gpu, name, source, constants, whole, uniformBinding);
	}

	/**
	 * The form for tensors that are bound as several panels each; compiled on first use.
	 *
	 * @param panels The number of panels of each tensor.
	 * @returns Undefined if the kernel cannot take such tensors.
	 */
	form(panels: readonly number[]): KernelForm | undefined {
		const key = panels.join();
		let form = this.#forms.get(key);
		if (!form) {
			const split = splitBindings(this.source, panels);
			if (!split) return undefined;
			const { source, bindings } = split;
			const name = `${this.name} of ${key} panels`;
			form = { ...pipelineOf(this.gpu, name, source, this.constants), bindings };
			this.#forms.set(key, form);
		}
		return form;
	}

	/**
	 * Queues one call, without waiting.
	 *
	 * @throws {RangeError} If the number of tensors differs from that of the bindings.
	 */
	dispatch({ params, tensors, workgroups, later }: Dispatch): void {
		if (tensors.length !== this.whole.bindings.length) {
			throw new RangeError(
				`The kernel "${this.name}" binds ${this.whole.bindings.length} tensors, got ${tensors.length}`,
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

interface DeclaredBinding {
	binding: number;
	isUniform: boolean;
	isReadOnly: boolean;
}

function declaredBindings(source: string): DeclaredBinding[] {
	return [...source.matchAll(/@binding\((\d+)\)\s*var<([^>]*)>/g)].map(([, number, space]) => ({
		binding: Number(number),
		isUniform: space === "uniform",
		isReadOnly: !/read_write/.test(space),
	}));
}

function pipelineOf(
	{ device, host }: Gpu,
	label: string,
	source: string,
	constants?: Record<string, number>,
): Pipeline {
	const layout = device.createBindGroupLayout({
		label,
		entries: declaredBindings(source).map(({ binding, isUniform, isReadOnly }) => ({
			binding,
			visibility: GPUShaderStage.COMPUTE,
			buffer: {
				type: isUniform ? "uniform" : isReadOnly ? "read-only-storage" : "storage",
				hasDynamicOffset: isUniform,
			},
		})),
	});
	const code = (host.prelude?.(needsOf(source)) ?? "") + source;
	const pipeline = device.createComputePipeline({
		label,
		layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
		compute: { module: device.createShaderModule({ label, code }), constants },
	});
	return { pipeline, layout };
}
