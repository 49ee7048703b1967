import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { FORMATS } from "./formats.ts";
import source from "./widen.wgsl" with { type: "text" };

/**
 * The values of an f16 or bf16 tensor as f32, exactly; an f32 tensor is copied.
 *
 * @returns A tensor of the same shape, f32, owned by the caller.
 */
export async function widen(gpu: Gpu, stored: Tensor): Promise<Tensor> {
	if (stored.dtype === "f32") return gpu.clone(stored);
	const kernel = await gpu.kernel({
		name: "widen",
		source,
		constants: { FORMAT: FORMATS[stored.dtype]! },
	});
	const out = gpu.empty(stored.shape);
	kernel.dispatch({
		params: uniform([stored.size]),
		tensors: [stored, out],
		workgroups: Math.ceil(stored.size / 128),
	});
	return out;
}
