import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./cross_entropy.wgsl" with { type: "text" };
import { withReduction } from "./reduction.ts";

/**
 * Accumulates a part of the vocabulary in the cross-entropy of each row.
 *
 * @param logits f32 `[rows, cols]`, the logits of ids `first` to `first + cols - 1`.
 * @param targets The id each row should predict, u32 `[rows]`.
 * @param state f32 `[rows, 4]`; after the last part its last column is the loss in nats. The part
 *   with `first` 0 must come first.
 */
export async function crossEntropy(
	gpu: Gpu,
	logits: Tensor,
	targets: Tensor,
	first: number,
	state: Tensor,
): Promise<void> {
	const [rows, cols] = logits.shape;
	const kernel = await gpu.kernel(withReduction(gpu, { name: "cross_entropy", source }));
	kernel.dispatch({
		params: uniform([rows, cols, first]),
		tensors: [logits, targets, state],
		workgroups: rows,
	});
}
