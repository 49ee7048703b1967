import type { z } from "zod";
import type { Draft, LinearFacts, PackedLinear } from "../codecs/codec.ts";
import type { LocalDataset } from "../data/datasets.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Calibration } from "../models/calibration.ts";
import type { ModelFiles } from "../models/model_files.ts";
import type { StageDeclaration } from "./config/config.ts";
import type { Emit, LayerRecord, LinearRecord } from "./run/events.ts";
import type { HubAccess } from "./run/hub_access.ts";
import type { Evaluation, PackedModel } from "./run/record.ts";
import type { RunFolder } from "./run/run_folder.ts";

/**
 * What stages hand to each other. Tensors are on the GPU, `rows` and `cols` those of the block; the
 * runner frees them when the scope ends that made them.
 */
export interface Artifacts {
  /** config.json, tokenizer and weights of the original model. */
  "model-files": ModelFiles;
  /** Token windows, and the activations entering the current decoder layer. */
  "calibration": Calibration;
  /** H = (2 / sequences) Σ x xᵀ over the input of the linear layers, undamped, f32 `[n, n]`. */
  "hessian": Tensor;
  /** Upper Cholesky factor U of the inverse of the damped Hessian, UᵀU = H⁻¹, f32 `[n, n]`. */
  "factor": Tensor;
  /** 1 / U_jj², what a squared error in a column costs, f32 `[n]`. */
  "column-costs": Tensor;
  /** w² / U_jj² of each weight of the block, f32 `[rows, cols]`. */
  "saliency": Tensor;
  /** 1 for a salient column, else 0, u32 `[cols]`. */
  "salient-columns": Tensor;
  /** Mean and scale of each plane of the salient columns, f32 `[rows, 2 * planes]`. */
  "salient-fit": Tensor;
  /** One bit per weight, 1 in the high zone, u32 `[rows, ⌈cols / 32⌉]`. */
  "zones": Tensor;
  /** Mean and scale of each zone, f32 `[rows, 2 * zones]`. */
  "zone-fits": Tensor;
  /**
   * (w - q) / U_jj of the block once it is turned into bits or codes, f32 `[rows, cols]`; undefined
   * content without a factor.
   */
  "block-error": Tensor;
  /** What `pack` wrote. */
  "packed-model": PackedModel;
  /** What `evaluate` measured. */
  "evaluation": Evaluation;
}

export type ArtifactName = keyof Artifacts;

/** What every stage gets. */
export interface ModelContext {
  gpu: Gpu;
  /** The model as the pipeline file names it. */
  model: string;
  seed: number;
  /** Columns that share scales. */
  blockSize: number;
  folder: RunFolder;
  hub: HubAccess;
  /**
   * A data set by its name on the hub or its path, its files on this machine.
   *
   * @throws {UserError} If it cannot be found or fetched.
   */
  dataset(dataset: string, use: "calibration" | "evaluation"): Promise<LocalDataset>;
  /** The sha256 of a file of the model, or of one that a stage's `inputs` has named. */
  sha256(path: string): string;
  /** Records of the decoder layers that are complete. */
  layerRecords: LayerRecord[];
  /** Tells what happens; the tasks turn events into a bar, lines or JSON. */
  emit: Emit;
  /** An earlier name of {@link ModelContext.emit}, which stages of users may call. */
  report: Emit;
  /** Aborted by Ctrl-C; long loops call {@link ModelContext.pause}. */
  signal: AbortSignal;
  /** Lets signals and timers through; throws if the run was interrupted. */
  pause(): Promise<void>;
  /** @throws {Error} If no stage has set the artifact. */
  get<Name extends ArtifactName>(name: Name): Artifacts[Name];
  find<Name extends ArtifactName>(name: Name): Artifacts[Name] | undefined;
  /** The artifact lives as long as the scope that the stage runs in. */
  set<Name extends ArtifactName>(name: Name, value: Artifacts[Name]): void;
}

/** What a stage of scope "group" gets: linear layers that share one input. */
export interface GroupContext extends ModelContext {
  /** Number of the decoder layer, from 0, and how many there are. */
  layer: { index: number; count: number };
  linears: LinearLayer[];
}

