import type { Perplexity, ZeroShot } from "../../models/metrics/figures.ts";
import type { SomeOptions } from "../quantizer.ts";
import type { LayerRecord } from "./events.ts";

/** The figures of a metric, in the order of the pipeline file. */
export interface Measured<Figure> {
  original: Figure[];
  /** Figures of the packed model on disk; absent if the pipeline packs nothing. */
  packed?: Figure[];
}

/** The result of `evaluate`: perplexities, and other metrics under their keys. */
export interface Evaluation extends Measured<Perplexity> {
  /** Absent without zero-shot tasks. */
  zeroShot?: Measured<ZeroShot>;
  [metric: string]: Measured<unknown> | unknown[] | undefined;
}

export interface WrittenFileRecord {
  name: string;
  bytes: number;
  sha256: string;
}

/** The result of `pack`, counted from the bytes of the files. */
export interface PackedModel {
  folder: string;
  files: WrittenFileRecord[];
  /** Bytes of the weight files, packed and in the original model. */
  bytes: number;
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
  status: "running" | "done";
  /** Hash of everything that affects the result. */
  identity: string;
  billm: string;
  deno: string;
  adapter: string;
  /** Whose WebGPU, with its version; absent in records of earlier versions. */
  backend?: string;
  /** Of large products; f32 if absent. */
  precision?: string;
  name: string;
  model: string;
  mode: string;
  seed: number;
  /** Stages with all their options. */
  stages: { name: string; options: unknown }[];
  /** SHA-256 of the model's files and of the data sets, by path or by name on the hub. */
  inputs: Record<string, string>;
  /** Commits of inputs from the hub, by "id@revision". */
  commits?: Record<string, string>;
  started: string;
  finished?: string;
  /** Seconds of the process that finished the run, plus those of layers from interrupted ones. */
  seconds?: number;
  /** Seconds by stage, counted like `seconds`. */
  secondsByStage?: Record<string, number>;
  peakGpuBytes?: number;
  /** Peak bytes of tensors while a stage ran, without buffers kept for reuse. */
  peakGpuBytesByStage?: Record<string, number>;
  layers?: LayerRecord[];
  /** The options that `allocate` has chosen, by linear layer; absent without it. */
  allocation?: Record<string, SomeOptions>;
  packed?: PackedModel;
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
  grid: string;
  cell: string;
  /** From 1. */
  index: number;
  /** Number of cells of the grid. */
  cells: number;
  /** Values of the cell by key of the matrix; for a variant its name. */
  values: Record<string, unknown>;
  status: "done" | "failed";
  /** Reason of the failure. */
  error?: string;
  started: string;
  finished: string;
}
