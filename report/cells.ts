import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, relative, sep } from "node:path";
import { UserError } from "../base/errors.ts";
import { CELL_RECORD, type CellRecord, type RunRecord } from "../pipeline/run/record.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { readJson } from "../storage/json.ts";

/** A cell.json file, possibly without times. */
export type FoundCell =
  & Omit<CellRecord, "started" | "finished">
  & Partial<Pick<CellRecord, "started" | "finished">>;

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

/** Whether the run of a failed cell finished later. */
function isDoneSince(folder: string, { finished: failed }: FoundCell): boolean {
  if (failed === undefined || !existsSync(join(folder, "run.json"))) return false;
  const { status, finished = "" } = readRecord(folder);
  return status === "done" && finished > failed;
}

/**
 * The run.json of a folder.
 *
 * @throws {UserError} If it cannot be read or is not a run record.
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
    const total = Math.max(...known.map(({ cells }) => cells));
    return Array.from({ length: total }, (_, i) => i + 1).filter((index) => !there.has(index))
      .map((index) => `${index} of ${total} of ${grid}`);
  });
}

/** The pipeline file of a run; empty if absent. */
export function readPipeline(folder: string): string {
  const path = join(folder, "pipeline.yaml");
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}
