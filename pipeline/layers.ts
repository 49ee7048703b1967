import { basename, join } from "node:path";
import type { Gpu } from "../gpu/device.ts";
import { relativeOutputError } from "../gpu/output_error.ts";
import { MAX_BLOCK } from "../gpu/search.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { copyRegion } from "../gpu/transpose.ts";
import { linearGroups } from "../models/architecture.ts";
import type { Calibration } from "../models/calibration.ts";
import { Checkpoint } from "../models/checkpoint.ts";
import { Decoder, type LayerWeights, type Registers } from "../models/decoder.ts";
import { paperBits } from "../models/packed_format.ts";
import { ArtifactStore } from "./artifacts.ts";
import { blockBits } from "./block_bits.ts";
import type { PlannedStage } from "./config.ts";
import type { LayerRecord, LinearRecord } from "./events.ts";
import type { Planned, StageClock } from "./run.ts";
import type {
  BlockContext,
  BlockStage,
  LayerContext,
  LayerStage,
  LinearLayer,
  ModelContext,
  Stage,
} from "./stage.ts";

/** A group of linear layers that share an input. */
interface Group {
  /** The operation of the decoder layer that runs them. */
  step: number;
  /** The register that is their input. */
  from: string;
  context: LayerContext;
  store: ArtifactStore;
}

/**
 * Takes the calibration data through the decoder layers and runs the stages of scope layer and block
 * on each group of linear layers.
 *
 * @param onPeak Told the peak of GPU memory of each layer, in bytes.
 */
export async function quantizeLayers(
  context: ModelContext,
  artifacts: ArtifactStore,
  stages: readonly PlannedStage<Stage>[],
  clock: StageClock,
  onPeak: (bytes: number) => void,
): Promise<void> {
  const model = context.get("model-files");
  const calibration = context.get("calibration");
  using decoder = new Decoder(context.gpu, model);
  const run = new LayerRun(context, artifacts, stages, clock, decoder, calibration);
  const { layers } = model.architecture;
  const complete = context.layerRecords.length;
  for (let index = 0; index < layers; index++) {
    const start = performance.now();
    context.gpu.resetPeak();
    run.progress(index, 0, index < complete ? ", already quantized" : "");
    if (index < complete) {
      await run.passThrough(index, context.layerRecords[index].file);
    } else {
      const { linears, file } = await run.quantize(index, layers);
      const peakGpuBytes = context.gpu.memory.peak;
      onPeak(peakGpuBytes);
      const seconds = (performance.now() - start) / 1000;
      const record: LayerRecord = { layer: index, seconds, peakGpuBytes, ...file, linears };
      context.folder.saveLayer(record);
      context.layerRecords.push(record);
      context.report({ type: "layer", layers, ...record });
    }
    context.gpu.trim();
  }
  for (const { hidden } of calibration.batches) context.gpu.free(hidden);
}

class LayerRun {
  readonly #layerStages: Planned<LayerStage>[];
  readonly #blockStages: Planned<BlockStage>[];
  readonly #firstBlockStage: number;
  /** The linear layers of a decoder layer, in the order of execution. */
  readonly #modules: string[];

  constructor(
    readonly context: ModelContext,
    readonly artifacts: ArtifactStore,
    readonly stages: readonly PlannedStage<Stage>[],
    readonly clock: StageClock,
    readonly decoder: Decoder,
    readonly calibration: Calibration,
  ) {
    this.#layerStages = stages.filter(({ stage }) => stage.scope === "layer") as Planned<
      LayerStage
    >[];
    this.#blockStages = stages.filter(({ stage }) => stage.scope === "block") as Planned<
      BlockStage
    >[];
    const first = stages.findIndex(({ stage }) => stage.scope === "block");
    this.#firstBlockStage = first < 0 ? stages.length : first;
    this.#modules = linearGroups(decoder.architecture).flatMap(({ modules }) => modules);
  }

  /** Says how far the run is: so many linear layers of a decoder layer are done. */
  progress(index: number, linears: number, what: string): void {
    const { layers } = this.decoder.architecture;
    this.context.report({
      type: "progress",
      stage: "layers",
      done: index * this.#modules.length + linears,
      total: layers * this.#modules.length,
      text: `layer ${index + 1}${what}`,
    });
  }

