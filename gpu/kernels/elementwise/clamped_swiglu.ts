import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./clamped_swiglu.wgsl" with { type: "text" };

/** The numbers of a {@link clampedSwiglu}: 1.702 and 7 in GPT-OSS. */
export interface ClampedSwiglu {
	/** Factor within the sigmoid. */
	alpha: number;
	/** The greatest gate, and the greatest magnitude of `up`. */
	limit: number;
}

/**
 * The gated activation g · σ(alpha · g) · (u + 1) of the clamped gate g and the clamped `up` u.
 *
 * @param up The shape of `gate`.
 * @returns f32, the shape of `gate`, owned by the caller.
 * @see GPT-OSS, arXiv:2508.10925
 */
export async function clampedSwiglu(
	gpu: Gpu,
	gate: Tensor,
	up: Tensor,
	{ alpha, limit }: ClampedSwiglu,
): Promise<Tensor> {
	const kernel = await gpu.kernel({ name: "clamped_swiglu", source });
	const out = gpu.empty(gate.shape);
	kernel.dispatch({
		params: uniform([gate.size], [alpha, limit]),
		tensors: [gate, up, out],
		workgroups: Math.ceil(gate.size / 64),
	});
	return out;
}
