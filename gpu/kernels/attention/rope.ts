import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./rope.wgsl" with { type: "text" };
import fourSource from "./rope_four.wgsl" with { type: "text" };

/**
 * Rotary embedding: rotates the heads of `x`, f32 `[tokens, heads * headDim]`, in place.
 *
 * @param table Lookup table of (cos, sin) by position, f32 `[length, pairs, 2]`; tokens are whole
 *   consecutive windows of `length`. The first `2 * pairs` entries of each head are rotated.
 * @param interleaved Whether neighbours rotate together, instead of entries i and i + pairs.
 */
export async function rope(
	gpu: Gpu,
	x: Tensor,
	table: Tensor,
	heads: number,
	interleaved = false,
): Promise<void> {
	const [tokens, width] = x.shape;
	const [length, pairs] = table.shape;
	const headDim = width / heads;
	const isFourfold = !interleaved && pairs % 4 === 0 && headDim % 4 === 0;
	const kernel = await gpu.kernel(
		isFourfold
			? { name: "rope_4", source: fourSource }
			: { name: "rope", source, constants: { INTERLEAVED: Number(interleaved) } },
	);
	const threads = heads * pairs / (isFourfold ? 4 : 1);
	kernel.dispatch({
		params: uniform([tokens, heads, pairs, length, headDim]),
		tensors: [table, x],
		workgroups: [Math.ceil(threads / 64), tokens],
	});
}
