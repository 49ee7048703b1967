/**
 * Post-training quantization of language models to about one bit per weight with BiLLM, on WebGPU.
 *
 * ```ts
 * import { loadPipeline, RECIPES, runPipeline, STAGES } from "@billm/billm";
 *
 * const known = { stages: STAGES, recipes: RECIPES };
 * const config = await loadPipeline("examples/tiny-llama.yaml", known);
 * const record = await runPipeline(config, { emit: (event) => console.log(event.type) });
 * console.log(record.packed?.storedBits, record.evaluation?.packed?.[0].perplexity);
 * ```
 *
 * Text generation with a packed or plain model:
 *
 * ```ts
 * await using gpu = await Gpu.open();
 * using files = ModelFiles.open("out/tiny-llama/model");
 * using model = await ResidentModel.load(gpu, files);
 * for await (const { text } of generate(model, { prompt: "The city", maxTokens: 50 })) {
 *   await Deno.stdout.write(new TextEncoder().encode(text));
 * }
 * ```
 *
 * Extensions: a custom stage is a module whose default export comes from {@link defineStage}; a
 * pipeline file names it with `use: ./my_stage.ts`. {@link addMetric} adds a {@link Metric},
 * {@link addArchitecture} a model family, {@link addCodec} a packed format of linear layers.
 *
 * @see BiLLM, https://arxiv.org/abs/2402.04291
 * @module
 */

import { z as zod } from "zod";
import type { Output } from "./base/schema.ts";

