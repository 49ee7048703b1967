/**
 * Lines of aligned columns.
 *
 * @param rows A row with fewer cells than there are columns lets the last one be as long as it is.
 * @param left So many columns are flush left, the others flush right.
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
