import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, relative, sep } from "node:path";
import { UserError } from "../base/errors.ts";
import { CELL_RECORD, type CellRecord, type RunRecord } from "../pipeline/run/record.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { readJson } from "../storage/json.ts";

/** A cell.json as it may be found: whoever wrote it may have left the times out. */
export type FoundCell =
  & Omit<CellRecord, "started" | "finished">
  & Partial<Pick<CellRecord, "started" | "finished">>;

/** A folder with a run, finished or not. */
export interface RunInFolder {
  folder: string;
  /** The name of the cell or of the run, unique among those that are compared. */
  name: string;
  /** Absent for a run of its own. */
  cell?: FoundCell;
  /** Absent if the run is not finished. */
  record?: RunRecord;
  /** Why there is no record. */
  problem?: string;
}

/** Runs that are compared, and what lacks. */
export interface Comparison {
  done: (RunInFolder & { record: RunRecord })[];
  failed: (RunInFolder & { problem: string })[];
  /** Cells that no folder holds, as "3 of 12 of grid-name". */
  missing: string[];
}

/** How deep runs are sought below a folder: a grid's cells lie one below it, grids two. */
const DEPTH = 3;

/**
 * The folders that hold runs, at or below some paths; what is no folder is passed over, so that a
 * shell's `out/*` may be given.
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
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      if (entry.isDirectory()) search(join(folder, entry.name), depth + 1);
    }
  };
  for (const path of paths) {
    if (!existsSync(path)) throw new UserError(`There is no folder "${path}"`);
    if (statSync(path).isDirectory()) search(path, 0);
  }
  return [...found.values()];
}

function isRun(folder: string): boolean {
  return existsSync(join(folder, "run.json")) || existsSync(join(folder, CELL_RECORD));
}

/** Reads what folders say of their runs. */
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
    run.cell = readCell(folder);
    if (run.cell) run.name = run.cell.cell;
    if (run.cell?.status === "failed" && !isDoneSince(folder, run.cell)) {
      return { ...run, problem: run.cell.error ?? "it failed; cell.json does not say why" };
    }
    if (!existsSync(join(folder, "run.json"))) {
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

/** Whether the run of a cell that had failed came to its end later. */
function isDoneSince(folder: string, { finished: failed }: FoundCell): boolean {
  if (failed === undefined || !existsSync(join(folder, "run.json"))) return false;
  const { status, finished = "" } = readRecord(folder);
  return status === "done" && finished > failed;
}

/**
 * run.json of a folder.
 *
 * @throws {UserError} If it cannot be read or is not of this program.
 */
export function readRecord(folder: string): RunRecord {
  const path = join(folder, "run.json");
  const record = readJson(denoFile(path)) as Partial<RunRecord>;
  if (!Array.isArray(record.stages) || typeof record.name !== "string") {
    throw new UserError(`"${path}" is not of this program: it has no name or no stages`);
  }
  return record as RunRecord;
}

function readCell(folder: string): FoundCell | undefined {
  const path = join(folder, CELL_RECORD);
  if (!existsSync(path)) return undefined;
  const found = readJson(denoFile(path)) as Partial<FoundCell>;
  const { grid, cell, index, cells, status } = found;
  const isCell = typeof grid === "string" && typeof cell === "string" &&
    Number.isSafeInteger(index) && Number.isSafeInteger(cells) &&
    (status === "done" || status === "failed");
  if (!isCell) throw new UserError(`"${path}" does not say which cell of which grid it is`);
  return { values: {}, ...found } as FoundCell;
}

/** Runs that have the same name get those of their folders. */
function makeNamesUnique(runs: readonly RunInFolder[]): void {
  const byName = Map.groupBy(runs, ({ name }) => name);
  for (const same of byName.values()) {
    if (same.length < 2) continue;
    const common = commonFolder(same.map(({ folder }) => folder));
    for (const run of same) run.name = relative(common, realpathSync(run.folder));
  }
}

/** The innermost folder that holds all of some folders, none of them itself. */
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
    const total = Math.max(...known.map(({ cells }) => cells));
    return Array.from({ length: total }, (_, i) => i + 1).filter((index) => !there.has(index))
      .map((index) => `${index} of ${total} of ${grid}`);
  });
}

/** The pipeline file as it was run, if it is there. */
export function readPipeline(folder: string): string {
  const path = join(folder, "pipeline.yaml");
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}
