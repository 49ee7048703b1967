import type { Gpu } from "../../device.ts";
import type { KernelSource } from "../../kernel.ts";
import workgroup from "./reduce.wgsl" with { type: "text" };
import subgroup from "./reduce_subgroup.wgsl" with { type: "text" };

/**
 * Completes a kernel that calls `sum_over_lanes` or `max_over_lanes` with what this adapter does
 * best, and with LANES, the threads of its workgroup.
 */
export function withReduction(gpu: Gpu, kernel: KernelSource & { source: string }): KernelSource {
  const usesSubgroup = gpu.software && gpu.subgroupSize > 0;
  const lanes = usesSubgroup ? gpu.subgroupSize : gpu.software ? 16 : 128;
  return {
    name: kernel.name,
    source: (usesSubgroup ? subgroup : workgroup) + kernel.source,
    constants: { ...kernel.constants, LANES: lanes },
  };
}
