import type { PipelineConfig } from "../pipeline/config/config.ts";
import { type CellResult, runGrid as runCells } from "../pipeline/grid/grid.ts";
import type { RunCell, RunGrid } from "../pipeline/grid/load_grid.ts";
import type { RunRecord } from "../pipeline/run/record.ts";
import { type RunOptions, runPipeline as run } from "../pipeline/run/run.ts";
import type { Stage } from "../pipeline/stage.ts";
import { hasRunReport, writeRunReport } from "./run_files.ts";

const REPORT = { hasReport: hasRunReport, writeReport: writeRunReport };

/**
 * Runs a pipeline from the first stage to the last, or resumes an interrupted run of the same pipeline, and
 * writes its report.
 *
 * @returns The record, also written to run.json.
 * @throws {UserError} If an input is invalid or the machine does not suffice.
 * @throws {DOMException} "AbortError" if the run was interrupted by the signal.
 */
export function runPipeline(
	config: PipelineConfig<Stage>,
	options: RunOptions = {},
): Promise<RunRecord> {
	return run(config, { ...REPORT, ...options });
}

/**
 * Runs cells of a grid one after another, each like {@link runPipeline}: finished cells are recognised,
 * interrupted ones resume. A cell that fails does not stop the others.
 *
 * @param cells The cells to run; default all.
 * @returns The result of each cell, also written to its `cell.json`.
 * @throws {DOMException} "AbortError" if the signal interrupted it.
 */
export function runGrid(
	grid: RunGrid<Stage>,
	options: RunOptions = {},
	cells?: readonly RunCell<Stage>[],
): Promise<CellResult[]> {
	return runCells(grid, { ...REPORT, ...options }, cells);
}
