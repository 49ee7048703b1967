import { placeRegion } from "../../gpu/kernels/elementwise/copy_region.ts";
import type { OpKind } from "./op.ts";

/** Rows that one dispatch copies: a dimension has at most 65,535 workgroups, of four rows each. */
const ROWS = 4 * 65535;

/**
 * The queries, keys and values of a linear layer whose output has, head by head, one of each:
 * `[tokens, heads, parts, width]` to `[tokens, heads, width]` for each part.
 */
export interface SplitOp {
	/** The kind of operation. */
	op: "split";
	/** Register of the input. */
	from: string;
	/** The registers of the parts, in order. */
	to: readonly string[];
	/** Number of heads. */
	heads: number;
	/** Elements of a part of a head. */
	width: number;
}

export const split: OpKind<SplitOp> = {
	isCheap: true,
	reads: ({ from, to, heads, width }) => ({ [from]: to.length * heads * width }),
	writes: ({ to, heads, width }) =>
		Object.fromEntries(to.map((register) => [register, heads * width])),

	async run({ from, to, heads, width }, { gpu, registers }) {
		const tensor = registers.get(from)!;
		const [tokens] = tensor.shape;
		const stride = to.length * width;
		return await Promise.all(to.map(async (register, part) => {
			const out = gpu.empty([tokens, heads * width]);
			for (let first = 0; first < tokens * heads; first += ROWS) {
				const rows = Math.min(ROWS, tokens * heads - first);
				const start = first * stride + part * width;
				const target = { tensor: out, start: first * width, stride: width };
				await placeRegion(gpu, { tensor, start, stride, rows, cols: width }, target);
			}
			return [register, out] as [string, typeof out];
		}));
	},
};
