import { basename, join } from "node:path";
import { freeGrid } from "../../codecs/grid/grid.ts";
import { salientFraction } from "../../codecs/grid/packed_grid.ts";
import { isGrid, paperBitsOf } from "../../codecs/packed_format.ts";
import { constant } from "../../gpu/constant.ts";
import type { Gpu } from "../../gpu/device.ts";
import { MAX_BLOCK } from "../../gpu/kernels/binarize/search.ts";
import { copyRegion } from "../../gpu/kernels/elementwise/transpose.ts";
import { outputErrorParts, relativeError } from "../../gpu/kernels/reduce/output_error.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { linearGroups } from "../../models/architectures/architecture.ts";
import { type Calibration, paceBatches } from "../../models/calibration.ts";
import { Decoder, type LayerWeights, type Registers } from "../../models/decoder.ts";
import {
  type LiveRegisters,
  liveRegisters,
  type Restarts,
  restartsOf,
  totalWidth,
} from "../../models/layer_plan.ts";
import { blockBits } from "../../stages/block_bits.ts";
import { Checkpoint } from "../../storage/checkpoint.ts";
import { denoFile } from "../../storage/deno_folder.ts";
import type { PlannedStage } from "../config/config.ts";
import type {
  BlockContext,
  BlockStage,
  LayerContext,
  LayerStage,
  LinearLayer,
  ModelContext,
  Stage,
} from "../stage.ts";
import { ArtifactStore } from "./artifacts.ts";
import type { LayerRecord, LinearRecord } from "./events.ts";
import type { Planned, StageClock } from "./run.ts";

/** A group of linear layers that share an input. */
interface Group {
  /** The operation of the decoder layer that runs them. */
  step: number;
  /** The register that is their input. */
  from: string;
  /** Where the activations may be kept on the way to them. */
  restarts: Restarts;
  /** Elements that are kept for each token if they are kept near. */
  nearWidth: number;
  context: LayerContext;
  store: ArtifactStore;
  /** Of each linear layer once it is quantized; see {@link outputErrorParts}. */
  errors: Tensor[];
}

/** Of so many blocks of a linear layer one is measured: to measure each costs more than some take. */
const BLOCKS_PER_MEASUREMENT = 8;

/**
 * Takes the calibration data, if there are any, through the decoder layers and runs the stages of scope
 * layer and block on each group of linear layers.
 *
 * The host runs ahead of the GPU: it waits once for each linear layer and for every few batches, and
 * while the last batches of a layer are on their way, it writes that layer's file and brings the next
 * layer's weights to the GPU.
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
  const calibration = context.find("calibration");
  using _ = calibration?.activations;
  using decoder = new Decoder(context.gpu, model);
  const run = new LayerRun(context, artifacts, stages, clock, decoder, calibration);
  const { layers } = model.architecture;
  const complete = context.layerRecords.length;
  let secondsBefore = await clock.seconds();
  for (let index = 0; index < layers; index++) {
    const start = performance.now();
    context.gpu.resetPeak();
    run.progress(index, 0, index < complete ? ", already quantized" : "");
    if (index < complete) {
      await run.passThrough(index, context.layerRecords[index].file);
      await run.checkRange(index);
      secondsBefore = await clock.seconds();
    } else {
      const { linears, file } = await run.quantize(index, layers);
      await run.checkRange(index);
      const peakGpuBytes = context.gpu.memory.peak;
      onPeak(peakGpuBytes);
      const seconds = (performance.now() - start) / 1000;
      const secondsNow = await clock.seconds();
      const secondsByStage = difference(secondsNow, secondsBefore);
      secondsBefore = secondsNow;
      const record: LayerRecord = {
        layer: index,
        seconds,
        secondsByStage,
        peakGpuBytes,
        peakGpuBytesByStage: clock.peakBytes,
        ...file,
        linears,
      };
      context.folder.saveLayer(record);
      context.layerRecords.push(record);
      context.report({ type: "layer", layers, ...record });
    }
  }
  context.gpu.trim();
}

/** What has been added to each figure. */
function difference(
  now: Record<string, number>,
  before: Record<string, number>,
): Record<string, number> {
  const changes = Object.entries(now).map(([name, value]) => [name, value - (before[name] ?? 0)]);
  return Object.fromEntries(changes.filter(([, change]) => change !== 0));
}

