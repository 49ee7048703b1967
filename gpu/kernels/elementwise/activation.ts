import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import activate from "./activate.wgsl" with { type: "text" };
import source from "./activation.wgsl" with { type: "text" };
import fourSource from "./activation_four.wgsl" with { type: "text" };

/** The activation functions by their names in config.json (`hidden_act`, `activation_function`). */
export const ACTIVATIONS = {
	relu: 0,
	silu: 1,
	swish: 1,
	gelu: 2,
	gelu_new: 3,
	gelu_fast: 3,
	gelu_pytorch_tanh: 3,
} as const;

/** @internal */
export type ActivationName = keyof typeof ACTIVATIONS;

/**
 * The activation f(x), or f(x) · up with an `up` of the same shape.
 *
 * @returns f32, the shape of `x`, owned by the caller.
 */
export async function activation(
	gpu: Gpu,
	name: ActivationName,
	x: Tensor,
	up?: Tensor,
): Promise<Tensor> {
	const constants = { KIND: ACTIVATIONS[name], GATED: Number(up !== undefined) };
	const isFourfold = x.size % 4 === 0;
	const kernel = await gpu.kernel({
		name: isFourfold ? "activation_4" : "activation",
		source: () => activate + (isFourfold ? fourSource : source),
		constants,
	});
	const count = isFourfold ? x.size / 4 : x.size;
	const out = gpu.empty(x.shape);
	kernel.dispatch({
		params: uniform([count]),
		tensors: [x, up ?? x, out],
		workgroups: Math.ceil(count / 64),
	});
	return out;
}
