import type { Output, ZodObject } from "../base/schema.ts";
import type { Draft, LinearFacts, PackedLinear } from "../codecs/codec.ts";
import type { LocalDataset } from "../data/datasets.ts";
import type { Gpu } from "../gpu/device.ts";
import type { InputTransform } from "../gpu/kernels/rotation/rotation.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Calibration } from "../models/calibration.ts";
import type { ModelFiles } from "../models/model_files.ts";
import type { PlannedStage, StageDeclaration } from "./config/config.ts";
import type { Rates, SomeOptions } from "./quantizer.ts";
import type { Emit, LayerRecord, LinearRecord, PlanStep } from "./run/events.ts";
import type { HubAccess } from "./run/hub_access.ts";
import type { Evaluation, PackedModel } from "./run/record.ts";
import type { RunFolder } from "./run/run_folder.ts";

/**
 * The artifacts that stages exchange. Tensors are on the GPU; `rows` and `cols` are those of the block.
 * The runner frees them at the end of the scope that set them.
 */
export interface Artifacts {
	/** config.json, tokenizer and weights of the original model. */
	"model-files": ModelFiles;
	/** Token windows, and the activations entering the current decoder layer. */
	"calibration": Calibration;
	/** 1 for columns of the group's input that are not always zero, before its rotation, u32 `[n]`. */
	"live-columns": Tensor;
	/** H = (2 / sequences) Σ x xᵀ over the input of the linear layers, undamped, f32 `[n, n]`. */
	"hessian": Tensor;
	/**
	 * C = (2 / sequences) Σ (x - xq) xqᵀ over some batches, with x the input of the linear layers in the
	 * original model and xq that behind the quantized ones, f32 `[n, n]`; absent where nothing is quantized
	 * yet.
	 */
	"cross-term": Tensor;
	/** The part of "hessian" over the batches of "cross-term"; absent if these are all. */
	"cross-hessian": Tensor;
	/** Upper Cholesky factor U of the inverse of the damped Hessian, UᵀU = H⁻¹, f32 `[n, n]`. */
	"factor": Tensor;
	/** 1 / U_jj², the cost of a squared error in each column, f32 `[n]`. */
	"column-costs": Tensor;
	/** The columns by falling diagonal of the damped Hessian, u32 `[n]`. */
	"column-order": Tensor;
	/** The place of each column in "column-order", u32 `[n]`. */
	"column-places": Tensor;
	/** "factor" of the Hessian whose rows and columns are in "column-order", f32 `[n, n]`. */
	"ordered-factor": Tensor;
	/** 1 / U_jj² of "ordered-factor", in its order, f32 `[n]`. */
	"ordered-costs": Tensor;
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
	 * (w - q) / U_jj of the quantized block, f32 `[rows, cols]`; the content is undefined without a
	 * factor. Stages of scope "linear" that give it quantize all columns and set no tensor.
	 */
	"block-error": Tensor;
	/** Values of tensors outside the decoder layers that replace those of the model, by name. */
	"outside-tensors": Map<string, Float32Array>;
	/**
	 * Options of the stage that quantizes, by the name of a linear layer, in place of its own; its
	 * `overrides` count more.
	 */
	"allocation": ReadonlyMap<string, SomeOptions>;
	/** The result of `pack`. */
	"packed-model": PackedModel;
	/** The result of `evaluate`. */
	"evaluation": Evaluation;
}

/** The name of an artifact. */
export type ArtifactName = keyof Artifacts;

