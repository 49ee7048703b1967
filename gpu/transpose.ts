import type { Gpu } from "./device.ts";
import { uniform } from "./kernel.ts";
import type { Tensor } from "./tensor.ts";
import copySource from "./copy_region.wgsl" with { type: "text" };
import source from "./transpose.wgsl" with { type: "text" };

/** A part of a row-major f32 matrix. */
export interface Region {
  tensor: Tensor;
  start: number;
  stride: number;
  rows: number;
  cols: number;
}

/**
 * Writes the transpose of `region` into `target`, f32 `[cols, targetStride]`, whose rows are padded
 * with zeros from `rows` to `targetStride`, a multiple of four.
 */
export async function transpose(
  gpu: Gpu,
  { tensor, start, stride, rows, cols }: Region,
  target: Tensor,
  targetStride: number,
): Promise<void> {
  const kernel = await gpu.kernel({ name: "transpose", source });
  kernel.dispatch({
    params: uniform([rows, cols, start, stride, targetStride]),
    tensors: [tensor, target],
    workgroups: [Math.ceil(cols / 32), Math.ceil(targetStride / 32)],
  });
}

/** Writes `region` into `target`, f32 `[rows, targetStride]`, padded with zeros like {@link transpose}. */
export async function copyRegion(
  gpu: Gpu,
  region: Region,
  target: Tensor,
  targetStride: number,
): Promise<void> {
  await placeRegion(gpu, region, { tensor: target, start: 0, stride: targetStride }, targetStride);
}

/** Writes `region` into a part of another f32 matrix, `width` columns with zeros beyond its own. */
export async function placeRegion(
  gpu: Gpu,
  { tensor, start, stride, rows, cols }: Region,
  target: { tensor: Tensor; start: number; stride: number },
  width: number = cols,
): Promise<void> {
  const kernel = await gpu.kernel({ name: "copy_region", source: copySource });
  kernel.dispatch({
    params: uniform([rows, cols, start, stride, target.start, target.stride, width]),
    tensors: [tensor, target.tensor],
    workgroups: [Math.ceil(width / 16), Math.ceil(rows / 4)],
  });
}
