import { z } from "zod";
import { gridBytes } from "../codecs/grid/store.ts";
import { GRID_BITS, type GridBits, type GridKind, ZEROS, type Zeros } from "../codecs/grid/grid.ts";

/** Artifacts that stages for grids do not use; producing them would be wasted work. */
export const NOT_FOR_GRIDS = ["salient-columns", "salient-fit", "zones", "block-error"];

/** The option for the number of columns that share a grid. */
export function groupSizeOption(usual: 32 | 64 | 128 | 256 | "row") {
	return z.literal([32, 64, 128, 256, "row"]).default(usual).describe(
		"Columns of a row that share a scale; row: all of them",
	);
}

/** Columns of a block: one scale group; undefined for whole rows. */
export function blockOfGroup(
	{ "group-size": size }: { "group-size": number | "row" },
): number | undefined {
	return size === "row" ? undefined : size;
}

/** The option for the bits of a code. */
export const bitsOption = z.literal(GRID_BITS).default(4).describe("Bits of a weight's code");

/** The options for the levels of a grid. */
export const levelOptions = {
	"grid": z.enum(["search", "range", "mean"]).optional().describe(
		"search: equal steps with the scale and the zero of least error; range: equal steps from the " +
			"smallest to the largest weight, including zero; mean: the mean of the weights plus or minus " +
			"their mean absolute deviation, 1 bit only; default mean for 1 bit, else search",
	),
	"zeros": z.enum(ZEROS).optional().describe(
		"Zeros of a searched grid: any code; one of the two codes in the middle; symmetric: the upper one " +
			"of them; half: between them, no weight is 0; free: any number, with 16 bits; default free",
	),
};

/** What the options of {@link levelOptions} select. */
interface LevelOptions {
	bits: GridBits;
	grid?: "search" | "range" | "mean";
	zeros?: Zeros;
}

/** Which levels a grid has, and how they are found. */
export interface Levels {
	grid: GridKind;
	/** Absent if scale and zero are those of the range, or the mean. */
	zeros?: Zeros;
}

function searchFor({ bits, grid = bits === 1 ? "mean" : "search" }: LevelOptions) {
	return grid;
}

/** The levels that options select. */
export function levelsOf(options: LevelOptions): Levels {
	const grid = searchFor(options);
	return grid === "search" ? { grid: "range", zeros: options.zeros ?? "free" } : { grid };
}

/** Whether bits and kind of grid are compatible. */
export function hasGridFor({ bits, grid }: LevelOptions): boolean {
	return grid !== "mean" || bits === 1;
}

/** The problem if {@link hasGridFor} is false. */
export const NO_GRID = { path: ["grid"], message: "must be search or range with more than 1 bit" };

/** Whether zeros are absent or have a grid to apply to. */
export function hasZerosFor(options: LevelOptions): boolean {
	return options.zeros === undefined || searchFor(options) === "search";
}

/** The problem if {@link hasZerosFor} is false. */
export const NO_ZEROS = { path: ["zeros"], message: "must be absent without grid: search" };

/** What the bytes of a grid depend on. */
interface StoredOptions extends LevelOptions {
	"group-size": number | "row";
	/** The order of columns, which "falling" stores. */
	order?: string;
}

/** The rates of stages for grids: more bits than 1 with the other options as they are. */
export const GRID_RATES = {
	option: "bits",
	values: ({ grid }: StoredOptions) => grid === "mean" ? [1] : [2, 3, 4],
	bytes(options: StoredOptions, { rows, cols }: { rows: number; cols: number }): number {
		const { bits, order, "group-size": size } = options;
		const groupSize = size === "row" ? cols : size;
		const layout = { rows, cols, groupSize, bits, salient: false, ...levelsOf(options) };
		return gridBytes(layout, order === "falling");
	},
};

/** The grid of the released programs, for `mode: reference`. */
export function referenceGrid({ bits }: Readonly<Record<string, unknown>>): { grid?: "range" } {
	return bits === 1 ? {} : { grid: "range" };
}