/** Context of every stage. */
export interface ModelContext {
	/** The device. */
	gpu: Gpu;
	/** The model as the pipeline file names it. */
	model: string;
	/** The seed of the run. */
	seed: number;
	/** Columns that share scales. */
	blockSize: number;
	/** All stages of the run with their options. */
	stages: readonly PlannedStage<Stage>[];
	/**
	 * The first stage that declares {@link StageBase.original}: for it the calibration data also pass
	 * through the original model. Absent if there is none.
	 */
	originalFor?: string;
	/** The folder of the run. */
	folder: RunFolder;
	/** Access to the hub. */
	hub: HubAccess;
	/**
	 * A data set by its name on the hub or its path, with local files.
	 *
	 * @throws {UserError} If it cannot be found or downloaded.
	 */
	dataset(dataset: string, use: "calibration" | "evaluation"): Promise<LocalDataset>;
	/** The SHA-256 of a model file or of a file listed by a stage's `inputs`. */
	sha256(path: string): string;
	/**
	 * To be called before anything is written or kept that a later run takes for a result of the inputs.
	 *
	 * @throws {UserError} If an input has changed since the run began.
	 */
	checkInputs(): void;
	/** Records of the complete decoder layers. */
	layerRecords: LayerRecord[];
	/** Emits an event; the tasks render events as a progress bar, lines or JSON. */
	emit: Emit;
	/** Deprecated name of {@link ModelContext.emit}, for custom stages. */
	report: Emit;
	/** Aborted by Ctrl-C; long loops call {@link ModelContext.pause}. */
	signal: AbortSignal;
	/** Yields to signals and timers; throws if the run was interrupted. */
	pause(): Promise<void>;
	/**
	 * An artifact.
	 *
	 * @throws {Error} If no stage has set it.
	 */
	get<Name extends ArtifactName>(name: Name): Artifacts[Name];
	/** The artifact, if a stage has set it. */
	find<Name extends ArtifactName>(name: Name): Artifacts[Name] | undefined;
	/**
	 * Whether a stage of the pipeline needs the artifact. Stages of scope "block" need "factor" and
	 * "column-costs" if there are any.
	 */
	isNeeded(name: ArtifactName): boolean;
	/** Sets an artifact; it lives as long as the scope of the stage. */
	set<Name extends ArtifactName>(name: Name, value: Artifacts[Name]): void;
}

/** Context of a stage of scope "group": linear layers that share one input. */
export interface GroupContext extends ModelContext {
	/** Index of the decoder layer, from 0, and the number of layers. */
	layer: { index: number; count: number };
	/** The linear layers of the group. */
	linears: LinearLayer[];
}

/** Context of a stage of scope "linear": one linear layer with all its columns. */
export interface LinearContext extends GroupContext {
	/** The linear layer. */
	linear: LinearLayer;
}

/** Context of a stage of scope "block": a block of adjacent columns of one linear layer. */
export interface BlockContext extends LinearContext {
	/** The block. */
	block: Block;
}

/** A linear layer while it is quantized; its tensors live until the stages have run on its group. */
export interface LinearLayer {
	/** "model.layers.0.self_attn.q_proj" */
	name: string;
	/** "self_attn.q_proj" */
	module: string;
	/** Outputs. */
	rows: number;
	/** Inputs. */
	cols: number;
	/**
	 * The weights that the quantized ones approximate: those of the model, or what a stage such as
	 * propagate-error has made of them in place. f32 `[rows, cols]`.
	 */
	original: Tensor;
	/** The weights as compensated so far, f32 `[rows, cols]`. */
	weight: Tensor;
	/** The dequantized values of the blocks done so far, f32 `[rows, cols]`. */
	quantized: Tensor;
	/**
	 * The transform of the layer's input: the weights above are those that multiply the transformed input.
	 * Absent if there is none.
	 */
	transform?: InputTransform;
	/** The quantized layer, created by the stage that quantizes. */
	draft?: Draft;
	/** The stage that quantized it; absent for BiLLM's own method. */
	method?: string;
	/** Whether it stays as it is, by the option `skip` of the stage that quantizes. */
	isSkipped?: boolean;
	/** See {@link LinearRecord.correction}. */
	correction?: number;
	/** The draft in host memory, after its download. */
	packed?: PackedLinear;
	/** Facts for the record, after the decoder layer is written. */
	stored?: LinearFacts & Pick<LinearRecord, "storedBytes">;
}

/** A block of adjacent columns of a linear layer. */
export interface Block {
	/** Index of its first column. */
	first: number;
	/** Its columns. */
	cols: number;
	/** Columns per block of this run; the last block may have fewer. */
	size: number;
	/** The block's columns of the weight, compensated by the blocks before it, f32 `[rows, cols]`. */
	weight: Tensor;
	/** The block's part of "column-costs"; ones without a Hessian. f32 `[cols]`. */
	costs: Tensor;
}

