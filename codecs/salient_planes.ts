import { bitWords } from "../base/bits.ts";

/** The indices of the columns that a bit mask marks, ascending. */
export function markedColumns(mask: Uint32Array, cols: number): number[] {
	const all = Array.from({ length: cols }, (_, col) => col);
	return all.filter((col) => (mask[col >> 5] >>> (col & 31)) & 1);
}

/** A plane of bits among others, interleaved word by word: `[rows, words, planes]`. */
export interface InterleavedPlane {
	rows: number;
	/** Words of a row in a plane. */
	words: number;
	planes: number;
	codes: Uint32Array<ArrayBuffer>;
}

/** The words of plane `k`, `[rows, words]`. */
export function planeOf(
	{ rows, words, planes, codes }: InterleavedPlane,
	k: number,
): Uint32Array<ArrayBuffer> {
	return Uint32Array.from({ length: rows * words }, (_, i) => codes[i * planes + k]);
}

/** Puts the words of plane `k` in their places. */
export function setPlane(
	{ planes, codes }: InterleavedPlane,
	k: number,
	plane: Uint32Array,
): void {
	for (let i = 0; i < plane.length; i++) codes[i * planes + k] = plane[i];
}

/** The bits of plane `k` in some columns, without gaps, row after row. */
export function gatherBits(
	{ rows, words, planes, codes }: InterleavedPlane,
	k: number,
	columns: readonly number[],
): Uint32Array<ArrayBuffer> {
	const out = new Uint32Array(bitWords(rows * columns.length));
	for (let row = 0, at = 0; row < rows; row++) {
		for (const col of columns) {
			const bit = (codes[(row * words + (col >> 5)) * planes + k] >>> (col & 31)) & 1;
			out[at >> 5] |= bit << (at & 31);
			at++;
		}
	}
	return out;
}

/** Puts bits from {@link gatherBits} into their columns, where the plane has zeros. */
export function scatterBits(
	{ rows, words, planes, codes }: InterleavedPlane,
	k: number,
	columns: readonly number[],
	bits: Uint32Array,
): void {
	for (let row = 0, at = 0; row < rows; row++) {
		for (const col of columns) {
			const bit = (bits[at >> 5] >>> (at & 31)) & 1;
			codes[(row * words + (col >> 5)) * planes + k] |= bit << (col & 31);
			at++;
		}
	}
}
