import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { UserError } from "../../base/errors.ts";
import { type DenoGpuOptions, openGpu } from "../../hosts/deno_gpu.ts";
import { SpillingMemory } from "../../hosts/spilling_memory.ts";
import { surroundings } from "../../hosts/surroundings.ts";
import { PipelineFileError } from "../config/errors.ts";
import { sum, sumByKey } from "../../base/figures.ts";
import { bytesOf } from "../../base/units.ts";
import { VERSION } from "../../base/version.ts";
import { type FetchFiles, type LocalDataset, openDataset } from "../../data/datasets.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { ModelFiles } from "../../models/model_files.ts";
import { isFilledFile, sha256OfFile } from "../../storage/files.ts";
import { needsOf, type PipelineConfig, type PlannedStage } from "../config/config.ts";
import type { GroupStage, ModelContext, ModelStage, Stage } from "../stage.ts";
import { access, ArtifactStore } from "./artifacts.ts";
import type { Emit, LayerRecord, PlanStep } from "./events.ts";
import { FolderLock } from "./folder_lock.ts";
import { guardStage } from "./guard_stage.ts";
import { HUB_ID, HubAccess } from "./hub_access.ts";
import { RunInputs } from "./inputs.ts";
import { quantizeLayers } from "./layers.ts";
import type { CellRecord, RunRecord } from "./record.ts";
import { PIPELINE, type PlannedRun, RunFolder, SHARDS, SPILL } from "./run_folder.ts";

/** Options of a run. */
export interface RunOptions {
	/** Receives the events. */
	emit?: Emit;
	/** Deprecated name of {@link RunOptions.emit}. */
	report?: Emit;
	/** Aborting it stops the run at the next pause; complete layers stay. */
	signal?: AbortSignal;
	/** Replaces a different run in the output folder. */
	overwrite?: boolean;
	/** Writes the report of a finished run; without it there is no report. */
	writeReport?: WriteReport;
	/** Whether a finished run has its report; it is written again if not. */
	hasReport?: HasReport;
	/** The record of the grid's cell that the run is, to be written beside that of the finished run. */
	cell?: (run: RunRecord) => CellRecord;
}

/**
 * A function that writes the report of a finished run.
 *
 * @param folder The output folder of the run.
 * @param original The original model, if any.
 * @param pause Called periodically; may throw to abort.
 * @throws {UserError} If a model cannot be read or a file cannot be written.
 * @internal
 */
export type WriteReport = (
	folder: string,
	record: RunRecord,
	original: ModelFiles | undefined,
	pause: () => Promise<void>,
) => Promise<void>;

/**
 * Whether the report of a finished run is there and whole.
 *
 * @param folder The output folder of the run.
 * @throws {UserError} If the record is not one that can be reported on.
 * @internal
 */
export type HasReport = (folder: string, record: RunRecord) => boolean;

/** A planned stage of a known kind. */
export interface Planned<Kind extends Stage> {
	stage: Kind;
	// deno-lint-ignore no-explicit-any -- what `stage.options` parsed
	options: any;
	/** Whether the stage was appended; it is not timed. */
	implied?: boolean;
}

/**
 * A clock that accumulates seconds by stage: GPU time for queued work, wall-clock time for the rest. Host
 * work that overlaps with GPU work counts for both.
 */
export class StageClock {
	readonly #seconds: Record<string, number> = {};
	readonly #bytes: Record<string, number> = {};

	constructor(readonly gpu: Gpu) {}

	/** Times work in isolation: waits for the GPU before and after. */
	async time<Result>(stage: string, work: () => Promise<Result>, stands = 1): Promise<Result> {
		await this.gpu.idle();
		const workToTheEnd = async () => {
			const result = await work();
			await this.gpu.idle();
			return result;
		};
		return await this.host(stage, workToTheEnd, stands);
	}

	/**
	 * Times queued work with GPU timestamps; waits only if the GPU has none.
	 *
	 * @param stands Weight of the time, where one of several equal pieces of work is measured.
	 */
	async queue<Result>(stage: string, work: () => Promise<Result>, stands = 1): Promise<Result> {
		if (!this.gpu.isTimed) return await this.time(stage, work, stands);
		this.#seconds[stage] ??= 0; // stages without GPU work are listed too
		const before = this.gpu.section({ name: stage, stands });
		try {
			return await this.#measured(stage, work);
		} finally {
			this.gpu.section(before);
		}
	}

	/** Times host work. */
	async host<Result>(stage: string, work: () => Promise<Result>, stands = 1): Promise<Result> {
		const start = performance.now();
		const result = await this.#measured(stage, work);
		const seconds = stands * (performance.now() - start) / 1000;
		this.#seconds[stage] = (this.#seconds[stage] ?? 0) + seconds;
		return result;
	}

