import { createHash } from "node:crypto";
import {
	existsSync,
	lstatSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	rmdirSync,
	rmSync,
	statSync,
} from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { EXPORT_FOLDER, EXPORTS, isExportedFile } from "../../export/mod.ts";
import { isShardFile } from "../../hub/shards.ts";
import { SMALL_FILES } from "../../models/model_files.ts";
import {
	nameOfTemporary,
	sha256OfFile,
	writeFileAtomically,
	writeJsonAtomically,
} from "../../storage/files.ts";
import { reasonOf } from "../../storage/folder.ts";
import type { LayerRecord } from "./events.ts";
import { FOLDER_LOCK, FolderInUse, FolderLock } from "./folder_lock.ts";
import { isLayerRecord, readRunRecord } from "./read_record.ts";
import { CELL_RECORD, type CellRecord, type RunRecord } from "./record.ts";

/** The pipeline file as run. */
export const PIPELINE = "pipeline.yaml";

/** What `allocate` has measured, in the folder of a run. */
export const SENSITIVITIES = "sensitivities.json";

/** The folder of shards that are downloaded when they are needed, in the folder of a run. */
export const SHARDS = "shards";

/** The file of activations beside the temporary part of its name, in the folder of a run. */
export const SPILL = "activations";

/** The files of a run beside its subfolders, the record last. */
const RUN_FILES = [
	"histograms.json",
	"report.html",
	PIPELINE,
	"calibration.safetensors",
	SENSITIVITIES,
	"run.json",
];

/** The subfolders of a run, each with what the program names its files. */
const SUBFOLDERS: Record<string, (name: string) => boolean> = {
	layers: (name) => /^\d{5,}\.json$/.test(name),
	model: (name) =>
		SMALL_FILES.includes(name) || name === "model.safetensors.index.json" ||
		/^model-\d{5,}-of-\d{5,}\.safetensors$/.test(name),
	[SHARDS]: isShardFile,
	...Object.fromEntries(
		EXPORTS.filter(({ form }) => form.kind === "folder")
			.map(({ name }) => [join(EXPORT_FOLDER, name), isExportedFile]),
	),
	[EXPORT_FOLDER]: isExportedFile,
};

/**
 * The folder of a run: `pipeline.yaml` and `run.json`, the calibration token ids in
 * `calibration.safetensors`, what `allocate` has measured in `sensitivities.json`, the packed model in
 * `model/`, what `export` has written in `exports/`, after the end `report.html` and `histograms.json`, and during the run `run.lock`, one record
 * per finished decoder layer in `layers/` and, with `download.keep: false`, shards of the original in
 * `shards/`. Activations may be in a temporary file. Every other file is either complete or absent, so a killed run resumes
 * from its last complete layer.
 *
 * Of a folder that is no run of this program nothing is removed, and of one that is, only files that the
 * program has written.
 *
 * @internal
 */
export class RunFolder implements Disposable {
	#lock: FolderLock | undefined;

	private constructor(
		readonly path: string,
		/** State of an earlier run with the same identity. */
		readonly state: "new" | "interrupted" | "done",
		/** Records of the complete layers of an interrupted run, from layer 0 without a gap. */
		readonly layers: LayerRecord[],
		/** run.json of the earlier run. */
		readonly earlier: RunRecord | undefined,
		/** Throws if what the run has read is no longer what it was. */
		readonly checkInputs: () => void,
	) {}

	/**
	 * Examines the folder of a run and takes the right to write to it, until disposal; a folder that holds the
	 * finished run needs none. Removes only temporary files and obsolete layer records.
	 *
	 * @param run The planned run; an earlier run with its identity resumes.
	 * @param overwrite Whether {@link begin} may delete a different run, or this one if it is finished. A
	 *   different run without a complete layer may always be deleted.
	 * @param checkInputs Called before anything of the run is recorded; throws if an input has changed.
	 * @throws {UserError} If the folder contains a different run or other files, or another process writes to
	 *   it.
	 */
	static open(
		path: string,
		run: PlannedRun,
		overwrite: boolean,
		checkInputs: () => void = () => {},
	): RunFolder {
		const first = examine(path, run, overwrite);
		if (first.state === "done" && leftovers(path).length === 0) {
			return new RunFolder(path, "done", [], first.earlier, checkInputs);
		}
		const lock = FolderLock.take(path);
		try {
			const { state, earlier } = examine(path, run, overwrite); // another process may have ended
			// Hashes the layers' files, so only once.
			const layers = state === "interrupted" ? completeLayers(path) : [];
			const folder = new RunFolder(path, state, layers, earlier, checkInputs);
			folder.#lock = lock;
			if (folder.state !== "new") removeTemporaryFiles(path);
			if (folder.state === "done") {
				removeLayerRecords(path);
				folder.removeShards();
			}
			return folder;
		} catch (error) {
			lock[Symbol.dispose]();
			throw error;
		}
	}

	/**
	 * Takes the right to write to the folder, if it is not taken yet.
	 *
	 * @throws {FolderInUse} If another process has it.
	 */
	lock(): void {
		this.#lock ??= FolderLock.take(this.path);
	}

