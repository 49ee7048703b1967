import { plural } from "../base/figures.ts";
import { bytesText, timeText } from "../base/units.ts";
import type { CellResult } from "../pipeline/grid/grid.ts";
import type { RunGrid } from "../pipeline/grid/load_grid.ts";
import type { Stage } from "../pipeline/stage.ts";
import { pairsIn } from "../stages/metrics/metric.ts";
import { METRICS } from "../stages/metrics/mod.ts";
import { tableText } from "./table.ts";

/** The cells of a grid with their values. */
export function cellsText({ file, name, output, cells }: RunGrid<Stage>): string {
	const count = `${cells.length} ${plural(cells.length, "cell")}`;
	const rows = cells.map(({ name, index, values }) => [
		`  ${index}/${cells.length}`,
		name,
		Object.entries(values)
			.map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
			.join(", "),
	]);
	return `${file} is valid (models and data not checked).\n` +
		`name ${name}, ${count}, each into its folder in ${output}\n` +
		tableText(["  cell", "name", "values"], rows, 3);
}

/** The results of cells: figures of finished ones, reasons of failures. */
export function resultsText(results: readonly CellResult[]): string {
	const columns = METRICS.flatMap((metric) =>
		(metric.terminal.columns ?? []).map((column) => ({ ...column, metric }))
	);
	const head = ["Cell", "state", "time", "size", "bits", ...columns.map(({ head }) => head)];
	const rows = results.map(({ record, run }) => {
		// The last cell of a short row is not padded.
		if (!run) return [record.cell, "failed", record.error!.replaceAll("\n", " ")];
		const { packed, evaluation } = run;
		return [
			record.cell,
			"done",
			timeText(run.seconds ?? 0),
			packed ? bytesText(packed.bytes) : "",
			packed ? packed.storedBits.toFixed(2) : "",
			...columns.map(({ metric, text }) => text(pairsIn(metric, evaluation))),
		];
	});
	return tableText(head, rows, 2);
}
