import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import {
	embeddingConstants,
	embeddingRowBytes,
	embeddingScaleGroups,
	type EmbeddingTensors,
} from "./dequantize_embedding.ts";
import valueAt from "./embedding_value.wgsl" with { type: "text" };
import source from "./look_up_embedding.wgsl" with { type: "text" };

/**
 * Looks up token ids in a quantized embedding, or in a part of one.
 *
 * @param ids Token ids, u32 `[tokens]`.
 * @param out Receives the rows, f32 `[tokens, cols]`; rows of ids outside the part are not written.
 * @param accumulate Whether to add to `out`.
 * @param first The id of the first row of the part.
 * @param moves See embed().
 */
export async function lookUpEmbedding(
	gpu: Gpu,
	ids: Tensor,
	{ layout, codes, scales, zeros }: EmbeddingTensors,
	out: Tensor,
	accumulate = false,
	first = 0,
	moves = false,
): Promise<void> {
	const { rows, cols } = layout;
	const kernel = await gpu.kernel({
		name: "embed_table",
		source: valueAt + source,
		constants: { ...embeddingConstants(layout), ACCUMULATE: Number(accumulate) },
	});
	const params = (steps: number) =>
		uniform([rows, cols, embeddingRowBytes(layout), embeddingScaleGroups(layout), first - steps]);
	kernel.dispatch({
		params: params(0),
		tensors: [ids, codes, scales, zeros ?? scales, out],
		workgroups: [Math.ceil(cols / 64), ids.size],
		later: moves ? params : undefined,
	});
}