export { UserError } from "./base/errors.ts";
export { VERSION } from "./base/version.ts";
export type { Checkpoint } from "./storage/checkpoint.ts";
export type { StoredTensor, TensorToWrite } from "./storage/safetensors.ts";
export type { LocalDataset } from "./data/datasets.ts";
export {
	type Question,
	type Questions,
	readQuestions,
	type ZeroShotTask,
	zeroShotTask,
} from "./data/zero_shot_tasks.ts";
export {
	ADAPTER_KINDS,
	type AdapterChoice,
	type Gpu as GpuDevice,
	type GpuOptions,
	type MemoryUse,
	type Precision,
	PRECISIONS,
} from "./gpu/device.ts";
export type { HostMemory } from "./gpu/host.ts";
export { type Dispatch, Kernel, type KernelSource, uniform } from "./gpu/kernel.ts";
export type { CacheDtype } from "./gpu/kernels/attention/attention_decode.ts";
export type { ClampedSwiglu } from "./gpu/kernels/elementwise/clamped_swiglu.ts";
export type { Rotation } from "./gpu/kernels/rotation/rotation.ts";
export { type Dtype, Tensor } from "./gpu/tensor.ts";
export type {
	Addends,
	Codec,
	Draft,
	FactColumn,
	FactMap,
	HostLinear,
	InputTransform,
	LinearFacts,
	PackedLinear,
	PackedShape,
	SearchArguments,
	StackChoice,
	StackedWeights,
	StoreForm,
	VectorOptions,
	VectorSource,
	Weight,
	WeightGroup,
	WeightKind,
} from "./codecs/codec.ts";
export { DenseWeight } from "./codecs/dense/weight.ts";
export type { EqualSteps, NoEqualSteps } from "./codecs/equal_steps.ts";
export { addCodec, CODECS } from "./codecs/mod.ts";
export { PartReader } from "./codecs/part_reader.ts";
export type { Rotary, RotaryScaling } from "./models/rotary.ts";
export type { Architecture, ArchitectureFamily } from "./models/architectures/architecture.ts";
export type { Fields } from "./models/architectures/fields.ts";
export { addArchitecture, ARCHITECTURES } from "./models/architectures/mod.ts";
export type { Calibration } from "./models/calibration.ts";
export type { DecoderOptions } from "./models/decoder.ts";
export {
	type ContinuedToken,
	type ContinueOptions,
	continueTokens,
	generate,
	type GeneratedToken,
	type GenerateOptions,
	type GenerationEnd,
	ResidentModel,
	type ResidentOptions,
} from "./models/generation/generation.ts";
export type { KeyValueCache } from "./models/generation/kv_cache.ts";
export { type HeldCache, PrefixCaches } from "./models/generation/prefix_caches.ts";
export type { SamplingOptions } from "./models/generation/sampling.ts";
export type { Logprob, Logprobs } from "./models/generation/logprobs.ts";
export type { ChosenToken } from "./models/generation/steps.ts";
export type { CachedFigure, Divergence, Perplexity, ZeroShot } from "./models/metrics/figures.ts";
export { perplexity, type PerplexityOptions } from "./models/metrics/perplexity.ts";
export {
	type PreparedTask,
	prepareTask,
	zeroShot,
	type ZeroShotOptions,
} from "./models/metrics/zero_shot.ts";
export type { ModelFiles as ModelFolder } from "./models/model_files.ts";
export type { ActivationOp } from "./models/ops/activation.ts";
export type { AddOp } from "./models/ops/add.ts";
export type { AttentionOp } from "./models/ops/attention.ts";
export type { ClampedSwigluOp } from "./models/ops/clamped_swiglu.ts";
export type { CombineOp } from "./models/ops/combine.ts";
export type { ExpertsOp } from "./models/ops/experts.ts";
export type { ExpertPlace, GroupedLinear, LinearGroup, StackedMatrix } from "./models/ops/op.ts";
export type { LinearOp } from "./models/ops/linear.ts";
export type { Op } from "./models/ops/mod.ts";
export type { NormOp } from "./models/ops/norm.ts";
export type { RopeOp } from "./models/ops/rope.ts";
export type { RouteOp } from "./models/ops/route.ts";
export type { SplitOp } from "./models/ops/split.ts";
export type { ChatMessage } from "./models/tokenizers/chat_template.ts";
export { Gpu, ModelFiles } from "./hosts/deno.ts";
export { type Backend, BACKENDS } from "./hosts/deno_gpu.ts";
export type { Export, Exported, ExportOptions, Misfit } from "./export/export.ts";
export { exportModel, EXPORTS } from "./export/mod.ts";
export type { AbsentPath } from "./pipeline/config/paths.ts";
export {
	type LoadOptions,
	loadPipeline,
	type PipelineConfig,
	pipelineJsonSchema,
	type PlannedStage,
	type Recipe,
	type Scope,
	type StageDeclaration,
} from "./pipeline/config/config.ts";
export { PipelineFileError, type PipelineProblem } from "./pipeline/config/errors.ts";
export type { JsonSchema } from "./pipeline/config/json_schema.ts";
export type { CellResult } from "./pipeline/grid/grid.ts";
export {
	loadGrid,
	type RunCell,
	type RunCell as GridCell,
	type RunGrid,
	type RunGrid as Grid,
} from "./pipeline/grid/load_grid.ts";
export {
	defineQuantizer,
	type LinearRules,
	type Rates,
	type SomeOptions,
} from "./pipeline/quantizer.ts";
export type {
	Emit,
	Emit as Report,
	LayerRecord,
	LinearRecord,
	PlanStep,
	RunEvent,
} from "./pipeline/run/events.ts";
export type {
	CellRecord,
	Evaluation,
	Measured,
	PackedModel,
	RunRecord,
	SampleText,
	WrittenFileRecord,
} from "./pipeline/run/record.ts";
export type { RunOptions } from "./pipeline/run/run.ts";
export {
	type ArtifactName,
	type Artifacts,
	type Block,
	type BlockContext,
	type BlockStage,
	defineStage,
	type GroupContext,
	type GroupContext as LayerContext,
	type GroupStage,
	type GroupStage as LayerStage,
	type LinearContext,
	type LinearLayer,
	type LinearStage,
	type ModelContext,
	type ModelStage,
	type Stage,
	type StageBase,
} from "./pipeline/stage.ts";
export type { FigureKey } from "./stages/figure_cache.ts";
export type {
	Chart,
	Column,
	Figure,
	Metric,
	MetricPart,
	MetricValue,
	Pair,
	Reference,
	Work,
} from "./stages/metrics/metric.ts";
export { addMetric, METRICS } from "./stages/metrics/mod.ts";
export { RECIPES, STAGES } from "./stages/mod.ts";
export { runGrid, runPipeline } from "./report/run_with_report.ts";

/** The library zod, whose schemas describe the options of a stage. */
export const z: typeof zod = zod;
/** Types of zod, such as `z.output<typeof options>`. */
export declare namespace z {
	/** What a schema lets through. */
	type output<Schema> = Output<Schema>;
	/** What a schema lets through. */
	type infer<Schema> = Output<Schema>;
}