class LayerRun {
  readonly #layerStages: Planned<LayerStage>[];
  readonly #blockStages: Planned<BlockStage>[];
  readonly #firstBlockStage: number;
  /** The linear layers of a decoder layer, in the order of execution. */
  readonly #modules: string[];
  /**
   * Operations before which activations are kept where there is room. Where there is none they are
   * rounded there as if they were, so that the result does not depend on the room.
   */
  readonly #roundings: number[];

  constructor(
    readonly context: ModelContext,
    readonly artifacts: ArtifactStore,
    readonly stages: readonly PlannedStage<Stage>[],
    readonly clock: StageClock,
    readonly decoder: Decoder,
    /** Absent if no stage needs any. */
    readonly calibration: Calibration | undefined,
  ) {
    this.#layerStages = stages.filter(({ stage }) => stage.scope === "layer") as Planned<
      LayerStage
    >[];
    this.#blockStages = stages.filter(({ stage }) => stage.scope === "block") as Planned<
      BlockStage
    >[];
    const first = stages.findIndex(({ stage }) => stage.scope === "block");
    this.#firstBlockStage = first < 0 ? stages.length : first;
    const { architecture, model } = decoder;
    const groups = linearGroups(architecture);
    this.#modules = groups.flatMap(({ modules }) => modules);
    const live = liveRegisters(architecture, (module) => model.linearShape(module)[0]);
    this.#roundings = calibration?.order === "module"
      ? groups.map(({ step }) => restartsOf(architecture.steps, live, step).near)
      : [];
  }

  /** @throws {UserError} If activations are beyond what they are kept in. */
  async checkRange(index: number): Promise<void> {
    await this.calibration?.activations.checkRange(this.#layerName(index));
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
    if (!this.calibration) return;
    const { model } = this.decoder;
    using checkpoint = Checkpoint.openFile(
      denoFile(join(this.context.folder.model, basename(file))),
    );
    using decoder = new Decoder(
      this.context.gpu,
      model.withWeights(checkpoint, model.packedConfig(this.context.blockSize)),
    );
    const weights = await decoder.loadLayer(index);
    await this.#finishLayer(weights);
    await this.context.gpu.idle();
    decoder.freeLayer(weights);
  }

  /** Quantizes a layer and takes the activations through it. */
  async quantize(
    index: number,
    count: number,
  ): Promise<{ linears: LinearRecord[]; file: Pick<LayerRecord, "file" | "bytes" | "sha256"> }> {
    const { gpu } = this.context;
    const weights = await this.decoder.loadLayer(index);
    const live = liveRegisters(
      this.decoder.architecture,
      (module) => weights.get(module)!.weight.shape[0],
    );
    const groups = linearGroups(this.decoder.architecture).map(({ step, modules }) =>
      this.#group(weights, step, modules, live, { index, count })
    );
    if (this.calibration?.order === "layer") {
      // Every group sees the original layer; then the quantized layer gives the next one's input.
      await this.#observeAll(weights, groups);
      for (const group of groups) await this.#quantizeGroup(weights, group);
    } else {
      for (const group of groups) {
        if (this.calibration) await this.#observe(weights, group);
        await this.#quantizeGroup(weights, group);
      }
    }
    let file = { file: "", bytes: 0, sha256: "" };
    await this.#finishLayer(weights, async () => {
      const linears = groups.flatMap((group) => group.context.linears);
      for (const { stage, options } of this.#layerStages) {
        if (!stage.endLayer) continue;
        const context = { ...this.context, layer: { index, count } };
        file = await this.clock.host(stage.name, () => stage.endLayer!(context, options, linears));
      }
      if (index + 1 < count) this.decoder.prefetchLayer(index + 1);
    });
    await gpu.idle();
    this.decoder.freeLayer(weights); // among them the quantized ones
    return { linears: await this.#records(groups), file };
  }