	[Symbol.dispose](): void {
		this.#lock?.[Symbol.dispose]();
	}

	/**
	 * Prepares the folder for the run to begin or resume.
	 *
	 * @throws {UserError} If it cannot be written.
	 */
	begin(): void {
		const { path } = this;
		if (this.state === "new" && existsSync(join(path, "run.json"))) {
			// The record of the earlier run is replaced last, so that a killed deletion is repeated by the same
			// command.
			for (const name of [...RUN_FILES.slice(0, -1), CELL_RECORD]) removeFile(join(path, name));
			for (const [folder, isOurs] of Object.entries(SUBFOLDERS)) {
				removeFiles(join(path, folder), isOurs);
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
		this.checkInputs();
		writeFileAtomically(layerRecordPath(this.path, record.layer), layerRecordText(record));
	}

	/** Writes run.json; the records of single layers are deleted when the run is done. */
	saveRecord(record: RunRecord): void {
		this.checkInputs();
		writeJsonAtomically(join(this.path, "run.json"), record);
		if (record.status === "done") removeLayerRecords(this.path);
	}

	/** Removes what is left of the original's shards. */
	removeShards(): void {
		removeFiles(join(this.path, SHARDS), isShardFile);
	}

	/** Writes cell.json, unless it says the same already. */
	saveCell(record: CellRecord): void {
		const path = join(this.path, CELL_RECORD);
		if (JSON.stringify(readJsonFile(path)) === JSON.stringify(record)) return;
		this.lock();
		writeJsonAtomically(path, record);
	}

	/** Writes the pipeline file as run. */
	savePipeline(text: string): void {
		writeFileAtomically(join(this.path, PIPELINE), text);
	}
}

/**
 * Writes the record of a cell that failed into its folder, unless the folder holds files of others.
 *
 * @throws {UserError} If that is so, it cannot be written, or another process writes to it.
 */
export function saveFailedCell(path: string, record: CellRecord): void {
	if (readRecord(path) === undefined) refuseOthers(path);
	using _ = FolderLock.take(path);
	writeJsonAtomically(join(path, CELL_RECORD), record);
}

/** What tells a run from others. */
export type PlannedRun = Pick<
	RunRecord,
	"identity" | "billm" | "mode" | "seed" | "stages" | "inputs"
>;

/** What a folder holds of a planned run. @throws {UserError} If it holds something else. */
function examine(
	path: string,
	run: PlannedRun,
	overwrite: boolean,
): Pick<RunFolder, "state" | "earlier"> {
	const earlier = readRecord(path);
	if (!earlier) refuseOthers(path);
	refuseLinks(path);
	if (earlier?.identity === run.identity && !(overwrite && earlier.status === "done")) {
		const isDone = earlier.status === "done" && filesAreWhole(path, earlier);
		return { state: isDone ? "done" : "interrupted", earlier };
	}
	const holdsWork = earlier && (earlier.status !== "running" || completeLayers(path).length > 0);
	if (holdsWork && !overwrite) {
		throw new UserError(
			`The output folder "${path}" holds a different run: ${difference(earlier, run)}; ` +
				"choose another output, or give --overwrite to replace it",
		);
	}
	return { state: "new", earlier: undefined };
}

/** The first thing in which an earlier run differs, in words. */
function difference(earlier: PlannedRun, now: PlannedRun): string {
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

/** A layer's record with its hash, so that a damaged one is known. */
function layerRecordText(record: LayerRecord): string {
	return JSON.stringify({ record, sha256: textHash(JSON.stringify(record)) });
}

function textHash(text: string): string {
	return createHash("sha256").update(text).digest("hex");
}

/** run.json, if it is the record of a run of this program, which names no files but its own. */
function readRecord(path: string): RunRecord | undefined {
	try {
		const record = readRunRecord(path);
		const isOurs = record.packed?.files.every(({ name }) => SUBFOLDERS.model(name)) ?? true;
		return isOurs ? record : undefined;
	} catch (error) {
		if (error instanceof UserError) return undefined;
		throw error;
	}
}

/** The content of a JSON file; undefined if it is missing or damaged. */
function readJsonFile(path: string): unknown {
	try {
		return JSON.parse(readFileSync(path, "utf8"));
	} catch {
		return undefined;
	}
}

/** @throws {UserError} If a folder without the record of a run holds more than a run before its record. */
function refuseOthers(path: string): void {
	if (!existsSync(path) || !statSync(path).isDirectory()) return;
	const isEmptyFolder = (name: string) => {
		const inner = join(path, name);
		return lstatSync(inner).isDirectory() && readdirSync(inner).length === 0;
	};
	const isEarly = (name: string) =>
		name in SUBFOLDERS ? isEmptyFolder(name) : name === FOLDER_LOCK || name === CELL_RECORD ||
			["run.json", CELL_RECORD].includes(writtenAs(name) ?? "");
	const names = readdirSync(path);
	if (names.every(isEarly)) return;
	throw new UserError(
		names.includes("run.json")
			? `The output folder "${path}" holds a run.json that is not that of a run of this program, ` +
				`or a damaged one; choose another output, or empty it`
			: `The output folder "${path}" is not empty and holds no run; ` +
				`choose another output, or empty it`,
	);
}

/** @throws {UserError} If a subfolder is a link: what it leads to is not ours. */
function refuseLinks(path: string): void {
	for (const name of Object.keys(SUBFOLDERS)) {
		const inner = join(path, name);
		if (!isLink(inner)) continue;
		throw new UserError(
			`Cannot write to "${inner}": it is a symbolic link; remove it, or choose another output`,
		);
	}
}

function isLink(path: string): boolean {
	try {
		return lstatSync(path).isSymbolicLink();
	} catch {
		return false; // nothing there
	}
}

/** The name that a temporary file of this version or an earlier one was to get. */
function writtenAs(name: string): string | undefined {
	return nameOfTemporary(name) ??
		(name.endsWith(".tmp") ? name.slice(0, -".tmp".length) : undefined);
}

function makeFolders(path: string): void {
	try {
		mkdirSync(join(path, "model"), { recursive: true });
		mkdirSync(join(path, "layers"), { recursive: true });
	} catch (error) {
		throw new UserError(`Cannot make the output folder "${path}": ${reasonOf(error)}`);
	}
}

/** The names of the files in a folder; none if it is none. */
function filesIn(folder: string): string[] {
	try {
		return readdirSync(folder, { withFileTypes: true })
			.filter((entry) => !entry.isDirectory()).map(({ name }) => name);
	} catch (error) {
		if (["ENOENT", "ENOTDIR"].includes((error as { code?: string }).code ?? "")) return [];
		throw new UserError(`Cannot read "${folder}": ${reasonOf(error)}`);
	}
}

function removeFile(path: string): void {
	try {
		if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) rmSync(path, { force: true });
	} catch (error) {
		throw new UserError(`Cannot remove "${path}": ${reasonOf(error)}`);
	}
}

/** Removes some files of a folder, and the folder if nothing is left in it. */
function removeFiles(folder: string, isOurs: (name: string) => boolean): void {
	for (const name of filesIn(folder)) {
		if (isOurs(name) || isOurs(writtenAs(name) ?? "")) removeFile(join(folder, name));
	}
	try {
		rmdirSync(folder);
	} catch {
		return; // files of others are left, or it is no folder
	}
}

/** The temporary files that a killed run has left. */
function temporaryFiles(path: string): string[] {
	const isOurs = (name: string) => [...RUN_FILES, CELL_RECORD, SPILL].includes(name);
	const folders = { "": isOurs, ...SUBFOLDERS };
	return Object.entries(folders).flatMap(([folder, isOurs]) =>
		filesIn(join(path, folder))
			.filter((name) => isOurs(writtenAs(name) ?? ""))
			.map((name) => join(path, folder, name))
	);
}

/** What a finished run has no use for. */
function leftovers(path: string): string[] {
	const folders = ["layers", SHARDS].map((name) => join(path, name));
	return [
		...temporaryFiles(path),
		...folders.filter(existsSync),
		...(isLockLeft(path) ? [join(path, FOLDER_LOCK)] : []),
	];
}

/** Whether a killed process has left its lock. */
function isLockLeft(path: string): boolean {
	if (!existsSync(join(path, FOLDER_LOCK))) return false;
	try {
		FolderLock.check(path);
		return true;
	} catch (error) {
		if (error instanceof FolderInUse) return false;
		throw error;
	}
}

function removeTemporaryFiles(path: string): void {
	temporaryFiles(path).forEach(removeFile);
}

function removeLayerRecords(path: string): void {
	removeFiles(join(path, "layers"), SUBFOLDERS.layers);
}

function filesAreWhole(path: string, { packed }: RunRecord): boolean {
	return (packed?.files ?? []).every(({ name, bytes, sha256 }) => {
		const file = join(path, "model", name);
		return existsSync(file) && statSync(file).size === bytes && sha256OfFile(file) === sha256;
	});
}

function completeLayers(path: string): LayerRecord[] {
	const layers: LayerRecord[] = [];
	for (;;) {
		const record = readLayerRecord(path, layers.length);
		// Where nothing was packed, nothing can be resumed.
		if (record?.layer !== layers.length || !record.file) return layers;
		const file = join(path, "model", record.file);
		if (!existsSync(file) || sha256OfFile(file) !== record.sha256) return layers;
		layers.push(record);
	}
}

/** The record of a layer; undefined if it is missing or damaged. */
function readLayerRecord(path: string, layer: number): LayerRecord | undefined {
	const saved = readJsonFile(layerRecordPath(path, layer)) as
		| { record?: unknown; sha256?: unknown }
		| null
		| undefined;
	const record = saved?.record;
	if (!isLayerRecord(record)) return undefined;
	return saved!.sha256 === textHash(JSON.stringify(record)) ? record : undefined;
}
