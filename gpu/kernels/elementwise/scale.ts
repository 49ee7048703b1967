import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./scale.wgsl" with { type: "text" };

/**
 * Multiplies x, f32, in place.
 *
 * @param cap Bounds the result softly, cap · tanh(factor · x / cap); unbounded if absent.
 */
export async function scale(gpu: Gpu, x: Tensor, factor: number, cap?: number): Promise<void> {
	const constants = { CAPPED: Number(cap !== undefined) };
	const kernel = await gpu.kernel({ name: "scale", source, constants });
	kernel.dispatch({
		params: uniform([x.size], [factor, cap ?? 0]),
		tensors: [x],
		workgroups: Math.ceil(x.size / 64),
	});
}
