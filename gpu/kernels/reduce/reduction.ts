import type { Gpu } from "../../device.ts";
import type { KernelSource } from "../../kernel.ts";
import workgroup from "./reduce.wgsl" with { type: "text" };
import large from "./reduce_large.wgsl" with { type: "text" };
import subgroup from "./reduce_subgroup.wgsl" with { type: "text" };

/** Whether workgroups that reduce are exactly one subgroup: on software adapters with subgroups. */
export function reducesInSubgroup(gpu: Gpu): boolean {
	return gpu.software && gpu.subgroupSize > 0;
}

/** Threads of a workgroup that reduces: `onGpu`, or few on a software adapter. */
export function reductionLanes(gpu: Gpu, onGpu = 128): number {
	return gpu.software ? gpu.subgroupSize || 16 : onGpu;
}

/** Threads of a large workgroup that reduces: a power of two within the device's limit and `most`. */
export function largeLanes(gpu: Gpu, most: number): number {
	const limit = gpu.device.limits.maxComputeInvocationsPerWorkgroup;
	return reductionLanes(gpu, Math.min(most, 2 ** Math.floor(Math.log2(limit))));
}

/** The WGSL of `sum_over_lanes` and `max_over_lanes` for workgroups of {@link largeLanes}. */
export function largeReduction(gpu: Gpu): string {
	return gpu.software ? reduction(gpu) : large;
}

function reduction(gpu: Gpu): string {
	return reducesInSubgroup(gpu) ? subgroup : workgroup;
}

/**
 * A kernel that calls `sum_over_lanes` or `max_over_lanes`, completed with the fastest implementation
 * for this adapter and with LANES, the threads of its workgroup.
 */
export function withReduction(gpu: Gpu, kernel: KernelSource & { source: string }): KernelSource {
	return {
		name: kernel.name,
		source: reduction(gpu) + kernel.source,
		constants: { ...kernel.constants, LANES: reductionLanes(gpu) },
	};
}
