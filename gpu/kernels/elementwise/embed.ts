import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { FORMATS } from "./formats.ts";
import source from "./embed.wgsl" with { type: "text" };

/**
 * Looks up token ids in a part of an embedding.
 *
 * @param ids Token ids, u32 `[tokens]`.
 * @param table Rows `first` and on of the table, `[rows, cols]`, f32, f16 or bf16.
 * @param out Receives the rows, f32 `[tokens, cols]`; rows of ids outside the part are not written.
 * @param moves Whether the ids are positions, so that replaying a recording advances by one row per step.
 */
export async function embed(
	gpu: Gpu,
	ids: Tensor,
	table: Tensor,
	first: number,
	out: Tensor,
	accumulate = false,
	moves = false,
): Promise<void> {
	const [rows, cols] = table.shape;
	const constants = { FORMAT: FORMATS[table.dtype]!, ACCUMULATE: Number(accumulate) };
	const kernel = await gpu.kernel({ name: "embed", source, constants });
	const params = (steps: number) => uniform([ids.size, cols, first - steps, rows]);
	kernel.dispatch({
		params: params(0),
		tensors: [ids, table, out],
		workgroups: [Math.ceil(cols / 64), ids.size],
		later: moves ? params : undefined,
	});
}
