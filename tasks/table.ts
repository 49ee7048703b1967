/**
 * A text table with aligned columns.
 *
 * @param rows In a row with fewer cells than columns, the last cell is not padded.
 * @param left Number of left-aligned columns; the others are right-aligned.
 */
export function tableText(
	head: readonly string[],
	rows: readonly (readonly string[])[],
	left: number,
): string {
	const all = [head, ...rows];
	const widths = head.map((_, column) =>
		Math.max(
			...all.filter((row) => row.length === head.length || column < row.length - 1)
				.map((row) => row[column].length),
		)
	);
	const line = (row: readonly string[]) =>
		row.map((cell, column) => {
			if (row.length < head.length && column === row.length - 1) return cell;
			return column < left ? cell.padEnd(widths[column]) : cell.padStart(widths[column]);
		}).join("  ").trimEnd();
	return all.map(line).join("\n");
}
