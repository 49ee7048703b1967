import type { z } from "zod";
import type { Gpu } from "../gpu/device.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Calibration } from "../models/calibration.ts";
import type { ModelFiles } from "../models/model_files.ts";
import type { Evaluation, PackedLinear, PackedSummary } from "../models/packed_format.ts";
import type { Report } from "./events.ts";

/**
 * How often the runner calls a stage: once per model; once per group of linear layers that share
 * one input (so one Hessian); or once per block of columns of each linear layer.
 */
export type Scope = "model" | "layer" | "block";

/** What a run may be told to imitate; each stage turns it into defaults of its own options. */
export type Mode = "default" | "reference";

/**
 * What stages hand to each other. Tensors are on the GPU; `rows` and `cols` are those of the block.
 * The runner frees them when the scope that made them ends.
 */
export interface Artifacts {
  /** config.json, tokenizer and weights of the original model. */
  "model-files": ModelFiles;
  /** Token windows, and the activations entering the current decoder layer. */
  "calibration": Calibration;
  /** H = (2 / sequences) Σ x xᵀ of the group's input, before damping, `[cols, cols]` of the layer, f32. */
  "hessian": Tensor;
  /** Upper Cholesky factor U of the inverse of the damped Hessian, UᵀU = H⁻¹, `[cols, cols]`, f32. */
  "factor": Tensor;
  /** The block's columns of the weight, compensated by the blocks before it, `[rows, cols]`, f32. */
  "weight": Tensor;
  /** What the masks are searched on: the saliency or the weight itself, `[rows, cols]`, f32. */
  "search-values": Tensor;
  /** What one squared error in a column costs in the searches, `[cols]`, f32. */
  "column-costs": Tensor;
  /** 1 for a salient column, else 0, `[cols]`, u32. */
  "salient-columns": Tensor;
  /** Mean and scales of the salient columns, `[rows, 1 + planes]`, f32 with the precision of f16. */
  "salient-fit": Tensor;
  /** One bit per weight, 1 in the high zone, `[rows, ⌈cols / 32⌉]`, u32. */
  "zones": Tensor;
  /** Means and scales of the zones, `[rows, 2 · zones]`, f32 with the precision of f16. */
  "zone-fits": Tensor;
  /** What the block is stored as, `[rows, cols]`, f32, and its bits. */
  "quantized": Tensor;
  /** The bits of a finished linear layer. */
  "packed-linear": PackedLinear;
  /** What `pack` wrote. */
  "packed-model": PackedSummary;
  /** What `evaluate` measured. */
  "evaluation": Evaluation;
}

export type ArtifactName = keyof Artifacts;

/** What `run` of a stage gets. `get` throws if the artifact is missing; `find` gives undefined. */
export interface StageContext {
  gpu: Gpu;
  mode: Mode;
  seed: number;
  /** Aborted by Ctrl-C; long loops call `signal.throwIfAborted()`. */
  signal: AbortSignal;
  report: Report;
  get<Name extends ArtifactName>(name: Name): Artifacts[Name];
  find<Name extends ArtifactName>(name: Name): Artifacts[Name] | undefined;
  set<Name extends ArtifactName>(name: Name, value: Artifacts[Name]): void;
}
