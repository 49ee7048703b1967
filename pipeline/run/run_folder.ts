import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { sha256OfFile, writeFileAtomically, writeJsonAtomically } from "../../storage/files.ts";
import { reasonOf } from "../../storage/folder.ts";
import type { LayerRecord } from "./events.ts";
import { CELL_RECORD, type RunRecord } from "./record.ts";

/** What `allocate` has measured, in the folder of a run. */
export const SENSITIVITIES = "sensitivities.json";

/** Files of a report in the folder of a run. */
const REPORT_FILES = ["histograms.json", "report.html"];

/**
 * The folder of a run: `pipeline.yaml` and `run.json`, the calibration token ids in
 * `calibration.safetensors`, what `allocate` has measured in `sensitivities.json`, the packed model in `model/`, after the end `report.html` and
 * `histograms.json`, and during the run one record per finished decoder layer in `layers/`. Every file is
 * either complete or absent, so a killed run resumes from its last complete layer.
 */
export class RunFolder {
  private constructor(
    readonly path: string,
    /** State of an earlier run with the same identity. */
    readonly state: "new" | "interrupted" | "done",
    /** Records of the complete layers of an interrupted run, from layer 0 without a gap. */
    readonly layers: LayerRecord[],
    /** run.json of the earlier run. */
    readonly earlier: RunRecord | undefined,
  ) {}

  /**
   * Examines the folder of a run; removes only temporary files and obsolete layer records.
   *
   * @param run The planned run; an earlier run with its identity resumes.
   * @param overwrite Whether {@link begin} may delete a different run, or this one if it is finished. A
   *   different run without a complete layer may always be deleted.
   * @throws {UserError} If the folder contains a different run or other files.
   */
  static open(path: string, run: PlannedRun, overwrite: boolean): RunFolder {
    const earlier = readRecord(path);
    if (earlier?.identity === run.identity && !(overwrite && earlier.status === "done")) {
      removeTemporaryFiles(path);
      if (earlier.status === "done" && filesAreWhole(path, earlier)) {
        removeLayerRecords(path);
        return new RunFolder(path, "done", [], earlier);
      }
      return new RunFolder(path, "interrupted", completeLayers(path), earlier);
    }
    if (!earlier && holdsSomethingElse(path)) {
      throw new UserError(
        `The output folder "${path}" is not empty and holds no run; ` +
          `choose another output, or empty it`,
      );
    }
    const holdsWork = earlier && (earlier.status !== "running" || completeLayers(path).length > 0);
    if (holdsWork && !overwrite) {
      throw new UserError(
        `The output folder "${path}" holds a different run: ${difference(earlier, run)}; ` +
          `choose another output, or give --overwrite to replace it`,
      );
    }
    return new RunFolder(path, "new", [], undefined);
  }

  /**
   * Prepares the folder for the run to begin or resume.
   *
   * @throws {UserError} If it cannot be written.
   */
  begin(): void {
    const { path } = this;
    if (this.state === "new" && existsSync(join(path, "run.json"))) {
      // The record is deleted last, so that a killed deletion is repeated by the same command.
      const names = ["pipeline.yaml", "calibration.safetensors", SENSITIVITIES, "layers", "model"];
      for (const name of [...REPORT_FILES, ...names, "run.json"]) {
        rmSync(join(path, name), { recursive: true, force: true });
      }
    }
    makeFolders(path);
    removeTemporaryFiles(path);
  }

  /** The folder of the packed model. */
  get model(): string {
    return join(this.path, "model");
  }

  /** Marks a layer as complete; its file must be in place. */
  saveLayer(record: LayerRecord): void {
    writeFileAtomically(layerRecordPath(this.path, record.layer), JSON.stringify(record));
  }

  /** Writes run.json; the records of single layers are deleted when the run is done. */
  saveRecord(record: RunRecord): void {
    writeJsonAtomically(join(this.path, "run.json"), record);
    if (record.status === "done") removeLayerRecords(this.path);
  }

  /** Whether the report of the finished run is there. */
  get hasReport(): boolean {
    return existsSync(join(this.path, "report.html"));
  }

  /** Writes the pipeline file as run. */
  savePipeline(text: string): void {
    writeFileAtomically(join(this.path, "pipeline.yaml"), text);
  }
}

