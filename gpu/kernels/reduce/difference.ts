import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./difference.wgsl" with { type: "text" };

/** a - b of two f32 tensors of one shape; f32, owned by the caller. */
export async function difference(gpu: Gpu, a: Tensor, b: Tensor): Promise<Tensor> {
	const kernel = await gpu.kernel({ name: "difference", source });
	const out = gpu.empty(a.shape);
	kernel.dispatch({
		params: uniform([a.size]),
		tensors: [a, b, out],
		workgroups: Math.ceil(a.size / 64),
	});
	return out;
}
