import { putCode } from "../codecs/bit_codes.ts";
import { type EqualSteps, stepGroups } from "../codecs/equal_steps.ts";
import type { Misfit } from "./export.ts";

/**
 * Codes with whole zeros, weight = scale · (code - zero), as integer formats have them. Signs and three levels
 * take codes of 2 bits around the zero 2, so that no zeros have to be stored.
 */
export interface WholeCodes extends EqualSteps {
	/** Whether every zero is 2^(bits - 1). */
	isSymmetric: boolean;
}

/** The whole codes of equal steps, or why there are none. */
export function wholeCodesOf(steps: EqualSteps): WholeCodes | Pick<Misfit, "problem" | "remedy"> {
	const { bits, topCode, zeros, scales } = steps;
	const middle = 2 ** (bits - 1);
	if (topCode < 3 && zeros.every((zero) => zero === topCode / 2)) {
		const gap = topCode === 1 ? 2 : 1;
		return {
			...steps,
			bits: 2,
			topCode: 3,
			scales: scales.map((scale) => scale / gap),
			zeros: zeros.map(() => 2),
			isSymmetric: true,
			readCodes(row, into) {
				steps.readCodes(row, into);
				for (let i = 0; i < into.length; i++) into[i] = gap * into[i] + 1;
			},
		};
	}
	if (!zeros.every((zero) => Number.isInteger(zero) && zero >= 0 && zero < 2 ** bits)) {
		return {
			problem: "its zeros are not whole numbers",
			remedy: "zeros: any, middle or symmetric",
		};
	}
	return { ...steps, isSymmetric: zeros.every((zero) => zero === middle) };
}

/** The u32 words of a row of codes without gaps, the lowest bits first. */
export function rowWords({ cols, bits }: Pick<EqualSteps, "cols" | "bits">): number {
	return Math.ceil(cols * bits / 32);
}

/** The codes of all rows as bit strings, row by row, u32 `[rows, ⌈cols · bits / 32⌉]`. */
export function packRows(steps: EqualSteps): Uint32Array<ArrayBuffer> {
	const { rows, cols, bits } = steps;
	const words = rowWords(steps);
	const packed = new Uint32Array(rows * words);
	const codes = new Uint8Array(cols);
	for (let row = 0; row < rows; row++) {
		steps.readCodes(row, codes);
		for (let col = 0; col < cols; col++) {
			putCode(packed, codes[col], row * words, col * bits, bits);
		}
	}
	return packed;
}

/** The zeros of each group as a bit string along the rows, u32 `[groups, ⌈rows · bits / 32⌉]`. */
export function packZeros(steps: EqualSteps): Uint32Array<ArrayBuffer> {
	const { rows, bits, zeros } = steps;
	const groups = stepGroups(steps);
	const words = Math.ceil(rows * bits / 32);
	const packed = new Uint32Array(groups * words);
	for (let group = 0; group < groups; group++) {
		for (let row = 0; row < rows; row++) {
			putCode(packed, zeros[row * groups + group], group * words, row * bits, bits);
		}
	}
	return packed;
}

/** A matrix with rows and columns exchanged. */
export function transposed<Values extends Uint32Array | Float32Array>(
	values: Values,
	rows: number,
): Values {
	const cols = values.length / rows;
	const out = values.slice() as Values;
	for (let row = 0; row < rows; row++) {
		for (let col = 0; col < cols; col++) out[col * rows + row] = values[row * cols + col];
	}
	return out;
}

/**
 * The rows of several linear layers as one, in order, which checkpoints store as one tensor.
 *
 * @returns Undefined if their bits or scale groups differ.
 */
export function joinedSteps(parts: readonly EqualSteps[]): EqualSteps | undefined {
	const [first] = parts;
	if (parts.length === 1) return first;
	const isAlike = parts.every((part) =>
		part.bits === first.bits && part.topCode === first.topCode &&
		part.groupSize === first.groupSize && !part.groupOf
	);
	if (!isAlike) return undefined;
	const starts: number[] = [];
	let rows = 0;
	for (const part of parts) {
		starts.push(rows);
		rows += part.rows;
	}
	const all = (values: (part: EqualSteps) => Float32Array) =>
		Float32Array.from(parts.flatMap((part) => [...values(part)]));
	return {
		...first,
		rows,
		scales: all(({ scales }) => scales),
		zeros: all(({ zeros }) => zeros),
		readCodes(row, into) {
			const i = starts.findLastIndex((start) => start <= row);
			parts[i].readCodes(row - starts[i], into);
		},
	};
}
