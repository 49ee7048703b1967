import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./add.wgsl" with { type: "text" };

/**
 * x + factor · y for two f32 tensors of one shape.
 *
 * @returns f32, the shape of `x`, owned by the caller.
 */
export async function add(gpu: Gpu, x: Tensor, y: Tensor, factor = 1): Promise<Tensor> {
	const kernel = await gpu.kernel({ name: "add", source });
	const out = gpu.empty(x.shape);
	kernel.dispatch({
		params: uniform([x.size], [factor]),
		tensors: [x, y, out],
		workgroups: Math.ceil(x.size / 64),
	});
	return out;
}
