import { bitCount, bitWords } from "../../base/bits.ts";
import { type BillmLayout, scalesPerBlock } from "./quantize_block.ts";

const WORD = 32;

/** Means and scales as 8-bit or 4-bit codes: value = code · factor, in f32. */
export interface BillmCodes {
	/** `[rows, blocks, scalesPerBlock]`. 8 bits: -127 .. 127; 4 bits: means -7 .. 7, scales 0 .. 15. */
	values: Int8Array<ArrayBuffer>;
	/** Bits of a code in the file; 8 if absent. */
	bits?: 4;
	/** The factors of each row's means and scales, exact f16 values, `[rows, 2]`. */
	factors: Float32Array<ArrayBuffer>;
}

/** A BiLLM layer in host memory. */
export interface BillmHost extends BillmLayout {
	/** `[bitPlanes, rows, words]`. */
	bits: Uint32Array<ArrayBuffer>;
	/** `[rows, blocks, scalesPerBlock]`: exact f16 values, or the values of `codes`. */
	scales: Float32Array<ArrayBuffer>;
	/** The scales as 8-bit or 4-bit codes; absent if they are stored in f16. */
	codes?: BillmCodes;
	/** One bit per column, `[words]`. */
	salient: Uint32Array<ArrayBuffer>;
}

/** The indices of the salient columns, ascending. */
export function salientColumns({ cols, planes, salient }: BillmHost): number[] {
	if (planes === 0) return [];
	const all = Array.from({ length: cols }, (_, col) => col);
	return all.filter((col) => (salient[col >> 5] >>> (col & 31)) & 1);
}

/** Bits per weight as the paper counts them: one sign, plus the further signs of salient columns. */
export function paperBits({ cols, planes }: BillmLayout, salient: number): number {
	return 1 + Math.max(0, planes - 1) * salient / cols;
}

/** Fraction of the weights outside the salient columns that are in the high zone. */
export function highFraction(host: BillmHost): number {
	const others = host.rows * (host.cols - salientColumns(host).length);
	return host.zones === 2 && others > 0 ? countFlags(host) / others : 0;
}

/** The number of weights outside the salient columns that are in the high zone. */
function countFlags({ rows, cols, planes, bits, salient }: BillmHost): number {
	const width = bitWords(cols);
	let count = 0;
	for (let i = 0; i < rows * width; i++) {
		let flags = bits[rows * width + i];
		if (planes > 0) flags &= ~salient[i % width];
		count += bitCount(flags);
	}
	return count;
}

/**
 * The dequantized weights of a BiLLM layer, or `rows` rows of them from row `first`, f32 `[rows, cols]`;
 * bit-identical to `dequantize()` on the GPU.
 */
export function dequantizeBillm(
	host: BillmHost,
	first = 0,
	rows = host.rows - first,
): Float32Array<ArrayBuffer> {
	const { cols, blockSize, zones, planes, bits, scales, salient } = host;
	const width = bitWords(cols);
	const blocks = Math.ceil(cols / blockSize);
	const perBlock = scalesPerBlock(host);
	const planeStride = host.rows * width;
	const weight = new Float32Array(rows * cols);
	for (let row = 0; row < rows; row++) {
		for (let word = 0; word < width; word++) {
			const start = word * WORD;
			const at = ((first + row) * blocks + Math.floor(start / blockSize)) * perBlock;
			const index = (first + row) * width + word;
			const signs = bits[index];
			const flags = zones === 2 ? bits[planeStride + index] : 0;
			const marked = planes > 0 ? salient[word] : 0;
			for (let i = 0; i < WORD && start + i < cols; i++) {
				let value: number;
				if ((marked >>> i) & 1) {
					value = scales[at + 2 * zones];
					for (let plane = 0; plane < planes; plane++) {
						const scale = scales[at + 2 * zones + 1 + plane];
						const plus = (bits[plane * planeStride + index] >>> i) & 1;
						value = Math.fround(plus ? value + scale : value - scale);
					}
				} else {
					const zone = at + 2 * ((flags >>> i) & 1);
					const scale = scales[zone + 1];
					value = scales[zone] + ((signs >>> i) & 1 ? scale : -scale);
				}
				weight[row * cols + start + i] = value;
			}
		}
	}
	return weight;
}
