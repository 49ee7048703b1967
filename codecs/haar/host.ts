import { bitCount, bitWords } from "../../base/bits.ts";
import { type InterleavedPlane, markedColumns } from "../salient_planes.ts";
import { type HaarLayout, haarPlanes, haarScales } from "./layout.ts";

/** A linear layer of the codec haar in host memory; its arrays match those of `HaarTensors`. */
export interface HaarHost extends HaarLayout {
	/** `[rows, words, planes]`. Bits after the last column are 0. */
	codes: Uint32Array<ArrayBuffer>;
	/** `[rows, blocks, scales]`, exact f16 values. */
	scales: Float32Array<ArrayBuffer>;
	/** A bit per column, `[words]`. */
	mask: Uint32Array<ArrayBuffer>;
}

/** The planes of bits of a linear layer. */
export function planesOf(host: HaarHost): InterleavedPlane {
	return {
		rows: host.rows,
		words: bitWords(host.cols),
		planes: haarPlanes(host),
		codes: host.codes,
	};
}

/** The indices of the salient columns, ascending. */
export function salientOf({ mask, cols }: HaarHost): number[] {
	return markedColumns(mask, cols);
}

/** Fraction of the coefficients that are in the group of large ones; those of salient columns apart. */
export function highFraction(host: HaarHost): number {
	const { words, planes, codes } = planesOf(host);
	const isApart = host.axis === "column"; // by rows, salient columns have further coefficients
	let count = 0;
	for (let i = 0; i < host.rows * words; i++) {
		const others = isApart ? ~host.mask[i % words] : ~0;
		count += bitCount(codes[i * planes + 1] & others);
	}
	const all = host.rows * (host.cols - (isApart ? salientOf(host).length : 0));
	return all > 0 ? count / all : 0;
}

/** 1 / √2 in f32. */
const HALF = Math.fround(Math.SQRT1_2);

/**
 * The dequantized weights of a linear layer, or `rows` rows of them from row `first`, f32 `[rows, cols]`;
 * bit-identical to haar_weights.wgsl.
 */
export function dequantizeHaar(
	host: HaarHost,
	first = 0,
	rows = host.rows - first,
): Float32Array<ArrayBuffer> {
	const { cols, blockSize, axis, scales, mask } = host;
	const { words, planes, codes } = planesOf(host);
	const blocks = Math.ceil(cols / blockSize);
	const perBlock = haarScales(host);
	const { fround } = Math;
	const bit = (row: number, col: number, plane: number) =>
		(codes[(row * words + (col >> 5)) * planes + plane] >>> (col & 31)) & 1;
	const startOf = (row: number, col: number) =>
		(row * blocks + Math.floor(col / blockSize)) * perBlock;
	const signed = (value: number, plus: number) => plus ? value : -value;
	/** A coefficient with a mean for both groups. */
	const shared = (row: number, col: number, band: number) => {
		const at = startOf(row, col) + 3 * band;
		return fround(scales[at] + signed(scales[at + 1 + bit(row, col, 1)], bit(row, col, 0)));
	};
	/** A coefficient of a salient column. */
	const own = (row: number, col: number) => {
		const at = startOf(row, col) + perBlock - 4 + 2 * bit(row, col, planes - 1);
		return fround(scales[at] + signed(scales[at + 1], bit(row, col, planes - 2)));
	};
	const weight = new Float32Array(rows * cols);
	for (let i = 0; i < rows; i++) {
		const row = first + i;
		const even = row - row % 2;
		const ofPair = (low: number, high: number, isOdd: number) =>
			fround(isOdd ? low - high : low + high);
		for (let col = 0; col < cols; col++) {
			const isSalient = (mask[col >> 5] >>> (col & 31)) & 1;
			const salient = () => ofPair(own(even, col), own(even + 1, col), row % 2);
			let value: number;
			if (axis === "row") {
				const pair = col - col % 2;
				value = ofPair(shared(row, pair, 0), shared(row, pair + 1, 1), col % 2);
				if (isSalient) value = fround(value + salient());
			} else if (isSalient) {
				value = salient();
			} else {
				value = ofPair(shared(even, col, 0), shared(even + 1, col, 0), row % 2);
			}
			weight[i * cols + col] = value * HALF;
		}
	}
	return weight;
}
