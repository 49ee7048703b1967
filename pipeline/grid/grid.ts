import { join } from "node:path";
import { didYouMean } from "../../base/did_you_mean.ts";
import { plural } from "../../base/figures.ts";
import { UserError } from "../../base/errors.ts";
import { reasonOf } from "../../storage/folder.ts";
import { PipelineFileError } from "../config/errors.ts";
import { CELL_RECORD, type CellRecord, type RunRecord } from "../run/record.ts";
import { FolderInUse } from "../run/folder_lock.ts";
import { StageError } from "../run/guard_stage.ts";
import { type RunOptions, runPipeline } from "../run/run.ts";
import { saveFailedCell } from "../run/run_folder.ts";
import type { Stage } from "../stage.ts";
import type { RunCell, RunGrid } from "./load_grid.ts";

/** The result of a cell; `run` is present if it is done. */
export interface CellResult {
	/** cell.json. */
	record: CellRecord;
	/** run.json; absent if the cell failed. */
	run?: RunRecord;
}

/**
 * Runs cells of a grid one after another, each like {@link runPipeline}: finished cells are recognised,
 * interrupted ones resume. A cell that fails does not stop the others.
 *
 * @param cells The cells to run; default all.
 * @returns The result of each cell, also written to its `cell.json`.
 * @throws {DOMException} "AbortError" if the signal interrupted it.
 */
export async function runGrid(
	grid: RunGrid<Stage>,
	options: RunOptions = {},
	cells: readonly RunCell<Stage>[] = grid.cells,
): Promise<CellResult[]> {
	const results: CellResult[] = [];
	for (const cell of cells) results.push(await runCell(grid, cell, options));
	return results;
}

async function runCell(
	grid: RunGrid<Stage>,
	{ name, index, values, config }: RunCell<Stage>,
	options: RunOptions,
): Promise<CellResult> {
	const { emit = options.report ?? (() => {}), signal } = options;
	signal?.throwIfAborted();
	emit({ type: "cell", cell: name, index, cells: grid.cells.length });
	const path = join(config.output, CELL_RECORD);
	const own = { grid: grid.name, cell: name, index, cells: grid.cells.length, values };
	const started = new Date().toISOString();
	try {
		const recordOf = ({ started, finished }: RunRecord): CellRecord => {
			return { ...own, status: "done", started, finished: finished! };
		};
		const run = await runPipeline(config, { ...options, cell: recordOf });
		return { record: recordOf(run), run };
	} catch (failure) {
		signal?.throwIfAborted();
		const message = failure instanceof Error ? failure.message : String(failure);
		// An internal error must not stop the other cells, but it must be visible.
		const fault = failure instanceof StageError ? failure.cause : failure;
		if (!(fault instanceof UserError)) {
			emit({ type: "warning", message: fault instanceof Error ? fault.stack ?? message : message });
		}
		const error = failure instanceof PipelineFileError
			? failure.problems.map(({ message }) => message).join("; ")
			: message;
		const record: CellRecord = {
			...own,
			status: "failed",
			error,
			started,
			finished: new Date().toISOString(),
		};
		emit({ type: "cell-failed", cell: name, error });
		// What another process does with the cell is for that one to say.
		if (failure instanceof FolderInUse) return { record };
		try {
			saveFailedCell(config.output, record);
		} catch (error) { // the other cells may still succeed
			emit({ type: "warning", message: `Cannot write "${path}": ${reasonOf(error)}` });
		}
		return { record };
	}
}

/**
 * The cell that an argument selects: by number and count, such as "3/12", or by name.
 *
 * @throws {PipelineFileError} If there is none.
 */
export function chooseCell<Cell extends { name: string }>(
	cells: readonly Cell[],
	argument: string,
): Cell {
	const fail = (message: string) =>
		new PipelineFileError([{ where: `--cell ${argument}`, message }]);
	const [, index, count] = /^(\d+)\/(\d+)$/.exec(argument) ?? [];
	if (index !== undefined) {
		if (Number(count) !== cells.length) {
			throw fail(
				`The grid has ${cells.length} ${
					plural(cells.length, "cell")
				}, not ${count}; --check prints them`,
			);
		}
		const cell = cells[Number(index) - 1];
		if (!cell) throw fail(`The cells are numbered from 1 to ${cells.length}`);
		return cell;
	}
	const cell = cells.find(({ name }) => name === argument);
	if (cell) return cell;
	const guess = /^\d+$/.test(argument)
		? undefined
		: didYouMean(argument, cells.map(({ name }) => name));
	const rest = guess !== undefined ? `; did you mean "${guess}"?` : "; --check prints them";
	const byNumber = /^\d+$/.test(argument)
		? `; a cell by its number is ${argument}/${cells.length}`
		: "";
	throw fail(`The grid has no cell "${argument}"${rest}${byNumber}`);
}
