import type { Perplexity, ZeroShot } from "../../models/metrics/figures.ts";
import type { SomeOptions } from "../quantizer.ts";
import type { LayerRecord } from "./events.ts";

/** The figures of a metric, in the order of the pipeline file. */
export interface Measured<Figure> {
	/** Figures of the original model; empty if it was not measured. */
	original: Figure[];
	/** Figures of the packed model on disk; absent if the pipeline packs nothing. */
	packed?: Figure[];
}

/** How models continue the beginning of an evaluation text. */
export interface SampleText {
	/** The beginning. */
	prompt: string;
	/** What the original adds; absent if it was not, or cannot be, asked. */
	original?: string;
	/** What the packed model adds; absent if it cannot be asked. */
	packed?: string;
}

/** The result of `evaluate`: perplexities, and other metrics under their keys. */
export interface Evaluation extends Measured<Perplexity> {
	/** Absent without zero-shot tasks. */
	zeroShot?: Measured<ZeroShot>;
	/** Absent with `sample: false`, and where the models cannot generate or are too large. */
	sample?: SampleText;
	/** Figures of further metrics. */
	[metric: string]: Measured<unknown> | unknown[] | SampleText | undefined;
}

/** A file of the packed model. */
export interface WrittenFileRecord {
	/** Name in the folder. */
	name: string;
	/** Its size. */
	bytes: number;
	/** Its hash. */
	sha256: string;
}

/** The result of `pack`, counted from the bytes of the files. */
export interface PackedModel {
	/** Folder of the packed model, from that of the run. */
	folder: string;
	/** The written files. */
	files: WrittenFileRecord[];
	/** Bytes of the weight files, packed and in the original model. */
	bytes: number;
	/** Bytes of the original's weight files. */
	originalBytes: number;
	/** Weights in the packed linear layers. */
	weights: number;
	/** Bits per weight of the linear layers as counted in the paper: signs only. */
	paperBits: number;
	/** Stored bits per weight of the linear layers, including file headers. */
	storedBits: number;
	/** Stored bits by part. */
	storedBitsByPart: Record<string, number>;
}

/** The file of a {@link RunRecord}. */
export const RUN_RECORD = "run.json";

/** run.json: the configuration, the environment and the results of a run. */
export interface RunRecord {
	/** Whether the run is finished. */
	status: "running" | "done";
	/** Hash of everything that affects the result. */
	identity: string;
	/** Version of this program. */
	billm: string;
	/** Version of Deno. */
	deno: string;
	/** Commit of its checkout, with "-dirty" if files differ; absent outside of one. */
	commit?: string;
	/** Operating system, architecture and cores: "linux x86_64, 16 cores". */
	system?: string;
	/** Version of the GPU's driver, where the system tells it. */
	driver?: string;
	/** Adapter and driver. */
	adapter: string;
	/** Whose WebGPU, with its version; absent in records of earlier versions. */
	backend?: string;
	/** Of large products; f32 if absent. */
	precision?: string;
	/** Name of the run. */
	name: string;
	/** The original model, as the pipeline file names it. */
	model: string;
	/** Whose defaults the stages had. */
	mode: string;
	/** Seed of every random choice. */
	seed: number;
	/** Stages with all their options. */
	stages: { name: string; options: unknown }[];
	/** SHA-256 of the model's files and of the data sets, by path or by name on the hub. */
	inputs: Record<string, string>;
	/** Commits of inputs from the hub, by "id@revision". */
	commits?: Record<string, string>;
	/** When the run began, in ISO 8601. */
	started: string;
	/** When it ended. */
	finished?: string;
	/** Seconds of the process that finished the run, plus those of layers from interrupted ones. */
	seconds?: number;
	/** Seconds by stage, counted like `seconds`. */
	secondsByStage?: Record<string, number>;
	/** Peak GPU memory. */
	peakGpuBytes?: number;
	/** Peak bytes of tensors while a stage ran, without buffers kept for reuse. */
	peakGpuBytesByStage?: Record<string, number>;
	/** The decoder layers. */
	layers?: LayerRecord[];
	/** The options that `allocate` has chosen, by linear layer; absent without it. */
	allocation?: Record<string, SomeOptions>;
	/** The packed model; absent without `pack`. */
	packed?: PackedModel;
	/** The measurements; absent without `evaluate`. */
	evaluation?: Evaluation;
}

/** The name of a linear layer within a decoder layer: "self_attn.q_proj". */
export function moduleOf(name: string): string {
	return name.replace(/^.*?\.\d+\./, "");
}

/** The file of a {@link CellRecord}; it may exist before the run. */
export const CELL_RECORD = "cell.json";

/** cell.json: the grid cell of the run in the same folder, and its status. */
export interface CellRecord {
	/** Name of the grid. */
	grid: string;
	/** Name of the cell. */
	cell: string;
	/** From 1. */
	index: number;
	/** Number of cells of the grid. */
	cells: number;
	/** Values of the cell by key of the matrix; for a variant its name. */
	values: Record<string, unknown>;
	/** How it ended. */
	status: "done" | "failed";
	/** Reason of the failure. */
	error?: string;
	/** When it began, in ISO 8601. */
	started: string;
	/** When it ended. */
	finished: string;
}
