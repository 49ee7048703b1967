import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { argmaxKernel } from "./argmax_source.ts";
import workgroup from "./reduce.wgsl" with { type: "text" };
import large from "./reduce_large.wgsl" with { type: "text" };
import subgroup from "./reduce_subgroup.wgsl" with { type: "text" };

/** What {@link argmax} gives for a row that holds NaN or infinities. */
export const NOT_FINITE = 0xffff_ffff;

/**
 * The index of the greatest entry of each row; the least index where several are greatest.
 *
 * @param x f32 `[rows, cols]`, fewer than 2^24 columns.
 * @param out Receives the indices, u32 `[rows]`.
 * @param slotAt The element of `out` that receives the index of a single row too, by the steps since
 *   it was recorded.
 * @returns `out` or, without it, a tensor of the caller's: {@link NOT_FINITE} for rows with NaN or
 *   infinities.
 */
export async function argmax(
  gpu: Gpu,
  x: Tensor,
  out?: Tensor,
  slotAt?: (steps: number) => number,
): Promise<Tensor> {
  const [rows, cols] = x.shape;
  const aligned = cols % 4 === 0;
  const lanes = lanesOf(gpu);
  const reduce = !gpu.software ? large : gpu.subgroupSize > 0 ? subgroup : workgroup;
  const kernel = await gpu.kernel({
    name: aligned ? "argmax" : "argmax_any",
    source: () => reduce + argmaxKernel(lanes, aligned),
    constants: { LANES: lanes },
  });
  out ??= gpu.empty([rows], "u32");
  const params = (steps: number) => uniform([cols, slotAt?.(steps) ?? 0]);
  kernel.dispatch({
    params: params(0),
    tensors: [x, out],
    workgroups: [rows, 1],
    later: slotAt && params,
  });
  return out;
}

/** Threads of a workgroup: as many as a GPU allows, for a row is long and there is often just one. */
function lanesOf(gpu: Gpu): number {
  if (gpu.software) return gpu.subgroupSize || 16;
  const most = gpu.device.limits.maxComputeInvocationsPerWorkgroup;
  return Math.min(1024, 2 ** Math.floor(Math.log2(most)));
}
