import type { Gpu } from "../../device.ts";
import { MAX_GROUPS, uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./expert_rows.wgsl" with { type: "text" };

/** A register of a batch and the routing of its tokens. */
export interface RoutedRegister {
	/** f32 `[tokens, cols]`, or `[tokens, k · cols]` if each (token, slot) pair has a row of its own. */
	x: Tensor;
	/** f32 `[tokens, 2 k]`. */
	routing: Tensor;
}

/** Some pairs, by their places in an order such as that of {@link SortedPairs}. */
export interface PairRange {
	/** u32 `[pairs]`. */
	order: Tensor;
	first: number;
	count: number;
}

/**
 * The input rows of some pairs.
 *
 * @param other The same register of another model, whose rows are wanted instead: those of the same tokens
 *   and experts, or those of `x` where that model sends a token elsewhere.
 * @returns f32 `[count, cols]`, owned by the caller.
 */
export async function expertRows(
	gpu: Gpu,
	{ x, routing }: RoutedRegister,
	cols: number,
	{ order, first, count }: PairRange,
	other?: RoutedRegister,
): Promise<Tensor> {
	const each = x.shape[1] !== cols;
	const kernel = await gpu.kernel({
		name: "expert_rows",
		source,
		constants: { EACH: Number(each), OTHER: Number(other !== undefined) },
	});
	const out = gpu.empty([count, cols]);
	const groups = Math.ceil(count / 4);
	if (groups > MAX_GROUPS) throw new RangeError(`A batch has ${count} rows of experts`);
	kernel.dispatch({
		params: uniform([count, cols, routing.shape[1] / 2, first]),
		tensors: [x, order, routing, other?.x ?? x, other?.routing ?? routing, out],
		workgroups: [groups, Math.ceil(cols / 64)],
	});
	return out;
}
