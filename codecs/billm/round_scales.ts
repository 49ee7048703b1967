import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import { withReduction } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { type BillmLayout, scalesPerBlock } from "./quantize_block.ts";
import source from "./round_scales.wgsl" with { type: "text" };

/** Rounded scales as codes and factors: value = code · factor. */
export interface ScaleCodes {
	/**
	 * i32 `[rows, blocks, scalesPerBlock]`. 8 bits: -127 .. 127; 4 bits: means -7 .. 7, scales 0 .. 15.
	 */
	codes: Tensor;
	/** The factors of each row's means and scales, f32 `[rows, 2]`, exact f16 values. */
	factors: Tensor;
}

/** The greatest codes of means and of scales, and the least code of scales, by code width. */
const TOPS = {
	8: { TOP_MEAN: 127, TOP_SCALE: 127, LEAST_SCALE: -127 },
	4: { TOP_MEAN: 7, TOP_SCALE: 15, LEAST_SCALE: 0 },
};

/**
 * Rounds the means and scales of a linear layer to 8-bit or 4-bit codes with two f16 factors per row.
 *
 * @param scales f32 `[rows, blocks, scalesPerBlock]`; replaced by the rounded values.
 * @returns The codes and factors, owned by the caller.
 */
export async function roundScales(
	gpu: Gpu,
	layout: BillmLayout,
	scales: Tensor,
	bits: 8 | 4 = 8,
): Promise<ScaleCodes> {
	const { rows } = layout;
	const kernel = await gpu.kernel(withReduction(gpu, {
		name: "round_scales",
		source,
		constants: { ...TOPS[bits], ZONES: layout.zones, SCALES: scalesPerBlock(layout) },
	}));
	const codes = gpu.empty(scales.shape, "u32");
	const factors = gpu.empty([rows, 2]);
	kernel.dispatch({
		params: uniform([rows, scales.size / rows]),
		tensors: [scales, codes, factors],
		workgroups: rows,
	});
	return { codes, factors };
}