/** What tells a run from others. */
export type PlannedRun = Pick<
  RunRecord,
  "identity" | "billm" | "mode" | "seed" | "stages" | "inputs"
>;

/** The first thing in which an earlier run differs, in words. */
function difference(earlier: PlannedRun, now: PlannedRun): string {
  if (!Array.isArray(earlier.stages)) return "its run.json is not of this program";
  const changed = (what: string, was: unknown, is: unknown): string | undefined => {
    const text = (value: unknown) => value === undefined ? "not given" : JSON.stringify(value);
    return text(was) === text(is) ? undefined : `${what} was ${text(was)} and is ${text(is)} now`;
  };
  const names = ({ stages }: PlannedRun) => stages.map(({ name }) => name);
  const options = () =>
    now.stages.map(({ name, options }, i) => {
      const [was, is] = [earlier.stages[i].options, options] as Record<string, unknown>[];
      return Object.keys({ ...was, ...is })
        .map((key) => changed(`${name}.${key}`, was[key], is[key])).find(Boolean);
    }).find(Boolean);
  const inputs = () => {
    const path = Object.keys({ ...earlier.inputs, ...now.inputs })
      .find((path) => earlier.inputs[path] !== now.inputs[path]);
    if (path === undefined) return undefined;
    if (!(path in earlier.inputs)) return `"${path}" is no input of it`;
    return path in now.inputs ? `"${path}" has changed` : `"${path}" is an input of it`;
  };
  return changed("the version", earlier.billm, now.billm) ??
    changed("mode", earlier.mode, now.mode) ??
    changed("seed", earlier.seed, now.seed) ??
    changed("the list of stages", names(earlier), names(now)) ??
    options() ?? inputs() ?? "the code of a stage has changed";
}

function layerRecordPath(path: string, layer: number): string {
  return join(path, "layers", `${String(layer).padStart(5, "0")}.json`);
}

function readRecord(path: string): RunRecord | undefined {
  try {
    return JSON.parse(readFileSync(join(path, "run.json"), "utf8"));
  } catch {
    return undefined;
  }
}

/** Whether a folder has files other than those of a run before its run.json. */
function holdsSomethingElse(path: string): boolean {
  if (!existsSync(path) || !statSync(path).isDirectory()) return false;
  const isEmptyFolder = (name: string) => {
    const inner = join(path, name);
    return statSync(inner).isDirectory() && readdirSync(inner).length === 0;
  };
  return readdirSync(path).some((name) =>
    name === "model" || name === "layers"
      ? !isEmptyFolder(name)
      : !["run.json.tmp", CELL_RECORD, `${CELL_RECORD}.tmp`].includes(name)
  );
}

function makeFolders(path: string): void {
  try {
    mkdirSync(join(path, "model"), { recursive: true });
    mkdirSync(join(path, "layers"), { recursive: true });
  } catch (error) {
    throw new UserError(`Cannot make the output folder "${path}": ${reasonOf(error)}`);
  }
}

function removeTemporaryFiles(path: string): void {
  for (const folder of [path, join(path, "model"), join(path, "layers")]) {
    if (!existsSync(folder)) continue;
    for (const name of readdirSync(folder)) {
      if (name.endsWith(".tmp")) rmSync(join(folder, name));
    }
  }
}

function removeLayerRecords(path: string): void {
  rmSync(join(path, "layers"), { recursive: true, force: true });
}

function filesAreWhole(path: string, { packed }: RunRecord): boolean {
  return (packed?.files ?? []).every(({ name, bytes, sha256 }) => {
    const file = join(path, "model", name);
    return existsSync(file) && statSync(file).size === bytes && sha256OfFile(file) === sha256;
  });
}

function completeLayers(path: string): LayerRecord[] {
  const layers: LayerRecord[] = [];
  for (;; layers.length) {
    let record: LayerRecord;
    try {
      record = JSON.parse(readFileSync(layerRecordPath(path, layers.length), "utf8"));
    } catch {
      return layers;
    }
    if (!record.file) return layers; // nothing was packed, so nothing can be resumed
    const file = join(path, "model", record.file);
    if (!existsSync(file) || sha256OfFile(file) !== record.sha256) return layers;
    layers.push(record);
  }
}