/** What stages of all scopes have. */
export interface StageBase<Options> extends StageDeclaration {
	/**
	 * Whether the stage needs a second stream of calibration data, through the original model; see
	 * {@link GroupStage.observe} and {@link Calibration.original}.
	 */
	original?: boolean;
	/**
	 * The local input files named by the options. Their content is part of the identity of a run. Called
	 * before any other work of the run.
	 */
	inputs?(context: ModelContext, options: Options): Promise<string[]>;
	/** Writes again what the stage had written into the folder of a finished run and is gone or damaged, or says so. */
	restore?(context: ModelContext, options: Options): Promise<void>;
	/** What takes long in it, in its order; called when the run begins, after the checks. */
	plan?(context: ModelContext, options: Options): Promise<PlanStep[]>;
	/** Early check, called when the model is known: throws before any long work on what would fail later. */
	check?(context: ModelContext, options: Options): Promise<void>;
}

/** A stage that runs once per model. */
export interface ModelStage<Options = unknown> extends StageBase<Options> {
	/** Once per model. */
	scope: "model";
	/** Its work. */
	run(context: ModelContext, options: Options): Promise<void>;
}

/** A stage that runs once per group of linear layers that share an input. */
export interface GroupStage<Options = unknown> extends StageBase<Options> {
	/** "layer" is the deprecated name, for custom stages. */
	scope: "group" | "layer";
	/**
	 * Called for each calibration batch with the group's input, f32 `[tokens, n]`, before later stages
	 * observe it, and with the same input in the original model. Returns what they observe instead, owned
	 * by the caller; undefined for the input itself. Its `run` transforms the weights to match and sets
	 * `transform` of the linear layers.
	 */
	transform?(context: GroupContext, options: Options, input: Tensor): Promise<Tensor | undefined>;
	/**
	 * Called for each calibration batch with the group's input, f32 `[tokens, n]`, before `run`.
	 *
	 * For an expert, these are the tokens that it gets; batches without any are left out. If it gets too few
	 * in all, stages observe the inputs of all experts of the decoder layer in a context of their own instead,
	 * whose artifacts `run` finds in the expert's.
	 *
	 * @param original The same input in the original model; `input` itself where nothing is quantized yet.
	 *   Absent if no stage of the pipeline declares `original`.
	 */
	observe?(
		context: GroupContext,
		options: Options,
		input: Tensor,
		original?: Tensor,
	): Promise<void>;
	/** Its work on a group. */
	run(context: GroupContext, options: Options): Promise<void>;
	/** Called when all groups of a decoder layer are done; returns the written file. */
	endLayer?(
		context: ModelContext & { layer: GroupContext["layer"] },
		options: Options,
		linears: LinearLayer[],
	): Promise<Pick<LayerRecord, "file" | "bytes" | "sha256">>;
	/** Called when all decoder layers are done. */
	finish?(context: ModelContext, options: Options): Promise<void>;
}

/** A stage that runs once per linear layer. */
export interface LinearStage<Options = unknown> extends StageBase<Options> {
	/** Once per linear layer. */
	scope: "linear";
	/** Its rates, for a stage that chooses the bits of each linear layer. */
	rates?: Rates<Options>;
	/**
	 * The options for a linear layer, undefined if it stays as it is; the same for all if absent.
	 *
	 * @param allocated Values from the artifact "allocation".
	 */
	optionsOf?(options: Options, name: string, allocated?: SomeOptions): Options | undefined;
	/**
	 * Roughly the floating-point operations of a matrix product that would take as long as the stage for a
	 * linear layer; for the time that is expected before a run. Absent if that is hardly any.
	 */
	work?(options: Options, shape: { rows: number; cols: number }): number;
	/** Its work on a linear layer. */
	run(context: LinearContext, options: Options): Promise<void>;
}

/** A stage that runs once per block of columns of each linear layer. */
export interface BlockStage<Options = unknown> extends StageBase<Options> {
	/** Once per block. */
	scope: "block";
	/** Its work on a block. */
	run(context: BlockContext, options: Options): Promise<void>;
}

/**
 * A step of a pipeline: its name, options, needed and given artifacts, and its work.
 * {@link defineStage} infers the type of the options.
 */
// deno-lint-ignore no-explicit-any -- a list of stages holds stages of any options
export type Stage<Options = any> =
	| ModelStage<Options>
	| GroupStage<Options>
	| LinearStage<Options>
	| BlockStage<Options>;

/** A typed stage: infers the option type of its functions from its schema. */
export function defineStage<Schema extends ZodObject>(
	stage: Stage<Output<Schema>> & { options: Schema },
): Stage<Output<Schema>> {
	return stage;
}
