import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/**
 * The direction of the Haar transform: "row" takes pairs of neighbouring columns of a row, and adds to
 * salient columns a transform of pairs of rows; "column" takes pairs of rows only.
 */
export type HaarAxis = "row" | "column";

/** The layout of a linear layer of the codec haar; rows and columns are even. */
export interface HaarLayout {
	rows: number;
	cols: number;
	/** Columns that share scales, a multiple of 32. */
	blockSize: number;
	axis: HaarAxis;
}

/** Planes of bits: sign and group of a coefficient; by rows, also those of salient columns. */
export function haarPlanes({ axis }: Pick<HaarLayout, "axis">): 2 | 4 {
	return axis === "row" ? 4 : 2;
}

/**
 * Numbers per row and block: mean and two scales of each band of the row, or of the ordinary columns; then
 * a mean and a scale of each group of salient columns.
 */
export function haarScales({ axis }: Pick<HaarLayout, "axis">): 10 | 7 {
	return axis === "row" ? 10 : 7;
}

/** A linear layer of the codec haar on the GPU, in the layout of products. */
export interface HaarTensors extends HaarLayout {
	/** u32 `[rows, ⌈cols / 32⌉ · planes]`: the planes' words of 32 columns are neighbours. */
	codes: Tensor;
	/** f32 `[rows, blocks · scales]`, exact f16 values. */
	scales: Tensor;
	/** A bit per column, 1 for a salient one, u32 `[⌈cols / 32⌉]`. */
	mask: Tensor;
}

/** Allocates the tensors of a linear layer. */
export function emptyHaar(gpu: Gpu, layout: HaarLayout): HaarTensors {
	const { rows, cols, blockSize } = layout;
	const words = bitWords(cols);
	return {
		...layout,
		codes: gpu.zeros([rows, words * haarPlanes(layout)], "u32"),
		scales: gpu.empty([rows, Math.ceil(cols / blockSize) * haarScales(layout)]),
		mask: gpu.empty([words], "u32"),
	};
}

export function freeHaar(gpu: Gpu, { codes, scales, mask }: HaarTensors): void {
	gpu.free(codes, scales, mask);
}
