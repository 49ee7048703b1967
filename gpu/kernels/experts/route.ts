import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./route.wgsl" with { type: "text" };

/** The most experts of a decoder layer that {@link route} chooses from. */
export const MOST_EXPERTS = 1024;

/** How the experts of a token are chosen. */
export interface RouteOptions {
	/** Experts per token. */
	k: number;
	/** Whether the weights of the chosen experts add up to 1; else they are their parts among all experts. */
	renormalized: boolean;
	/** Added to the logits, f32 `[experts]`. */
	bias?: Tensor;
}

/**
 * The experts with the greatest logits of each token, by falling logits, and their softmax.
 *
 * @param logits f32 `[tokens, experts]`, of at most {@link MOST_EXPERTS} experts.
 * @returns f32 `[tokens, 2 k]`: the k experts, then their weights; owned by the caller.
 */
export async function route(
	gpu: Gpu,
	logits: Tensor,
	{ k, renormalized, bias }: RouteOptions,
): Promise<Tensor> {
	const [tokens, experts] = logits.shape;
	const constants = { RENORMALIZED: Number(renormalized), HAS_BIAS: Number(bias !== undefined) };
	const kernel = await gpu.kernel({ name: "route", source, constants });
	const routing = gpu.empty([tokens, 2 * k]);
	kernel.dispatch({
		params: uniform([tokens, experts, k]),
		tensors: [logits, bias ?? logits, routing],
		workgroups: tokens,
	});
	return routing;
}
