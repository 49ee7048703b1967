import { existsSync, readdirSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, relative, sep } from "node:path";
import { UserError } from "../base/errors.ts";
import { type FoundCell, readCellRecord, readRunRecord } from "../pipeline/run/read_record.ts";
import { CELL_RECORD, RUN_RECORD, type RunRecord } from "../pipeline/run/record.ts";
import { checkFigures } from "../stages/metrics/mod.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { readText, reasonOf } from "../storage/folder.ts";

/** A folder with a finished or unfinished run. */
export interface RunInFolder {
	folder: string;
	/** Name of the cell or the run, unique among the compared runs. */
	name: string;
	/** Absent for a run outside a grid. */
	cell?: FoundCell;
	/** Absent if the run is not finished. */
	record?: RunRecord;
	/** Why there is no record. */
	problem?: string;
}

/** Compared runs, and the missing cells. */
export interface Comparison {
	done: (RunInFolder & { record: RunRecord })[];
	failed: (RunInFolder & { problem: string })[];
	/** Cells without a folder, as "3 of 12 of grid-name". */
	missing: string[];
}

/** Depth of the search for runs below a folder: cells are one level below a grid, two below grids. */
const DEPTH = 3;

/**
 * The folders of runs at or below some paths. Files are skipped, so that `out/*` of a shell works.
 *
 * @throws {UserError} If a path does not exist.
 */
export function findRuns(paths: readonly string[]): string[] {
	const found = new Map<string, string>();
	const search = (folder: string, depth: number) => {
		if (isRun(folder)) {
			const real = realpathSync(folder);
			if (!found.has(real)) found.set(real, folder);
			return;
		}
		if (depth === DEPTH) return;
		for (const name of foldersIn(folder)) search(join(folder, name), depth + 1);
	};
	for (const path of paths) {
		if (!existsSync(path)) throw new UserError(`There is no folder "${path}"`);
		if (statSync(path).isDirectory()) search(path, 0);
	}
	return [...found.values()];
}

/** @throws {UserError} If the folder cannot be read. */
function foldersIn(folder: string): string[] {
	try {
		return readdirSync(folder, { withFileTypes: true })
			.filter((entry) => entry.isDirectory()).map(({ name }) => name);
	} catch (error) {
		throw new UserError(`Cannot read the folder "${folder}": ${reasonOf(error)}`);
	}
}

function isRun(folder: string): boolean {
	return existsSync(join(folder, RUN_RECORD)) || existsSync(join(folder, CELL_RECORD));
}

/** The runs of some folders. */
export function readRuns(folders: readonly string[]): Comparison {
	const runs = folders.map(readRun);
	makeNamesUnique(runs);
	// Cells in the order of their grids, the others as they were given.
	const order = new Map(runs.map((run, i) => [run, run.cell?.index ?? i]));
	runs.sort((a, b) =>
		(a.cell?.grid ?? "").localeCompare(b.cell?.grid ?? "") || order.get(a)! - order.get(b)!
	);
	return {
		done: runs.filter((run): run is RunInFolder & { record: RunRecord } =>
			run.record !== undefined
		),
		failed: runs.filter((run): run is RunInFolder & { problem: string } =>
			run.record === undefined
		),
		missing: missingCells(runs),
	};
}

function readRun(folder: string): RunInFolder {
	const run: RunInFolder = { folder, name: basename(realpathSync(folder)) };
	try {
		if (existsSync(join(folder, CELL_RECORD))) run.cell = readCellRecord(folder);
		if (run.cell) run.name = run.cell.cell;
		if (run.cell?.status === "failed" && !isDoneSince(folder, run.cell)) {
			return { ...run, problem: run.cell.error ?? "it failed; cell.json does not say why" };
		}
		if (!existsSync(join(folder, RUN_RECORD))) {
			return { ...run, problem: "cell.json says that it is done, but there is no run.json" };
		}
		const record = readRecord(folder);
		if (!run.cell) run.name = record.name;
		if (record.status === "done") return { ...run, record };
		return { ...run, problem: "the run is not finished; the same command resumes it" };
	} catch (error) {
		if (!(error instanceof UserError)) throw error;
		return { ...run, problem: error.message };
	}
}

/** Whether the run of a failed cell finished later. */
function isDoneSince(folder: string, { finished: failed }: FoundCell): boolean {
	if (failed === undefined || !existsSync(join(folder, RUN_RECORD))) return false;
	const { status, finished = "" } = readRecord(folder);
	return status === "done" && finished > failed;
}

/**
 * The run.json of a folder, with its figures.
 *
 * @throws {UserError} If it cannot be read or is not a run record.
 */
function readRecord(folder: string): RunRecord {
	const record = readRunRecord(folder);
	checkFigures(record, join(folder, RUN_RECORD));
	return record;
}

/** Renames runs with equal names after their folders. */
function makeNamesUnique(runs: readonly RunInFolder[]): void {
	const byName = Map.groupBy(runs, ({ name }) => name);
	for (const same of byName.values()) {
		if (same.length < 2) continue;
		const common = commonFolder(same.map(({ folder }) => folder));
		for (const run of same) run.name = relative(common, realpathSync(run.folder));
	}
}

/** The innermost common parent of some folders. */
export function commonFolder(folders: readonly string[]): string {
	const parts = folders.map((folder) => dirname(realpathSync(folder)).split(sep));
	const [first] = parts;
	let length = 0;
	while (length < first.length && parts.every((part) => part[length] === first[length])) length++;
	return first.slice(0, length).join(sep) || sep;
}

function missingCells(runs: readonly RunInFolder[]): string[] {
	const cells = runs.map(({ cell }) => cell).filter((cell) => cell !== undefined);
	const grids = Map.groupBy(cells, ({ grid }) => grid);
	return [...grids].flatMap(([grid, known]) => {
		const there = new Set(known.map(({ index }) => index));
		const total = known.reduce((most, { cells }) => Math.max(most, cells), 0);
		return Array.from({ length: total }, (_, i) => i + 1).filter((index) => !there.has(index))
			.map((index) => `${index} of ${total} of ${grid}`);
	});
}

/** The pipeline file of a run; empty if absent. @throws {UserError} If it cannot be read. */
export function readPipeline(folder: string): string {
	const path = join(folder, "pipeline.yaml");
	return existsSync(path) ? readText(denoFile(path)) : "";
}