	/** Records the peak bytes of tensors while the work of a stage is queued. */
	async #measured<Result>(stage: string, work: () => Promise<Result>): Promise<Result> {
		this.gpu.takeHighest();
		const result = await work();
		this.#bytes[stage] = Math.max(this.#bytes[stage] ?? 0, this.gpu.takeHighest());
		return result;
	}

	/** Peak bytes of tensors by stage. */
	get peakBytes(): Record<string, number> {
		return { ...this.#bytes };
	}

	/** Seconds by stage; waits for the GPU. */
	async seconds(): Promise<Record<string, number>> {
		return sumByKey([this.#seconds, await this.gpu.sectionSeconds()]);
	}
}

/** Default columns per block, and the values that a stage may set. */
const BLOCK_SIZE = 128;
const BLOCK_SIZES = [32, 64, 128, 256];

/**
 * Runs a pipeline from the first stage to the last, or resumes an interrupted run of the same pipeline.
 *
 * @returns The record, also written to run.json.
 * @throws {UserError} If an input is invalid or the machine does not suffice.
 * @throws {DOMException} "AbortError" if the run was interrupted by the signal.
 */
export async function runPipeline(
	given: PipelineConfig<Stage>,
	options: RunOptions = {},
): Promise<RunRecord> {
	const {
		emit = options.report ?? (() => {}),
		signal = new AbortController().signal,
		overwrite = false,
		writeReport = async () => {},
		hasReport = () => true,
		cell,
	} = options;
	const started = performance.now();
	const config = { ...given, stages: given.stages.map(guardStage) };
	refuseAbsent(config);
	checkStages(config.stages);
	FolderLock.check(config.output);
	const { "host-memory": hostBytes } = config.gpu;
	const hostMemory = new SpillingMemory(join(config.output, SPILL), {
		bytes: hostBytes ? bytesOf(hostBytes) : undefined,
		onSpill: (text) => emit({ type: "stage", stage: "memory", text }),
	});
	await using gpu = await openGpu({ ...gpuOptions(config), hostMemory });
	const clock = new StageClock(gpu);
	using artifacts = new ArtifactStore();
	const layerRecords: LayerRecord[] = [];
	// Data are fetched before large weights, so that their problems are found first.
	let dataFiles: string[] | undefined;
	const fetchData = async (): Promise<string[]> => {
		if (dataFiles) return dataFiles;
		const files: string[] = [];
		for (const { stage, options } of config.stages) {
			files.push(...await stage.inputs?.(context, options) ?? []);
		}
		return dataFiles = files;
	};
	const inputs = new RunInputs();
	inputs.noteFolder(config.model);
	const absent = config.absent.find(({ name }) => name === "model");
	const hub = new HubAccess(emit, signal, async () => void await fetchData(), {
		folder: join(config.output, SHARDS),
		onArrived: (path) => inputs.note([path]),
		onRemove: (path) => inputs.forget(path),
	}, absent && `${absent.places} (${absent.where})`);
	const datasets = new Map<string, LocalDataset>();
	const needed = neededBy(config.stages);
	const context: ModelContext = {
		gpu,
		hub,
		model: config.model,
		seed: config.seed,
		blockSize: blockSizeOf(config.stages),
		stages: config.stages,
		originalFor: config.stages.find(({ stage }) => stage.original)?.stage.name,
		layerRecords,
		emit,
		report: emit,
		signal,
		get folder() {
			return folder; // there once the model is known
		},
		async dataset(dataset, use) {
			const key = `${use} ${dataset}`;
			const known = datasets.get(key);
			if (known) return known;
			const fetch: FetchFiles = (repository, paths) => hub.dataset(repository, paths);
			const opened = await openDataset(dataset, use, fetch);
			inputs.note(opened.files);
			datasets.set(key, opened);
			return opened;
		},
		sha256: (path) => inputs.sha256(path), // there once the model is known
		checkInputs: () => inputs.check(),
		async pause() {
			await setImmediate();
			signal.throwIfAborted();
		},
		isNeeded: (name) => needed.has(name),
		...access(artifacts),
	};
	const isModelStage = (planned: PlannedStage<Stage>): planned is PlannedStage<ModelStage> =>
		planned.stage.scope === "model";
	const firstInner = config.stages.findIndex((planned) => !isModelStage(planned));
	const innerEnd = config.stages.findLastIndex((planned) => !isModelStage(planned)) + 1;
	const before = firstInner < 0 ? config.stages : config.stages.slice(0, firstInner);
	const inner = config.stages.slice(before.length, innerEnd);
	const after = firstInner < 0 ? [] : config.stages.slice(innerEnd);
	const runModelStages = async (stages: PlannedStage<Stage>[]) => {
		for (const planned of stages.filter(isModelStage)) {
			await context.pause();
			await clock.time(planned.stage.name, () => planned.stage.run(context, planned.options));
		}
	};

	// The identity of a run depends on the model's files.
	const findsModel = before.findIndex(({ stage }) => stage.gives.includes("model-files")) + 1;
	await runModelStages(before.slice(0, findsModel));
	using model = artifacts.find("model-files");
	const files = [...model?.files ?? [], ...await fetchData()];
	await inputs.hash(context, files, (path) => hub.hashOf(path), (path) => hub.shards?.listed(path));
	const named = config.stages.filter(({ implied }) => !implied);
	const planned: PlannedRun = {
		identity: identityOf(config, named, inputs.hashes),
		billm: VERSION,
		mode: config.mode,
		seed: config.seed,
		stages: named.map(({ stage, options }) => ({ name: stage.name, options })),
		inputs: inputs.hashes,
	};
	using folder = RunFolder.open(config.output, planned, overwrite, context.checkInputs);
	using _spilled = hostMemory; // before the folder is given back
	await using _downloads = { [Symbol.asyncDispose]: async () => await hub.shards?.close() };
	// A run is done even if its report cannot be written.
	const reportOn = async (record: RunRecord) => {
		try {
			await writeReport(folder.path, record, model, context.pause);
		} catch (error) {
			if (!(error instanceof UserError)) throw error;
			const message = `The run is done, but its report was not written: ${error.message}`;
			emit({ type: "warning", message });
		}
	};
	if (folder.state === "done") {
		const earlier = folder.earlier!;
		for (const { stage, options } of config.stages) await stage.restore?.(context, options);
		if (!isFilledFile(join(folder.path, PIPELINE))) {
			folder.lock();
			folder.savePipeline(config.text);
		}
		if (!hasReport(folder.path, earlier)) {
			folder.lock();
			await reportOn(earlier);
			await hub.shards?.close();
			folder.removeShards();
		}
		if (cell) folder.saveCell(cell(earlier));
		emit({ type: "already-done", output: config.output });
		return earlier;
	}
	for (const { stage, options } of config.stages) await stage.check?.(context, options);
	folder.begin();
	layerRecords.push(...folder.layers);
	const resumed = [...layerRecords];
	const earlierSeconds = sum(resumed.map(({ seconds }) => seconds));
	const record: RunRecord = {
		status: "running",
		...planned,
		deno: Deno.version.deno,
		...await surroundings(gpu.name),
		adapter: gpu.name,
		backend: gpu.host.name,
		...(config.gpu.precision !== "f32" && { precision: config.gpu.precision }),
		name: config.name,
		model: config.model,
		...(Object.keys(hub.commits).length > 0 && { commits: hub.commits }),
		started: folder.earlier?.started ?? new Date().toISOString(),
	};
	folder.saveRecord(record);
	folder.savePipeline(config.text);
	emit({
		type: "start",
		name: config.name,
		output: config.output,
		adapter: gpu.name,
		software: gpu.software,
		resumedLayers: layerRecords.length,
	});
	if (layerRecords.length > 0 && folder.earlier!.adapter !== gpu.name) {
		emit({
			type: "warning",
			message: `The run began on "${folder.earlier!.adapter}" and resumed on "${gpu.name}"; ` +
				`adapters round differently, so the result may differ in some bits`,
		});
	}
	const steps: PlanStep[] = [];
	for (const { stage, options } of config.stages) {
		steps.push(...await stage.plan?.(context, options) ?? []);
	}
	emit({ type: "plan", steps });

	await runModelStages(before.slice(findsModel));
	let peak = gpu.memory.peak;
	if (inner.length > 0) {
		const calibration = context.find("calibration");
		using _quantized = calibration?.activations;
		using _original = calibration?.original;
		await quantizeLayers(context, artifacts, inner, clock, (bytes) => peak = Math.max(peak, bytes));
		for (const { stage, options } of inner) {
			const { finish } = stage as GroupStage;
			if (finish) await clock.time(stage.name, () => finish(context, options));
		}
	}
	await runModelStages(after);

	const done: RunRecord = {
		...record,
		status: "done",
		finished: new Date().toISOString(),
		seconds: earlierSeconds + (performance.now() - started) / 1000,
		secondsByStage: sumByKey([await clock.seconds(), ...resumed.map((l) => l.secondsByStage)]),
		peakGpuBytes: Math.max(peak, gpu.memory.peak, ...layerRecords.map((l) => l.peakGpuBytes)),
		peakGpuBytesByStage: greatest([clock.peakBytes, ...resumed.map(peakBytesOf)]),
		layers: layerRecords,
		...allocationOf(artifacts),
		packed: artifacts.find("packed-model"),
		evaluation: artifacts.find("evaluation"),
	};
	folder.saveRecord(done);
	await reportOn(done);
	await hub.shards?.close();
	folder.removeShards();
	if (cell) folder.saveCell(cell(done));
	emit({ type: "end", output: config.output, seconds: done.seconds! });
	return done;
}

/** @throws {PipelineFileError} If a path of the file is neither beside it nor in the working directory. */
function refuseAbsent({ absent, model }: PipelineConfig<Stage>): void {
	const problems = absent.filter(({ path, name }) =>
		!existsSync(path) && !(name === "model" && HUB_ID.test(model))
	).map(({ where, name, path, places }) => ({
		where,
		message: `${name}: there is no "${path}": ${places}`,
	}));
	if (problems.length > 0) throw new PipelineFileError(problems);
}

/** The part of the record for the artifact "allocation". */
function allocationOf(artifacts: ArtifactStore): Pick<RunRecord, "allocation"> {
	const allocation = artifacts.find("allocation");
	return allocation ? { allocation: Object.fromEntries(allocation) } : {};
}

function peakBytesOf({ peakGpuBytesByStage = {} }: LayerRecord): Record<string, number> {
	return peakGpuBytesByStage;
}

/** The maximum of each figure. */
function greatest(records: Record<string, number>[]): Record<string, number> {
	const most: Record<string, number> = {};
	for (const [name, value] of records.flatMap((record) => Object.entries(record))) {
		most[name] = Math.max(most[name] ?? 0, value);
	}
	return most;
}

function blockSizeOf(stages: readonly PlannedStage<Stage>[]): number {
	for (const { stage, options, where } of stages) {
		const size = stage.blockSize?.(options);
		if (size === undefined) continue;
		if (BLOCK_SIZES.includes(size)) return size;
		const message = `Stage "${stage.name}" sets blocks of ${size} columns; ` +
			`${BLOCK_SIZES.join(", ")} are possible`;
		throw new PipelineFileError([{ where, message }]);
	}
	return BLOCK_SIZE;
}

/** How a pipeline file wants its device opened. */
export function gpuOptions({ gpu }: PipelineConfig<Stage>): DenoGpuOptions {
	const { adapter, backend, precision, memory } = gpu;
	return {
		adapter,
		backend,
		precision,
		memory: memory ? bytesOf(memory) : undefined,
	};
}

/**
 * Refuses stages that cannot run in their order, before anything of a run is done.
 *
 * @throws {PipelineFileError} With the first problem.
 */
export function checkStages(stages: readonly PlannedStage<Stage>[]): void {
	const given = new Set<string>();
	for (const { stage, where } of stages) {
		const needs = stage.scope === "model" ? [] : [["model-files", "download"]];
		if ("observe" in stage && stage.observe) needs.push(["calibration", "calibrate"]);
		for (const [artifact, giver] of needs) {
			if (given.has(artifact)) continue;
			const message = `Stage "${stage.name}" needs "${artifact}", which stage "${giver}" gives; ` +
				`put ${giver} before it`;
			throw new PipelineFileError([{ where, message }]);
		}
		stage.gives.forEach((artifact) => given.add(artifact));
	}
	blockSizeOf(stages);
}

/** The artifacts that stages need; those of scope "block" get the costs of their columns. */
function neededBy(stages: readonly PlannedStage<Stage>[]): Set<string> {
	return new Set(stages.flatMap(({ stage, options }) => [
		...needsOf(stage, options),
		...(stage.scope === "block" ? ["factor", "column-costs"] : []),
	]));
}

/**
 * The identity of a run: a hash of all that affects the packed bytes and the metrics, which are options,
 * seed, the content of the inputs and of custom stage modules (without their imports), and the program's
 * version, but not the adapter.
 */
function identityOf(
	config: PipelineConfig<Stage>,
	named: readonly PlannedStage<Stage>[],
	inputs: Readonly<Record<string, string>>,
): string {
	// Where an input lies does not matter, only what it is.
	const withoutPlaces = (_: string, value: unknown) => {
		if (typeof value !== "string") return value;
		const within = Object.keys(inputs)
			.filter((path) => path === value || dirname(path) === join(value));
		return within.length > 0 ? within.map((path) => inputs[path] + extname(path)) : value;
	};
	const stages = named.map(({ stage, options, module }) => ({
		name: stage.name,
		options: JSON.stringify(options, withoutPlaces),
		code: module ? sha256OfFile(module) : stage.run.toString(),
	}));
	const { precision } = config.gpu;
	const everything = {
		...{ version: VERSION, seed: config.seed, mode: config.mode, stages },
		inputs: Object.entries(inputs).map(([path, hash]) => [basename(path), hash]),
		...(precision !== "f32" && { precision }),
	};
	return createHash("sha256").update(JSON.stringify(everything)).digest("hex");
}
