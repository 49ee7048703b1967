import type { LevelRange } from "../integer_levels.ts";

/**
 * A block type of ggml for weights that are whole multiples of a unit. A block holds `size` neighbouring
 * weights of a row.
 *
 * @see https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
 */
export interface BlockType {
	readonly name: string;
	/** The number of the type, `ggml_type`, and of a file that mostly has it, `llama_ftype`. */
	readonly id: number;
	readonly fileType: number;
	/** Weights and bytes of a block. */
	readonly size: number;
	readonly bytes: number;
	/** Levels that it holds, in words: "-1, 0, 1 and 2". */
	readonly levels: string;
	/** Whether it holds levels of a range, possibly with the sign of the unit changed. */
	holds(range: LevelRange): boolean;
	/**
	 * Writes a block.
	 *
	 * @param levels The weights of the block as multiples of `unit`, i16 `[size]`.
	 * @param unit An f16 number.
	 * @param range What the levels lie in, one that it holds.
	 * @param to The first byte; the bytes of the block are 0.
	 */
	encode(levels: Int16Array, unit: number, range: LevelRange, out: DataView, to: number): void;
}

/** A block type whose levels are one run of whole numbers. */
function runType(
	type: Omit<BlockType, "holds" | "levels" | "encode"> & { low: number; high: number },
	put: (offset: number[] | Int16Array, unit: number, out: DataView, to: number) => void,
): BlockType {
	const { low, high, ...rest } = type;
	const isWithin = (range: LevelRange) => range.low >= low && range.high <= high;
	const negated = ({ low, high, gap }: LevelRange) => ({ low: -high, high: -low, gap });
	const codes = new Int16Array(type.size);
	return {
		...rest,
		levels: `${low} to ${high}`,
		holds: (range) => isWithin(range) || isWithin(negated(range)),
		encode(levels, unit, range, out, to) {
			const sign = isWithin(range) ? 1 : -1;
			for (let i = 0; i < codes.length; i++) codes[i] = sign * levels[i] - low;
			put(codes, sign * unit, out, to);
		},
	};
}

/** Adds bits to a byte. */
function or(out: DataView, at: number, bits: number): void {
	out.setUint8(at, out.getUint8(at) | bits);
}

/** Signs: f16 unit, then a bit for each weight, 1 for +. */
const Q1_0: BlockType = {
	name: "Q1_0",
	id: 41,
	fileType: 40,
	size: 128,
	bytes: 18,
	levels: "-1 and 1",
	holds: ({ low, high, gap }) => low === -1 && high === 1 && gap === 2,
	encode(levels, unit, _, out, to) {
		out.setFloat16(to, unit, true);
		levels.forEach((level, i) => {
			if (level > 0) or(out, to + 2 + (i >> 3), 1 << (i & 7));
		});
	},
};

/** f16 unit, then four codes of 2 bits in a byte. */
const Q2_0 = runType(
	{ name: "Q2_0", id: 42, fileType: 41, size: 64, bytes: 18, low: -1, high: 2 },
	(codes, unit, out, to) => {
		out.setFloat16(to, unit, true);
		codes.forEach((code, i) => or(out, to + 2 + (i >> 2), code << (2 * (i & 3))));
	},
);

/** Powers of 3 by which the digits of a byte are multiplied. */
const DIGITS = [81, 27, 9, 3, 1];

/** The byte whose digits, read as a fraction of 256, are those of a number below 243. */
function ternaryByte(number: number): number {
	return Math.ceil(number * 256 / 243);
}

/** 32 and 16 bytes of five ternary digits, 4 bytes of four, f16 unit. */
const TQ1_0 = runType(
	{ name: "TQ1_0", id: 34, fileType: 36, size: 256, bytes: 54, low: -1, high: 1 },
	(codes, unit, out, to) => {
		let at = to;
		let first = 0;
		for (
			const { bytes, digits } of [[32, 5], [16, 5], [4, 4]].map(([bytes, digits]) => ({
				bytes,
				digits,
			}))
		) {
			for (let i = 0; i < bytes; i++) {
				let number = 0;
				for (let n = 0; n < digits; n++) number += codes[first + n * bytes + i] * DIGITS[n];
				out.setUint8(at++, ternaryByte(number));
			}
			first += bytes * digits;
		}
		out.setFloat16(at, unit, true);
	},
);

/** Where K and TQ2_0 blocks have the 2-bit code of a weight: in 32 bytes for each 128 weights. */
function placeIn32(i: number): { byte: number; shift: number } {
	return { byte: 32 * (i >> 7) + (i & 31), shift: 2 * (i >> 5 & 3) };
}

