import type { Perplexity, ZeroShot } from "../../models/metrics/figures.ts";
import type { LayerRecord } from "./events.ts";

/** The figures of a metric, in the order of the pipeline file. */
export interface Measured<Figure> {
  original: Figure[];
  /** Of the packed model as it lies on disk; absent if the pipeline packs nothing. */
  packed?: Figure[];
}

/** What `evaluate` measured: perplexities, and below their keys the figures of other metrics. */
export interface Evaluation extends Measured<Perplexity> {
  /** Absent if the pipeline asks for no task. */
  zeroShot?: Measured<ZeroShot>;
  [metric: string]: Measured<unknown> | unknown[] | undefined;
}

export interface WrittenFileRecord {
  name: string;
  bytes: number;
  sha256: string;
}

/** What `pack` wrote, counted from the bytes of the files. */
export interface PackedModel {
  folder: string;
  files: WrittenFileRecord[];
  /** Bytes of the weight files, packed and in the original model. */
  bytes: number;
  originalBytes: number;
  /** Weights in the packed linear layers. */
  weights: number;
  /** Bits per weight of the linear layers as the paper counts: signs only. */
  paperBits: number;
  /** Bits per weight of the linear layers in the files, with the files' headers. */
  storedBits: number;
  /** The same by part. */
  storedBitsByPart: Record<string, number>;
}

/** run.json: what ran, on what, and what came out. */
export interface RunRecord {
  status: "running" | "done";
  /** Hash of everything that the result depends on. */
  identity: string;
  billm: string;
  deno: string;
  adapter: string;
  name: string;
  model: string;
  mode: string;
  seed: number;
  /** Stages with all their options. */
  stages: { name: string; options: unknown }[];
  /** sha256 of the model's files and of the data sets, by path or by name on the hub. */
  inputs: Record<string, string>;
  /** The hub's commits that they are of, by "id@revision". */
  commits?: Record<string, string>;
  started: string;
  finished?: string;
  /** Of the session that finished the run, and of the layers that earlier ones completed. */
  seconds?: number;
  /** Likewise. */
  secondsByStage?: Record<string, number>;
  peakGpuBytes?: number;
  /** What tensors took at most while a stage ran, without memory that is kept for reuse. */
  peakGpuBytesByStage?: Record<string, number>;
  layers?: LayerRecord[];
  packed?: PackedModel;
  evaluation?: Evaluation;
}

/** The file of a {@link CellRecord}; it may be there before the run. */
export const CELL_RECORD = "cell.json";

/** cell.json: which cell of a grid the run in the same folder is, and whether it came to its end. */
export interface CellRecord {
  grid: string;
  cell: string;
  /** From 1. */
  index: number;
  /** Of the whole grid. */
  cells: number;
  /** What tells the cell from the others, by key of the matrix; of a variant its name. */
  values: Record<string, unknown>;
  status: "done" | "failed";
  /** Why it failed. */
  error?: string;
  started: string;
  finished: string;
}
