import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./non_finite.wgsl" with { type: "text" };

/** Adds the number of NaN and infinities in an f32 tensor to `count`, u32 `[1]`. */
export async function countNonFinite(gpu: Gpu, values: Tensor, count: Tensor): Promise<void> {
	const kernel = await gpu.kernel({ name: "non_finite", source });
	kernel.dispatch({
		params: uniform([values.size]),
		tensors: [values, count],
		workgroups: Math.min(Math.ceil(values.size / 256), 4096),
	});
}
