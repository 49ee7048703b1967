import { sum } from "../base/figures.ts";
import type { FactColumn, FactMap } from "./codec.ts";

/** The columns of tables for codecs with salient columns and zones. */
export const ZONED_COLUMNS: readonly FactColumn[] = [
	{
		key: "salientColumns",
		heading: "salient",
		value: ({ salientColumns }) => sum(salientColumns),
		text: String,
		together: "sum",
	},
	{
		key: "highFraction",
		heading: "high",
		value: ({ highFraction }) => highFraction,
		text: (fraction) => fraction.toFixed(3),
		together: "mean",
	},
];

/** The heat map of salient columns. */
export const SALIENT_COLUMNS: FactMap = {
	title: "Salient columns",
	about: "The part of a linear layer's columns that is stored in more than one bit",
	value: ({ salientColumns = [], cols }) => sum(salientColumns) / cols,
	columns: ({ salientColumns = [] }) => sum(salientColumns),
};

/** The number of salient columns of each block. */
export function salientPerBlock(
	salient: readonly number[],
	{ cols, blockSize }: { cols: number; blockSize: number },
): number[] {
	const perBlock: number[] = new Array(Math.ceil(cols / blockSize)).fill(0);
	for (const col of salient) perBlock[Math.floor(col / blockSize)]++;
	return perBlock;
}
