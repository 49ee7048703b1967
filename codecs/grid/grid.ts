import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/**
 * The levels that codes represent. "range": equally spaced from the minimum to the maximum weight,
 * including 0. "mean": mean ± scale. "sign": ± scale. The last two have codes of one bit.
 */
export type GridKind = "range" | "mean" | "sign";

/**
 * The zeros of a "range". "any": codes. "middle": one of the two codes in the middle. "symmetric": the
 * upper one of them. "half": the middle between them, so that no level is 0. "free": any number, f16.
 */
export type Zeros = typeof ZEROS[number];
export const ZEROS = ["any", "middle", "symmetric", "half", "free"] as const;

/** The zeros that a grid may have, of kinds other than "any" and "free". */
export function zerosOf(zeros: "middle" | "symmetric" | "half", bits: number): number[] {
	const upper = 2 ** (bits - 1);
	return { middle: [upper - 1, upper], symmetric: [upper], half: [upper - 0.5] }[zeros];
}

/** Whether zeros may lie between codes. */
export function isBetweenCodes({ zeros }: Pick<GridLayout, "zeros">): boolean {
	return zeros === "half" || zeros === "free";
}

/** The number that kernels use for each {@link GridKind}. */
export const GRID_NUMBERS: Record<GridKind, number> = { range: 0, mean: 1, sign: 2 };

/** The supported code widths of ordinary weights, in bits. */
export const GRID_BITS = [1, 2, 3, 4, 8] as const;
export type GridBits = typeof GRID_BITS[number];

/** Code width of salient weights, in bits. Their grid is the "range" of their whole row. */
export const SALIENT_BITS = 8;

/** The layout of a grid layer. */
export interface GridLayout {
	rows: number;
	cols: number;
	/** Columns of a scale group, a multiple of 32; the whole row if it is `cols` or more. */
	groupSize: number;
	grid: GridKind;
	/** The zeros of a "range"; "any" if absent. */
	zeros?: Zeros;
	/** Bits of the code of an ordinary weight. */
	bits: GridBits;
	/** Whether some weights are salient, at any position, and have codes of {@link SALIENT_BITS} bits. */
	salient: boolean;
}

/** The greatest code of a width in bits. */
export function topCode(bits: number): number {
	return 2 ** bits - 1;
}

/** The number of scale groups in a row. */
export function groupsOf({ cols, groupSize }: GridLayout): number {
	return Math.ceil(cols / groupSize);
}

/** u32 words for the codes of 32 adjacent columns: ordinary codes, then salient ones. */
export function codeWords({ bits, salient }: GridLayout): number {
	return bits + (salient ? SALIENT_BITS : 0);
}

/** A grid layer in GPU memory. */
export interface LinearGrid extends GridLayout {
	/**
	 * u32 `[rows, ⌈cols / 32⌉, codeWords]`: code `i` of 32 begins at bit `i * bits` of its words. A weight
	 * has either an ordinary or a salient code; the other one is 0.
	 */
	codes: Tensor;
	/**
	 * Scale, and zero ("range") or mean, f32 `[rows, groups, 2]`. Scales and means are exact f16 values.
	 */
	fits: Tensor;
	/** Bit mask of the salient weights, u32 `[rows, ⌈cols / 32⌉]`; absent if there are none. */
	mask?: Tensor;
	/** Scale and zero of a row's salient weights, f32 `[rows, 2]`; absent if there are none. */
	salientFits?: Tensor;
	/**
	 * The column of the weight at each place of the codes, a permutation, u32 `[cols]`; absent if codes are
	 * in the order of columns. Scale groups and the mask are those of places.
	 */
	order?: Tensor;
}

/** Allocates a grid layer. */
export function emptyGrid(gpu: Gpu, layout: GridLayout): LinearGrid {
	const { rows } = layout;
	const words = bitWords(layout.cols);
	return {
		...layout,
		codes: gpu.empty([rows, words, codeWords(layout)], "u32"),
		fits: gpu.empty([rows, groupsOf(layout), 2]),
		...(layout.salient && {
			mask: gpu.empty([rows, words], "u32"),
			salientFits: gpu.empty([rows, 2]),
		}),
	};
}

/** Frees a grid layer. */
export function freeGrid(gpu: Gpu, { codes, fits, mask, salientFits, order }: LinearGrid): void {
	const optional = [mask, salientFits, order].filter((tensor) => tensor !== undefined);
	gpu.free(codes, fits, ...optional);
}