  /** Takes the activations through a layer that an earlier run has packed. */
  async passThrough(index: number, file: string): Promise<void> {
    const { model } = this.decoder;
    using checkpoint = Checkpoint.openFile(join(this.context.folder.model, basename(file)));
    using decoder = new Decoder(
      this.context.gpu,
      model.withWeights(checkpoint, model.packedConfig(this.context.blockSize)),
    );
    const weights = await decoder.loadLayer(index);
    await this.#forward(weights);
    decoder.freeLayer(weights);
  }

  /** Quantizes a layer and takes the activations through it. */
  async quantize(
    index: number,
    count: number,
  ): Promise<{ linears: LinearRecord[]; file: Pick<LayerRecord, "file" | "bytes" | "sha256"> }> {
    const { gpu } = this.context;
    const { architecture } = this.decoder;
    const weights = await this.decoder.loadLayer(index);
    const groups = linearGroups(architecture).map(({ step, modules }) =>
      this.#group(weights, step, modules, { index, count })
    );
    const { length, order } = this.calibration;
    // Two passes need the layer's input twice; in one pass it is freed as soon as it is used up.
    const registers: Registers[] = this.calibration.batches.map(({ hidden }) =>
      new Map([["hidden", order === "layer" ? hidden.view(0, hidden.shape) : hidden]])
    );
    if (order === "layer") {
      // Every group sees the original layer; then the quantized layer gives the next one's input.
      let step = 0;
      for (const group of groups) {
        await this.#observe(weights, registers, step, group);
        step = group.step;
      }
      for (const states of registers) for (const tensor of states.values()) gpu.free(tensor);
      for (const group of groups) await this.#quantizeGroup(weights, group);
      await this.#forward(weights);
    } else {
      let step = 0;
      for (const group of groups) {
        await this.#observe(weights, registers, step, group);
        await this.#quantizeGroup(weights, group);
        step = group.step;
      }
      for (const [i, batch] of this.calibration.batches.entries()) {
        await this.clock.time(
          "calibrate",
          () => this.decoder.run(weights, registers[i], length, step),
        );
        batch.hidden = registers[i].get("hidden")!;
        await this.context.pause();
      }
    }
    const linears = groups.flatMap((group) => group.context.linears);
    const records = await this.#records(groups);
    let file = { file: "", bytes: 0, sha256: "" };
    for (const { stage, options } of this.#layerStages) {
      if (!stage.endLayer) continue;
      const context = { ...this.context, layer: { index, count } };
      file = await this.clock.time(stage.name, () => stage.endLayer!(context, options, linears));
    }
    for (const group of groups) {
      for (const { original, weight, bits } of group.context.linears) {
        gpu.free(original, weight);
        if (bits) gpu.free(bits.bits, bits.scales, bits.salient);
      }
      group.store[Symbol.dispose]();
    }
    this.decoder.freeLayer(weights); // among them the quantized ones
    return { linears: records, file };
  }

