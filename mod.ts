/**
 * Post-training quantization of language models to about one bit per weight with BiLLM, on WebGPU.
 *
 * ```ts
 * import { loadPipeline, RECIPES, runPipeline, STAGES } from "./mod.ts";
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

export { Gpu, ModelFiles } from "./hosts/deno.ts";
export type { GpuOptions, MemoryUse } from "./gpu/device.ts";
export { Kernel, type KernelSource, uniform } from "./gpu/kernel.ts";
export { type Dtype, Tensor } from "./gpu/tensor.ts";
export type { CacheDtype } from "./gpu/kernels/attention/attention_decode.ts";
export type { ChatMessage } from "./models/tokenizers/chat_template.ts";
export type { Architecture, ArchitectureFamily } from "./models/architectures/architecture.ts";
export type { Fields } from "./models/architectures/fields.ts";
export type {
  Addends,
  Codec,
  Draft,
  FactColumn,
  FactMap,
  HostLinear,
  LinearFacts,
  PackedShape,
  StoreForm,
  Weight,
  WeightGroup,
} from "./codecs/codec.ts";
export { DenseWeight } from "./codecs/dense/weight.ts";
export { addCodec, CODECS } from "./codecs/mod.ts";
export { PartReader } from "./codecs/part_reader.ts";
export { addArchitecture, ARCHITECTURES } from "./models/architectures/mod.ts";
export type { Op } from "./models/ops/mod.ts";
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
export { type HeldCache, PrefixCaches } from "./models/generation/prefix_caches.ts";
export { type Questions, readQuestions, zeroShotTask } from "./data/zero_shot_tasks.ts";
export { perplexity, type PerplexityOptions } from "./models/metrics/perplexity.ts";
export type { SamplingOptions } from "./models/generation/sampling.ts";
export {
  type PreparedTask,
  prepareTask,
  zeroShot,
  type ZeroShotOptions,
} from "./models/metrics/zero_shot.ts";
export {
  type LoadOptions,
  loadPipeline,
  type PipelineConfig,
  pipelineJsonSchema,
  type PlannedStage,
  type Recipe,
} from "./pipeline/config/config.ts";
export type { CellResult } from "./pipeline/grid/grid.ts";
export {
  loadGrid,
  type RunCell,
  type RunCell as GridCell,
  type RunGrid,
  type RunGrid as Grid,
} from "./pipeline/grid/load_grid.ts";
export { UserError } from "./base/errors.ts";
export { PipelineFileError, type PipelineProblem } from "./pipeline/config/errors.ts";
export type {
  Emit,
  Emit as Report,
  LayerRecord,
  LinearRecord,
  RunEvent,
} from "./pipeline/run/events.ts";
export type {
  CellRecord,
  Evaluation,
  Measured,
  PackedModel,
  RunRecord,
} from "./pipeline/run/record.ts";
export type { CachedFigure, Divergence, Perplexity, ZeroShot } from "./models/metrics/figures.ts";
export type { RunOptions } from "./pipeline/run/run.ts";
export { runGrid, runPipeline } from "./report/run_with_report.ts";
export type { Export, Exported, ExportOptions, Misfit } from "./export/export.ts";
export { exportModel, EXPORTS } from "./export/mod.ts";
export {
  defineQuantizer,
  type LinearRules,
  type Rates,
  type SomeOptions,
} from "./pipeline/quantizer.ts";
export {
  type Artifacts,
  type BlockContext,
  type BlockStage,
  defineStage,
  type GroupContext,
  type GroupContext as LayerContext,
  type GroupStage,
  type GroupStage as LayerStage,
  type LinearContext,
  type LinearStage,
  type ModelContext,
  type ModelStage,
  type Stage,
} from "./pipeline/stage.ts";
export type {
  Chart,
  Column,
  Figure,
  Metric,
  MetricValue,
  Pair,
  Reference,
  Work,
} from "./stages/metrics/metric.ts";
export { addMetric, METRICS } from "./stages/metrics/mod.ts";
export { RECIPES, STAGES } from "./stages/mod.ts";
export { VERSION } from "./base/version.ts";
export { z } from "zod";
