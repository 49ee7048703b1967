import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./kl_divergence.wgsl" with { type: "text" };
import { withReduction } from "./reduction.ts";

/** Columns of the state of {@link klDivergence}. */
export const KL_STATE = { columns: 8, id: 3, divergence: 6, otherId: 7 } as const;

/**
 * Accumulates a part of the vocabulary in the KL divergence of the softmax of `other` from that of
 * `logits`, row by row, and in the most likely id of each.
 *
 * @param logits f32 `[rows, cols]`, the logits of ids `first` to `first + cols - 1`; finite.
 * @param other Like `logits`.
 * @param state f32 `[rows, 8]`; after the last part its columns {@link KL_STATE} are the divergence in
 *   nats and the most likely ids, the least one of equals. The part with `first` 0 must come first.
 */
export async function klDivergence(
	gpu: Gpu,
	logits: Tensor,
	other: Tensor,
	first: number,
	state: Tensor,
): Promise<void> {
	const [rows, cols] = logits.shape;
	const kernel = await gpu.kernel(withReduction(gpu, { name: "kl_divergence", source }));
	kernel.dispatch({
		params: uniform([rows, cols, first]),
		tensors: [logits, other, state],
		workgroups: rows,
	});
}
