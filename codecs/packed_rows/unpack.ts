import type { Gpu } from "../../gpu/device.ts";
import { MAX_GROUPS, uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import {
	type RowUnpacking,
	unpackRowsKernel,
	type UnpackStore,
	unpackWorkgroups,
} from "./unpack_source.ts";

/** The arguments of {@link decodeRows}. */
export interface UnpackedRows {
	/** The first row, and the number of rows and columns. */
	first: number;
	rows: number;
	cols: number;
	code: RowUnpacking;
	/** The codec's tensors, in the order of those of `code`. */
	tensors: readonly Tensor[];
	/** The column of each place, u32 `[1, ⌈cols / 4⌉ · 4 or more]`, if columns have an order of their own. */
	order?: Tensor;
	/** Pipeline constants of the codec's text. */
	constants?: Readonly<Record<string, number>>;
	/** Receives the weights; a new tensor if absent. */
	out?: Tensor;
}

/**
 * The dequantized weights of some rows of a linear layer.
 *
 * @returns f32 `[rows, cols]`; a new one is owned by the caller.
 */
export async function decodeRows(
	gpu: Gpu,
	{ first, rows, cols, code, tensors, order, constants, out }: UnpackedRows,
): Promise<Tensor> {
	const store: UnpackStore = order ? "ordered" : cols % 4 === 0 ? "aligned" : "any";
	const kernel = await gpu.kernel({
		name: `unpack_${code.name}${store === "aligned" ? "" : `_${store}`}`,
		source: () => unpackRowsKernel(code, store),
		...(constants && { constants }),
	});
	const weight = out ?? gpu.empty([rows, cols]);
	const { across, down } = unpackWorkgroups(code, rows, cols);
	kernel.dispatch({
		params: uniform([first, rows, cols]),
		tensors: [...tensors, ...(order ? [order] : []), weight],
		workgroups: [across, Math.min(down, MAX_GROUPS), Math.ceil(down / MAX_GROUPS)],
	});
	return weight;
}
