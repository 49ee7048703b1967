import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { FORMATS } from "./formats.ts";
import source from "./copy_region.wgsl" with { type: "text" };

/** A part of a row-major matrix, f32, f16 or bf16. */
export interface Region {
	tensor: Tensor;
	start: number;
	stride: number;
	rows: number;
	cols: number;
}

/** Copies `region` to `target`, f32 `[rows, targetStride]`, and pads its rows with zeros. */
export async function copyRegion(
	gpu: Gpu,
	region: Region,
	target: Tensor,
	targetStride: number,
): Promise<void> {
	await placeRegion(gpu, region, { tensor: target, start: 0, stride: targetStride }, targetStride);
}

/** Copies `region` to a part of another f32 matrix, padded with zeros to `width` columns. */
export async function placeRegion(
	gpu: Gpu,
	{ tensor, start, stride, rows, cols }: Region,
	target: { tensor: Tensor; start: number; stride: number },
	width: number = cols,
): Promise<void> {
	const kernel = await gpu.kernel({
		name: "copy_region",
		source,
		constants: { FORMAT: FORMATS[tensor.dtype]! },
	});
	kernel.dispatch({
		params: uniform([rows, cols, start, stride, target.start, target.stride, width]),
		tensors: [tensor, target.tensor],
		workgroups: [Math.ceil(width / 16), Math.ceil(rows / 4)],
	});
}