/** What a stage of scope "linear" gets: one linear layer with all its columns. */
export interface LinearContext extends GroupContext {
  linear: LinearLayer;
}

/** What a stage of scope "block" gets: some neighbouring columns of one linear layer. */
export interface BlockContext extends LinearContext {
  block: Block;
}

/** A linear layer while it is quantized; its tensors live until the stages have run on its group. */
export interface LinearLayer {
  /** "model.layers.0.self_attn.q_proj" */
  name: string;
  /** "self_attn.q_proj" */
  module: string;
  rows: number;
  cols: number;
  /** As in the model, f32 `[rows, cols]`. */
  original: Tensor;
  /** Compensated so far, f32 `[rows, cols]`. */
  weight: Tensor;
  /** What the bits of the blocks done so far stand for, f32 `[rows, cols]`. */
  quantized: Tensor;
  /** What it becomes, made by the stage that quantizes it. */
  draft?: Draft;
  /** The stage that has quantized it; absent for BiLLM's own method. */
  method?: string;
  /** The draft in host memory, once a stage has downloaded it. */
  packed?: PackedLinear;
  /** What the record says of what is written of it, once the decoder layer is done. */
  stored?: LinearFacts & Pick<LinearRecord, "storedBytes">;
}

export interface Block {
  first: number;
  cols: number;
  /** Columns per block of this run; the last block may have fewer. */
  size: number;
  /** The block's columns of the weight, compensated by the blocks before it, f32 `[rows, cols]`. */
  weight: Tensor;
  /** The block's part of "column-costs"; ones without a Hessian. f32 `[cols]`. */
  costs: Tensor;
}

interface StageBase<Options> extends StageDeclaration {
  /**
   * Files that the options name, on this machine: their content is part of what identifies a run.
   * Called before any other work of the run.
   */
  inputs?(context: ModelContext, options: Options): Promise<string[]>;
  /** Called when the model is known, before any long work: refuses what would fail hours later. */
  check?(context: ModelContext, options: Options): Promise<void>;
}

/** Runs once per model. */
export interface ModelStage<Options = unknown> extends StageBase<Options> {
  scope: "model";
  run(context: ModelContext, options: Options): Promise<void>;
}

/** Runs once per group of linear layers that share an input. */
export interface GroupStage<Options = unknown> extends StageBase<Options> {
  /** "layer" is the word that stages of users had for it before. */
  scope: "group" | "layer";
  /** Called for each calibration batch with the group's input, f32 `[tokens, n]`, before `run`. */
  observe?(context: GroupContext, options: Options, input: Tensor): Promise<void>;
  run(context: GroupContext, options: Options): Promise<void>;
  /** Called when all groups of a decoder layer are done; says what was written. */
  endLayer?(
    context: ModelContext & { layer: GroupContext["layer"] },
    options: Options,
    linears: LinearLayer[],
  ): Promise<Pick<LayerRecord, "file" | "bytes" | "sha256">>;
  /** Called when all decoder layers are done. */
  finish?(context: ModelContext, options: Options): Promise<void>;
}

/** Runs once per linear layer. */
export interface LinearStage<Options = unknown> extends StageBase<Options> {
  scope: "linear";
  run(context: LinearContext, options: Options): Promise<void>;
}

/** Runs once per block of columns of each linear layer. */
export interface BlockStage<Options = unknown> extends StageBase<Options> {
  scope: "block";
  run(context: BlockContext, options: Options): Promise<void>;
}

/**
 * One step of a pipeline: what users write in the file, what it needs and gives, what it may be
 * told, and what it does. {@link defineStage} infers the type of the options.
 */
// deno-lint-ignore no-explicit-any -- a list of stages holds stages of any options
export type Stage<Options = any> =
  | ModelStage<Options>
  | GroupStage<Options>
  | LinearStage<Options>
  | BlockStage<Options>;

/** Gives the functions of a stage the type of the options that its schema describes. */
export function defineStage<Schema extends z.ZodObject>(
  stage: Stage<z.output<Schema>> & { options: Schema },
): Stage<z.output<Schema>> {
  return stage;
}
