import type { Gpu } from "../../gpu/device.ts";
import { MAX_GROUPS } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { StackChoice, StackedWeights } from "../codec.ts";
import type { PackedRows } from "./packed_rows.ts";
import { rowShape } from "./vector.ts";
import { rowVectorKernel } from "./vector_source.ts";

/** Linear layers of experts, packed row by row, one above the other; owns their tensors. */
export class PackedRowsStack implements StackedWeights {
	/**
	 * @param rows Of one linear layer.
	 * @param all All of them, and each as views of their tensors.
	 */
	constructor(
		readonly gpu: Gpu,
		readonly rows: number,
		readonly all: PackedRows,
		readonly each: readonly PackedRows[],
	) {}

	get cols(): number {
		return this.all.cols;
	}

	async multiplyVectors(
		x: Tensor,
		{ routing, places, vectors, perRow }: StackChoice,
		y: Tensor,
		bias?: Tensor,
	): Promise<void> {
		const { gpu, rows, cols, all } = this;
		const { order, tensors, starts } = all;
		const code = all.code(gpu, rows);
		const shape = rowShape(gpu, code, cols);
		const { threads, lanes, bands = 1, turns = 1 } = shape;
		const ordered = order !== undefined;
		const aligned = !ordered && cols % 4 === 0;
		const chunks = Math.ceil(cols / code.chunk);
		const kernel = await gpu.kernel({
			name: `stack_vector_${code.name}_${code.rows}_${threads}${lanes ? `_of_${lanes}` : ""}` +
				`${bands > 1 ? `_bands_${bands}` : ""}${turns > 1 ? `_turns_${turns}` : ""}` +
				`${ordered ? "_ordered" : aligned ? "" : "_any"}`,
			source: () =>
				rowVectorKernel(code, shape, { input: "plain", ordered, aligned, stacked: true }),
			constants: {
				...{ ROWS: rows, COLS: cols, CHUNKS: chunks, HAS_BIAS: Number(bias !== undefined) },
				PANELS: Math.ceil(chunks / (threads / bands * turns)),
				STRIDE: starts.length > 1 ? starts[1] : 0,
				...{ K: routing.shape[1] / 2, PER_ROW: perRow },
				...(order && { ORDER_QUADS: order.shape[1] / 4 }),
				...all.constants,
			},
		});
		const groups = Math.ceil(rows / (bands * code.rows));
		kernel.dispatch({
			tensors: [x, ...tensors, ...(order ? [order] : []), bias ?? x, routing, places, y],
			workgroups: [Math.min(groups, MAX_GROUPS), Math.ceil(groups / MAX_GROUPS), vectors],
		});
	}

	async unpack(place: number, out: Tensor): Promise<void> {
		await this.each[place].unpack(this.gpu, 0, this.rows, out);
	}

	[Symbol.dispose](): void {
		const { tensors, order } = this.all;
		this.gpu.free(...tensors, ...(order ? [order] : []));
	}
}
