import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./rope.wgsl" with { type: "text" };

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
	const constants = { INTERLEAVED: Number(interleaved) };
	const kernel = await gpu.kernel({ name: "rope", source, constants });
	kernel.dispatch({
		params: uniform([tokens, heads, pairs, length, width / heads]),
		tensors: [table, x],
		workgroups: [Math.ceil(heads * pairs / 64), tokens],
	});
}