  #group(
    weights: LayerWeights,
    step: number,
    modules: string[],
    live: readonly LiveRegisters[],
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
    const restarts = restartsOf(steps, live, step);
    return {
      step,
      from: operation.from,
      restarts,
      nearWidth: totalWidth(live[restarts.near]),
      context,
      store,
      errors: [],
    };
  }

  /** Shows the inputs of all groups to the stages, in one pass through the original layer. */
  async #observeAll(weights: LayerWeights, groups: readonly Group[]): Promise<void> {
    const { activations } = this.calibration!;
    for (let batch = 0; batch < activations.batches; batch++) {
      const registers = await activations.load(batch);
      let step = 0;
      for (const group of groups) {
        await this.#run(weights, registers, step, group.step);
        await this.#show(group, registers);
        step = group.step;
      }
      this.context.gpu.free(...registers.values());
      await this.#pace(batch);
    }
  }

  /** Shows the input of one group to the stages; what lies before it is quantized already. */
  async #observe(weights: LayerWeights, group: Group): Promise<void> {
    const { activations } = this.calibration!;
    for (let batch = 0; batch < activations.batches; batch++) {
      let registers = await activations.load(batch);
      const before = activations.step(batch);
      const restart = this.#restartOf(batch, group);
      if (restart > before) {
        await this.#run(weights, registers, before, restart, true);
        await activations.keep(batch, restart, registers);
        registers = await activations.load(batch);
      }
      await this.#run(weights, registers, restart, group.step);
      await this.#show(group, registers);
      this.context.gpu.free(...registers.values());
      await this.#pace(batch);
    }
    await activations.checkRange(this.#layerName(weights.layer));
    this.#freePassed(weights);
  }

  #layerName(index: number): string {
    return `layer ${index + 1} of "${this.decoder.model.name}"`;
  }

  /** Where to keep a batch on its way to a group: near if there is room, else where it takes least. */
  #restartOf(batch: number, { restarts, nearWidth }: Group): number {
    const { activations, batches, length } = this.calibration!;
    const elements = nearWidth * batches[batch].length * length;
    const restart = activations.hasRoomFor(batch, elements) ? restarts.near : restarts.lean;
    return Math.max(restart, activations.step(batch));
  }

  /** Frees the linear layers that no batch has to go through again. */
  #freePassed(weights: LayerWeights): void {
    const { activations, batches } = this.calibration!;
    const passed = Math.min(...batches.map((_, batch) => activations.step(batch)));
    for (const step of this.decoder.architecture.steps.slice(0, passed)) {
      if (step.op !== "linear") continue;
      for (const { module } of step.linears) {
        const affine = weights.get(module);
        if (!affine) continue;
        this.context.gpu.free(affine.weight, ...(affine.bias ? [affine.bias] : []));
        weights.delete(module);
      }
    }
  }

  /** @param isKept The registers will be kept, and so rounded, before operation `to`. */
  async #run(
    weights: LayerWeights,
    registers: Registers,
    from: number,
    to = this.decoder.architecture.steps.length,
    isKept = false,
  ): Promise<void> {
    const { length, activations } = this.calibration!;
    await this.clock.queue("calibrate", async () => {
      let step = from;
      for (const stop of this.#roundings) {
        if (stop <= from || stop > to || (stop === to && isKept)) continue;
        await this.decoder.run(weights, registers, length, step, stop);
        await activations.round(registers);
        step = stop;
      }
      await this.decoder.run(weights, registers, length, step, to);
    });
  }

  async #show(group: Group, registers: Registers): Promise<void> {
    const input = registers.get(group.from)!;
    for (const { stage, options } of this.#layerStages) {
      if (!stage.observe) continue;
      await this.clock.queue(stage.name, () => stage.observe!(group.context, options, input));
    }
  }

  async #pace(batch: number): Promise<void> {
    await paceBatches(this.context.gpu, batch + 1);
    await this.context.pause();
  }

  /** Runs the stages on a group and puts what they made in the place of its weights. */
  async #quantizeGroup(weights: LayerWeights, group: Group): Promise<void> {
    const { context, store } = group;
    const { gpu } = context;
    for (const { stage, options } of this.stages.slice(0, this.#firstBlockStage)) {
      if (stage.scope !== "layer") continue;
      await this.clock.queue(stage.name, () => stage.run(context, options));
    }
    for (const linear of context.linears) {
      this.progress(
        context.layer.index,
        this.#modules.indexOf(linear.module),
        `, ${linear.module}`,
      );
      await quantizeLinear(context, store, linear, this.#blockStages, this.clock);
      await gpu.idle();
      await this.context.pause();
    }
    for (const { stage, options } of this.stages.slice(this.#firstBlockStage)) {
      if (stage.scope !== "layer") continue;
      await this.clock.time(stage.name, () => stage.run(context, options));
    }
    const hessian = store.find("hessian");
    for (const { module, original, weight, quantized, bits, grid, host } of context.linears) {
      if (hessian && host) {
        group.errors.push(
          await this.clock.queue(
            "output-error",
            () => outputErrorParts(gpu, original, quantized, hessian),
          ),
        );
      }
      weights.set(module, { ...weights.get(module), weight: quantized });
      gpu.free(original, weight);
      if (bits) gpu.free(bits.bits, bits.scales, bits.salient);
      if (grid) freeGrid(gpu, grid);
    }
    store[Symbol.dispose]();
  }

  /**
   * Takes the activations to the end of the layer.
   *
   * @param meanwhile What the host does while the GPU is at it.
   */
  async #finishLayer(weights: LayerWeights, meanwhile?: () => Promise<void>): Promise<void> {
    const { gpu } = this.context;
    const activations = this.calibration?.activations;
    for (let batch = 0; activations && batch < activations.batches; batch++) {
      const registers = await activations.load(batch);
      await this.#run(weights, registers, activations.step(batch));
      await activations.keep(batch, 0, registers);
      if (gpu.software) await gpu.idle();
      await this.context.pause();
    }
    gpu.flush();
    await meanwhile?.();
  }

  async #records(groups: readonly Group[]): Promise<LinearRecord[]> {
    const records: LinearRecord[] = [];
    for (const { context, errors } of groups) {
      for (const { name, rows, cols, packed, method } of context.linears) {
        if (!packed) continue;
        const { host } = packed;
        const size = this.context.blockSize;
        const perBlock = new Array(isGrid(host) ? 0 : Math.ceil(cols / size)).fill(0);
        for (const col of packed.salientColumns) perBlock[Math.floor(col / size)]++;
        using parts = errors.shift();
        const error = parts && await relativeError(parts);
        const record: LinearRecord = {
          name,
          rows,
          cols,
          ...(method && { method }),
          ...(Number.isFinite(error) && { relativeOutputError: error }), // not 0 / 0
          salientColumns: perBlock,
          ...(isGrid(host) && host.salient && { salientFraction: salientFraction(host) }),
          highFraction: packed.highFraction,
          paperBits: paperBitsOf(host),
          storedBytes: { ...packed.parts },
        };
        records.push(record);
        this.context.report({ type: "linear", ...record });
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
    using costs = await blockCosts(gpu, store, first, width);
    const block = { first, cols: width, size: blockSize, weight, costs };
    const context: BlockContext = { ...layerContext, ...access(blockStore), linear, block };
    const stands = blocksThatItStandsFor(first / blockSize, Math.ceil(cols / blockSize));
    for (const { stage, options } of stages) {
      const run = () => stage.run(context, options);
      await (stands > 0 ? clock.queue(stage.name, run, stands) : run());
    }
    // Without a stage that turns the block into bits, the fits as they stand do.
    if (!blockStore.find("block-error")) {
      await blockBits(context, { feedback: false, nearest: false, refine: 0 });
    }
  }
}

/** The blocks that a block is measured for: those around the middle one of some neighbours, or none. */
function blocksThatItStandsFor(block: number, blocks: number): number {
  const first = block - block % BLOCKS_PER_MEASUREMENT;
  const together = Math.min(BLOCKS_PER_MEASUREMENT, blocks - first);
  return block - first === together >> 1 ? together : 0;
}

/** The block's part of the column costs; ones without a Hessian. */
async function blockCosts(
  gpu: Gpu,
  store: ArtifactStore,
  first: number,
  cols: number,
): Promise<Tensor> {
  const costs = store.find("column-costs");
  if (!costs) return constant(gpu, new Float32Array(MAX_BLOCK).fill(1)).view(0, [cols]);
  const part = costs.view(first, [cols]);
  // Kernels can bind what starts at a multiple of so many bytes.
  if (part.offset % gpu.device.limits.minStorageBufferOffsetAlignment === 0) return part;
  const copy = gpu.empty([cols]);
  await copyRegion(gpu, { tensor: costs, start: first, stride: cols, rows: 1, cols }, copy, cols);
  return copy;
}

/** The artifacts of a scope, as contexts offer them. */
export function access(store: ArtifactStore): Pick<ModelContext, "get" | "find" | "set"> {
  return {
    get: (name) => store.get(name),
    find: (name) => store.find(name),
    set: (name, value) => store.set(name, value),
  };
}
