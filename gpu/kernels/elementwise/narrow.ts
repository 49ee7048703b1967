import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./narrow.wgsl" with { type: "text" };

/**
 * The values of an f32 tensor as f16, rounded to nearest, ties to even.
 *
 * @param overflows Incremented by the number of values outside the range of f16 (beyond ±65504 after
 *   rounding, infinite or NaN), which are stored as infinities; u32 `[1]`.
 * @param out Receives the values, f16; a new tensor of the same shape, owned by the caller, if absent.
 * @returns `out`.
 */
export async function narrow(
	gpu: Gpu,
	values: Tensor,
	overflows: Tensor,
	out: Tensor = gpu.empty(values.shape, "f16"),
): Promise<Tensor> {
	const kernel = await gpu.kernel({ name: "narrow", source });
	kernel.dispatch({
		params: uniform([values.size]),
		tensors: [values, out, overflows],
		workgroups: Math.ceil(values.size / 128),
	});
	return out;
}