  #group(
    weights: LayerWeights,
    step: number,
    modules: string[],
    layer: { index: number; count: number },
  ): Group {
    const { gpu } = this.context;
    const { steps, names } = this.decoder.architecture;
    const operation = steps[step];
    if (operation.op !== "linear") throw new Error("A group is a linear operation");
    const store = new ArtifactStore(this.artifacts);
    const linears = modules.map((module): LinearLayer => {
      const { weight } = weights.get(module)!;
      const [rows, cols] = weight.shape;
      return {
        name: names.layer(layer.index) + module,
        module,
        rows,
        cols,
        original: weight,
        weight: gpu.clone(weight),
        quantized: gpu.empty([rows, cols]),
      };
    });
    const context: LayerContext = { ...this.context, ...access(store), layer, linears };
    return { step, from: operation.from, context, store };
  }

  /** Runs the layer up to a group and shows the group's input to the stages. */
  async #observe(
    weights: LayerWeights,
    registers: Registers[],
    from: number,
    group: Group,
  ): Promise<void> {
    for (const states of registers) {
      await this.clock.time(
        "calibrate",
        () => this.decoder.run(weights, states, this.calibration.length, from, group.step),
      );
      for (const { stage, options } of this.#layerStages) {
        if (!stage.observe) continue;
        const input = states.get(group.from)!;
        await this.clock.time(stage.name, () => stage.observe!(group.context, options, input));
      }
      await this.context.pause();
    }
  }

  /** Runs the stages on a group and puts what they made in the place of its weights. */
  async #quantizeGroup(weights: LayerWeights, group: Group): Promise<void> {
    const { context, store } = group;
    const runLayerStages = async (stages: readonly PlannedStage<Stage>[]) => {
      for (const { stage, options } of stages) {
        if (stage.scope !== "layer") continue;
        await this.clock.time(stage.name, () => stage.run(context, options));
      }
    };
    await runLayerStages(this.stages.slice(0, this.#firstBlockStage));
    for (const linear of context.linears) {
      this.progress(
        context.layer.index,
        this.#modules.indexOf(linear.module),
        `, ${linear.module}`,
      );
      await quantizeLinear(context, store, linear, this.#blockStages, this.clock);
      await this.context.pause();
    }
    await runLayerStages(this.stages.slice(this.#firstBlockStage));
    for (const { module, quantized } of context.linears) {
      weights.set(module, { ...weights.get(module), weight: quantized });
    }
  }

  /** Takes the activations through a layer. */
  async #forward(weights: LayerWeights): Promise<void> {
    for (const batch of this.calibration.batches) {
      const registers: Registers = new Map([["hidden", batch.hidden]]);
      await this.clock.time(
        "calibrate",
        () => this.decoder.run(weights, registers, this.calibration.length),
      );
      batch.hidden = registers.get("hidden")!;
      await this.context.pause();
    }
  }

  async #records(groups: readonly Group[]): Promise<LinearRecord[]> {
    const records: LinearRecord[] = [];
    for (const { context, store } of groups) {
      const hessian = store.find("hessian");
      for (const { name, rows, cols, original, quantized, packed } of context.linears) {
        if (!packed) continue;
        const salient = packed.salientColumns;
        const size = this.context.blockSize;
        const perBlock = new Array(Math.ceil(cols / size)).fill(0);
        for (const col of salient) perBlock[Math.floor(col / size)]++;
        const error = hessian &&
          await relativeOutputError(context.gpu, original, quantized, hessian);
        const record: LinearRecord = {
          name,
          rows,
          cols,
          ...(Number.isFinite(error) && { relativeOutputError: error }), // not 0 / 0
          salientColumns: perBlock,
          highFraction: packed.highFraction,
          paperBits: paperBits(packed.host, salient.length),
          storedBytes: { ...packed.parts },
        };
        records.push(record);
        context.report({ type: "linear", ...record });
      }
    }
    return records;
  }
}

/**
 * Runs the stages of scope block over the columns of a linear layer, from left to right.
 *
 * @param store Holds the artifacts of the layer's group.
 */
export async function quantizeLinear(
  layerContext: LayerContext,
  store: ArtifactStore,
  linear: LinearLayer,
  stages: readonly Planned<BlockStage>[],
  clock: StageClock,
): Promise<void> {
  if (stages.length === 0) return;
  const { gpu, blockSize } = layerContext;
  const { rows, cols } = linear;
  for (let first = 0; first < cols; first += blockSize) {
    const width = Math.min(blockSize, cols - first);
    using blockStore = new ArtifactStore(store);
    using weight = gpu.empty([rows, width]);
    const region = { tensor: linear.weight, start: first, stride: cols, rows, cols: width };
    await copyRegion(gpu, region, weight, width);
    using costs = blockCosts(gpu, store, first, width);
    const block = { first, cols: width, size: blockSize, weight, costs };
    const context: BlockContext = { ...layerContext, ...access(blockStore), linear, block };
    for (const { stage, options } of stages) {
      await clock.time(stage.name, () => stage.run(context, options));
    }
    // Without a stage that turns the block into bits, the fits as they stand do.
    if (!blockStore.find("block-error")) {
      await blockBits(context, { feedback: false, nearest: false, refine: 0 });
    }
  }
}

/** The block's part of the column costs; ones without a Hessian. */
function blockCosts(gpu: Gpu, store: ArtifactStore, first: number, cols: number): Tensor {
  const costs = store.find("column-costs");
  return costs
    ? gpu.clone(costs.view(first, [cols]))
    : gpu.upload(new Float32Array(MAX_BLOCK).fill(1).subarray(0, cols), [cols]);
}

/** The artifacts of a scope, as contexts offer them. */
export function access(store: ArtifactStore): Pick<ModelContext, "get" | "find" | "set"> {
  return {
    get: (name) => store.get(name),
    find: (name) => store.find(name),
    set: (name, value) => store.set(name, value),
  };
}
