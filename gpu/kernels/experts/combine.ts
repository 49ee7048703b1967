import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./combine.wgsl" with { type: "text" };

/**
 * The outputs of each token's experts, weighted, added up slot by slot, and added to the residual stream.
 *
 * @param y f32 `[tokens, k · width]`.
 * @param routing f32 `[tokens, 2 k]`.
 * @param residual f32 `[tokens, width]`.
 * @param factor Of the sum.
 * @returns f32 `[tokens, width]`, owned by the caller.
 */
export async function combine(
	gpu: Gpu,
	y: Tensor,
	routing: Tensor,
	residual: Tensor,
	factor = 1,
): Promise<Tensor> {
	const [tokens, width] = residual.shape;
	const kernel = await gpu.kernel({ name: "combine", source });
	const out = gpu.empty([tokens, width]);
	kernel.dispatch({
		params: uniform([tokens, width, routing.shape[1] / 2], [factor]),
		tensors: [y, routing, residual, out],
		workgroups: Math.ceil(tokens * width / 64),
	});
	return out;
}
