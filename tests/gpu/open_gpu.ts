import { Gpu, type GpuOptions } from "~/gpu/device.ts";
import type { GpuHost } from "~/gpu/host.ts";
import type { KernelSource } from "~/gpu/kernel.ts";
import { type DenoGpuOptions, openGpu as openDeno } from "~/hosts/deno_gpu.ts";

/** The device of a test file, whose new tensors are NaN, with the kernels that suit its adapter. */
export function openGpu(options: DenoGpuOptions = {}, host?: GpuHost): Promise<Gpu> {
	const all = { poison: true, ...options };
	return host ? Gpu.open(host, all as GpuOptions) : openDeno(all);
}

/** The same, but with the kernels of real GPUs whatever the adapter: a software one runs them too. */
export async function openAsHardware(): Promise<Gpu> {
	const gpu = await openGpu();
	(gpu as { software: boolean }).software = false;
	return gpu;
}

/** The names of the kernels that `gpu` is asked for from now on. */
export function watchKernels(gpu: Gpu): Set<string> {
	const names = new Set<string>();
	const kernel = gpu.kernel.bind(gpu);
	gpu.kernel = (source: KernelSource) => {
		names.add(source.name);
		return kernel(source);
	};
	return names;
}