/** 64 bytes of 2-bit codes, f16 unit. */
const TQ2_0 = runType(
	{ name: "TQ2_0", id: 35, fileType: 37, size: 256, bytes: 66, low: -1, high: 2 },
	(codes, unit, out, to) => {
		codes.forEach((code, i) => {
			const { byte, shift } = placeIn32(i);
			or(out, to + byte, code << shift);
		});
		out.setFloat16(to + 64, unit, true);
	},
);

/**
 * 16 bytes of factors, 64 bytes of 2-bit codes, two f16 units: weight = unit · factor · code - unit ·
 * minimum, with a factor (low half of a byte) and a minimum (high half) for 16 weights. All are the same
 * here: the factor is the gap of the levels and the minimum the negative of the lowest.
 */
const Q2_K: BlockType = {
	name: "Q2_K",
	id: 10,
	fileType: 10,
	size: 256,
	bytes: 84,
	levels: "four neighbours that begin with -15 to 0, or four odd ones",
	holds: ({ low, high, gap }) => low <= 0 && low >= -15 && high - low <= 3 * gap,
	encode(levels, unit, { low, gap }, out, to) {
		for (let i = 0; i < 16; i++) out.setUint8(to + i, gap | -low << 4);
		levels.forEach((level, i) => {
			const { byte, shift } = placeIn32(i);
			or(out, to + 16 + byte, (level - low) / gap << shift);
		});
		out.setFloat16(to + 80, unit, true);
		out.setFloat16(to + 82, unit, true);
	},
};

/** The bytes of 16 factors of 6 bits that are all 33, for 32 + 1. */
const ONES = [0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0xaa, 0xaa, 0xaa, 0xaa];

/** 32 bytes of upper bits, 64 bytes of lower 2 bits, 12 bytes of factors, f16 unit. */
const Q3_K = runType(
	{ name: "Q3_K", id: 11, fileType: 12, size: 256, bytes: 110, low: -4, high: 3 },
	(codes, unit, out, to) => {
		codes.forEach((code, i) => {
			const { byte, shift } = placeIn32(i);
			or(out, to + (i & 31), code >> 2 << (i >> 5));
			or(out, to + 32 + byte, (code & 3) << shift);
		});
		ONES.forEach((byte, i) => out.setUint8(to + 96 + i, byte));
		out.setFloat16(to + 108, unit, true);
	},
);

/** f16 unit, then bytes with the codes of weights i and i + 16. */
const Q4_0 = runType(
	{ name: "Q4_0", id: 2, fileType: 2, size: 32, bytes: 18, low: -8, high: 7 },
	(codes, unit, out, to) => {
		out.setFloat16(to, unit, true);
		codes.forEach((code, i) => or(out, to + 2 + (i & 15), code << (i >> 4 << 2)));
	},
);

/** As Q4_0, with 4 bytes of upper bits behind the unit. */
const Q5_0 = runType(
	{ name: "Q5_0", id: 6, fileType: 8, size: 32, bytes: 22, low: -16, high: 15 },
	(codes, unit, out, to) => {
		out.setFloat16(to, unit, true);
		codes.forEach((code, i) => {
			or(out, to + 2 + (i >> 3), code >> 4 << (i & 7));
			or(out, to + 6 + (i & 15), (code & 15) << (i >> 4 << 2));
		});
	},
);

/** f16 unit, then a signed byte for each weight. */
const Q8_0 = runType(
	{ name: "Q8_0", id: 8, fileType: 7, size: 32, bytes: 34, low: -128, high: 127 },
	(codes, unit, out, to) => {
		out.setFloat16(to, unit, true);
		codes.forEach((code, i) => out.setInt8(to + 2 + i, code - 128));
	},
);

/** The block types, by rising bits per weight. */
export const BLOCK_TYPES: readonly BlockType[] = [
	Q1_0,
	TQ1_0,
	TQ2_0,
	Q2_0,
	Q2_K,
	Q3_K,
	Q4_0,
	Q5_0,
	Q8_0,
];

/** Types that some of the usual devices cannot multiply with, so that they are written on request only. */
export const ON_REQUEST: ReadonlySet<string> = new Set(["TQ1_0", "TQ2_0"]);

/** The types of plain tensors, by the dtype in safetensors. */
export const FLOAT_TYPES = {
	F32: { name: "F32", id: 0, fileType: 0, bytes: 4 },
	F16: { name: "F16", id: 1, fileType: 1, bytes: 2 },
	BF16: { name: "BF16", id: 30, fileType: 32, bytes: 2 },
} as const;
