import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/** The supported numbers of levels of a row. */
export const LEVEL_COUNTS = [2, 3, 4, 5, 8] as const;
export type LevelCount = typeof LEVEL_COUNTS[number];

/**
 * How the levels of a row depend on its parameters. "free": ±a, or ±a and ±b, and 0 if their number is
 * odd. "gaussian": a times the levels of least squared error for a normal distribution.
 */
export type LevelPattern = typeof LEVEL_PATTERNS[number];
export const LEVEL_PATTERNS = ["free", "gaussian"] as const;

/** The counts that each pattern is for. With one level of a kind, both patterns have the same levels. */
export const COUNTS_OF_PATTERN: Record<LevelPattern, readonly LevelCount[]> = {
	free: [2, 3, 4, 5],
	gaussian: [4, 5, 8],
};

/** The kind of the levels of a linear layer. */
export interface LevelKind {
	count: LevelCount;
	/** One that is for the count; see {@link COUNTS_OF_PATTERN}. */
	pattern: LevelPattern;
}

/** All kinds of levels. */
export const LEVEL_KINDS: readonly LevelKind[] = LEVEL_PATTERNS.flatMap((pattern) =>
	COUNTS_OF_PATTERN[pattern].map((count): LevelKind => ({ count, pattern }))
);

/**
 * The positive levels of least squared error for unit normal numbers, ascending (Lloyd 1982, Max 1960).
 */
const GAUSSIAN: Record<LevelCount, readonly number[]> = {
	2: [0.7979],
	3: [1.224],
	4: [0.4528, 1.51],
	5: [0.7646, 1.724],
	8: [0.2451, 0.756, 1.344, 2.152],
};

/** The levels of least squared error for unit normal numbers, ascending. */
export function gaussianLevels(count: LevelCount): number[] {
	const positive = GAUSSIAN[count];
	return [...positive.map((level) => -level).reverse(), ...(count % 2 ? [0] : []), ...positive];
}

/** A level as a multiple of a parameter of its row; the factor of level 0 is 0. */
export interface LevelPart {
	/** The index of the parameter. */
	parameter: number;
	/** An f32 number. */
	factor: number;
}

/** The level of each code, ascending where 0 < a < b. */
export function levelParts({ count, pattern }: LevelKind): LevelPart[] {
	return gaussianLevels(count).map((level, code) => {
		if (pattern === "gaussian") return { parameter: 0, factor: Math.fround(level) };
		const distance = Math.abs(code - (count - 1) / 2); // from the middle: a is the inner one
		return { parameter: Math.max(0, Math.ceil(distance) - 1), factor: Math.sign(level) };
	});
}

/** The number of parameters of a row: a, or a and b. */
export function parametersOf({ count, pattern }: LevelKind): number {
	return pattern === "gaussian" ? 1 : count >> 1;
}

/** How codes are packed: the codes of `columns` columns are the digits of one number of `bits` bits. */
export interface LevelField {
	columns: number;
	bits: number;
}

/** The fields of each count; the digit of the first column is the lowest one. */
export const LEVEL_FIELDS: Record<LevelCount, LevelField> = {
	2: { columns: 1, bits: 1 },
	3: { columns: 5, bits: 8 }, // 243 of 256
	4: { columns: 1, bits: 2 },
	5: { columns: 3, bits: 7 }, // 125 of 128
	8: { columns: 1, bits: 3 },
};

/** The layout of a linear layer of levels. */
export interface LevelsLayout extends LevelKind {
	rows: number;
	cols: number;
}

/** The fields of a row. */
export function fieldsOf({ count, cols }: Pick<LevelsLayout, "count" | "cols">): number {
	return Math.ceil(cols / LEVEL_FIELDS[count].columns);
}

/** The u32 words of a row's codes. */
export function levelWords(layout: Pick<LevelsLayout, "count" | "cols">): number {
	return bitWords(fieldsOf(layout) * LEVEL_FIELDS[layout.count].bits);
}

/** A linear layer of levels in GPU memory. */
export interface LinearLevels extends LevelsLayout {
	/**
	 * u32 `[rows, levelWords]`: field f of a row begins at bit `f · bits` of its words, counted from the
	 * least significant bit of the first; bits after the last field are 0.
	 */
	codes: Tensor;
	/** The parameters of each row, f32 `[rows, parameters]`, exact f16 values. */
	theta: Tensor;
}

/** Allocates a linear layer of levels. */
export function emptyLevels(gpu: Gpu, layout: LevelsLayout): LinearLevels {
	const { rows } = layout;
	return {
		...layout,
		codes: gpu.empty([rows, levelWords(layout)], "u32"),
		theta: gpu.empty([rows, parametersOf(layout)]),
	};
}

/** Frees a linear layer of levels. */
export function freeLevels(gpu: Gpu, { codes, theta }: LinearLevels): void {
	gpu.free(codes, theta);
}
