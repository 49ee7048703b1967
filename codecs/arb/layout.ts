import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/** The layout of a linear layer of the codec arb. */
export interface ArbLayout {
	rows: number;
	cols: number;
	/** Columns that share scales of a row, a multiple of 32. */
	blockSize: number;
	/**
	 * Whether a scale is the product of one of the row and one of the column; otherwise rows have means and
	 * scales.
	 */
	columnScales: boolean;
	/** Whether salient columns have two zones, too. */
	bitmap: boolean;
}

/** Planes of bits: sign, zone, and with a bitmap the second sign of salient columns. */
export function arbPlanes({ bitmap }: Pick<ArbLayout, "bitmap">): 2 | 3 {
	return bitmap ? 3 : 2;
}

/** Numbers per row and block. */
export function arbScales({ columnScales, bitmap }: Pick<ArbLayout, "columnScales" | "bitmap">) {
	if (columnScales) return bitmap ? 6 : 4;
	return bitmap ? 10 : 7;
}

/** A linear layer of the codec arb on the GPU, in the layout of products. */
export interface ArbTensors extends ArbLayout {
	/** u32 `[rows, ⌈cols / 32⌉ · planes]`: the planes' words of 32 columns are neighbours. */
	codes: Tensor;
	/**
	 * f32 `[rows, blocks · scales]`, exact f16 values. With column scales: low, high, then both planes of
	 * each salient zone. Otherwise: mean and scale of low and high, then mean and two scales of each salient
	 * zone.
	 */
	scales: Tensor;
	/**
	 * f32 `[⌈cols / 32⌉ · 32, 4]`, exact f16 values: scales of the low and the high zone; of salient columns,
	 * those of both planes of each zone. A single row of zeros without column scales.
	 */
	columns: Tensor;
	/** A bit per column, 1 for a salient one, u32 `[⌈cols / 32⌉]`. */
	mask: Tensor;
}

/** Allocates the tensors of a linear layer. */
export function emptyArb(gpu: Gpu, layout: ArbLayout): ArbTensors {
	const { rows, cols, blockSize, columnScales } = layout;
	const words = bitWords(cols);
	return {
		...layout,
		codes: gpu.empty([rows, words * arbPlanes(layout)], "u32"),
		scales: gpu.empty([rows, Math.ceil(cols / blockSize) * arbScales(layout)]),
		columns: gpu.zeros([columnScales ? 32 * words : 1, 4]),
		mask: gpu.empty([words], "u32"),
	};
}

export function freeArb(gpu: Gpu, { codes, scales, columns, mask }: ArbTensors): void {
	gpu.free(codes, scales, columns, mask);
}
