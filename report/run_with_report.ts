import type { PipelineConfig } from "../pipeline/config/config.ts";
import { type CellResult, runGrid as runCells } from "../pipeline/grid/grid.ts";
import type { RunCell, RunGrid } from "../pipeline/grid/load_grid.ts";
import type { RunRecord } from "../pipeline/run/record.ts";
import { type RunOptions, runPipeline as run } from "../pipeline/run/run.ts";
import type { Stage } from "../pipeline/stage.ts";
import { writeRunReport } from "./run_files.ts";

/**
 * Runs a pipeline from the first stage to the last, or goes on where an earlier run of the same
 * pipeline was interrupted, and writes its report.
 *
 * @returns The record that is also in run.json.
 * @throws {UserError} If the input or the machine does not allow it.
 * @throws {DOMException} "AbortError" if the run was interrupted by the signal.
 */
export function runPipeline(
  config: PipelineConfig<Stage>,
  options: RunOptions = {},
): Promise<RunRecord> {
  return run(config, { writeReport: writeRunReport, ...options });
}

/**
 * Runs cells of a grid one after the other, each as {@link runPipeline} does: finished ones are
 * recognized, an interrupted one goes on. One that fails does not stop the others.
 *
 * @param cells Those to run; all of them if absent.
 * @returns What became of each, which is also in its `cell.json`.
 * @throws {DOMException} "AbortError" if the signal interrupted it.
 */
export function runGrid(
  grid: RunGrid<Stage>,
  options: RunOptions = {},
  cells?: readonly RunCell<Stage>[],
): Promise<CellResult[]> {
  return runCells(grid, { writeReport: writeRunReport, ...options }, cells);
}
