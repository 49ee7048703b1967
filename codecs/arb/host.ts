import { bitCount, bitWords } from "../../base/bits.ts";
import type { WeightKind } from "../codec.ts";
import { type InterleavedPlane, markedColumns } from "../salient_planes.ts";
import { type ArbLayout, arbPlanes, arbScales } from "./layout.ts";

/** A linear layer of the codec arb in host memory; its arrays match those of `ArbTensors`. */
export interface ArbHost extends ArbLayout {
	/** `[rows, words, planes]`. Bits after the last column, and second signs elsewhere, are 0. */
	codes: Uint32Array<ArrayBuffer>;
	/** `[rows, blocks, scales]`, exact f16 values. */
	scales: Float32Array<ArrayBuffer>;
	/** `[cols, 4]`, exact f16 values, 0 where a column has fewer; empty without column scales. */
	columns: Float32Array<ArrayBuffer>;
	/** A bit per column, `[words]`. */
	mask: Uint32Array<ArrayBuffer>;
}

/** The planes of bits of a linear layer. */
export function planesOf(host: ArbHost): InterleavedPlane {
	return {
		rows: host.rows,
		words: bitWords(host.cols),
		planes: arbPlanes(host),
		codes: host.codes,
	};
}

/** The indices of the salient columns, ascending. */
export function salientOf({ mask, cols }: ArbHost): number[] {
	return markedColumns(mask, cols);
}

/** Fraction of the weights outside the salient columns that are in the high zone. */
export function highFraction(host: ArbHost): number {
	const { words, planes, codes } = planesOf(host);
	let count = 0;
	for (let i = 0; i < host.rows * words; i++) {
		count += bitCount(codes[i * planes + 1] & ~host.mask[i % words]);
	}
	const others = host.rows * (host.cols - salientOf(host).length);
	return others > 0 ? count / others : 0;
}

/** The classes of the weights of a row. */
export function arbKinds(host: ArbHost, row: number): WeightKind[] {
	const { words, planes, codes } = planesOf(host);
	return Array.from({ length: host.cols }, (_, col): WeightKind => {
		const word = col >> 5;
		if ((host.mask[word] >>> (col & 31)) & 1) return "salient";
		return (codes[(row * words + word) * planes + 1] >>> (col & 31)) & 1 ? "high" : "low";
	});
}

/**
 * The dequantized weights of a linear layer, or `rows` rows of them from row `first`, f32 `[rows, cols]`;
 * bit-identical to arb_weights.wgsl.
 */
export function dequantizeArb(
	host: ArbHost,
	first = 0,
	rows = host.rows - first,
): Float32Array<ArrayBuffer> {
	const { cols, blockSize, columnScales, bitmap, scales, columns, mask } = host;
	const { words, planes, codes } = planesOf(host);
	const blocks = Math.ceil(cols / blockSize);
	const perBlock = arbScales(host);
	const { fround } = Math;
	const weight = new Float32Array(rows * cols);
	for (let i = 0; i < rows; i++) {
		for (let col = 0; col < cols; col++) {
			const at = ((first + i) * words + (col >> 5)) * planes;
			const bit = (plane: number) => (codes[at + plane] >>> (col & 31)) & 1;
			const signed = (value: number, plane: number) => bit(plane) ? value : -value;
			const isSalient = (mask[col >> 5] >>> (col & 31)) & 1;
			const own = ((first + i) * blocks + Math.floor(col / blockSize)) * perBlock;
			const zone = isSalient && !bitmap ? 0 : bit(1);
			const second = bitmap ? 2 : 1;
			let value: number;
			if (columnScales) {
				const product = (row: number, column: number) =>
					fround(scales[own + row] * columns[4 * col + column]);
				value = isSalient
					? fround(
						signed(product(2 + 2 * zone, 2 * zone), 0) +
							signed(product(3 + 2 * zone, 2 * zone + 1), second),
					)
					: signed(product(zone, zone), 0);
			} else if (isSalient) {
				const fit = own + 4 + 3 * zone;
				const once = fround(scales[fit] + signed(scales[fit + 1], 0));
				value = once + signed(scales[fit + 2], second);
			} else {
				value = scales[own + 2 * zone] + signed(scales[own + 2 * zone + 1], 0);
			}
			weight[i * cols + col] = value;
		}
	}
	return weight;
}
