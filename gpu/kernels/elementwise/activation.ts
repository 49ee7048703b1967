import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import activate from "./activate.wgsl" with { type: "text" };
import source from "./activation.wgsl" with { type: "text" };

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
	const kernel = await gpu.kernel({ name: "activation", source: activate + source, constants });
	const out = gpu.empty(x.shape);
	kernel.dispatch({
		params: uniform([x.size]),
		tensors: [x, up ?? x, out],
		workgroups: Math.ceil(x.size / 64),
	});
	return out;
}
