import { UserError } from "../base/errors.ts";
import type { Codec, HostLinear, VectorSource, Weight, WeightGroup } from "../codecs/codec.ts";
import { DenseWeight } from "../codecs/dense/weight.ts";
import { GpuTable, isPackedTable, tableLayout } from "../codecs/embedding/packed_table.ts";
import { codecOf, loadLinear } from "../codecs/mod.ts";
import { type Gpu, UPLOAD_CHUNK } from "../gpu/device.ts";
import { appendCache } from "../gpu/kernels/attention/append_cache.ts";
import { attention, segmentAttention } from "../gpu/kernels/attention/attention.ts";
import { attendAndAppend, attentionDecode } from "../gpu/kernels/attention/attention_decode.ts";
import { rope } from "../gpu/kernels/attention/rope.ts";
import { activation } from "../gpu/kernels/elementwise/activation.ts";
import { embed } from "../gpu/kernels/elementwise/embed.ts";
import { widen } from "../gpu/kernels/elementwise/widen.ts";
import { gemm } from "../gpu/kernels/matmul/gemm.ts";
import { matvec } from "../gpu/kernels/matmul/matvec.ts";
import { crossEntropy } from "../gpu/kernels/reduce/cross_entropy.ts";
import { countNonFinite } from "../gpu/kernels/reduce/non_finite.ts";
import { norm } from "../gpu/kernels/reduce/norm.ts";
import { type Dtype, shapeText, Tensor } from "../gpu/tensor.ts";
import type { Activations } from "./activations.ts";
import { type Architecture, type Step, weightedModules } from "./architectures/architecture.ts";
import { KeyValueCache } from "./generation/kv_cache.ts";
import { isRead } from "./layer_plan.ts";
import type { PromptBatch, PromptBatchOnGpu } from "./metrics/prompt_batch.ts";
import type { ModelFiles } from "./model_files.ts";
import { rotaryFrequencies } from "./rotary.ts";

const STORED: Record<string, Dtype> = { F32: "f32", F16: "f16", BF16: "bf16" };

/** How a checkpoint may store the tensors that a {@link Decoder} reads. */
export const STORED_DTYPES: readonly string[] = Object.keys(STORED);

/** Bytes of an embedding or head on the GPU at a time, unless told otherwise. */
export const PART_BYTES = 64 << 20;

/** Bytes of embedded tokens in f32 on the GPU at a time. */
const EMBED_BYTES = 1 << 30;

export interface DecoderOptions {
  /** Bytes of an embedding or head on the GPU at a time; {@link PART_BYTES} if absent. */
  partBytes?: number;
  /**
   * The format that the frequencies of rotary positions are rounded to: "f32" unless told otherwise,
   * as in a model that transformers has loaded. A model cast as a whole with `.half()` or
   * `.to(bfloat16)` rounds them too.
   */
  ropeFrequencies?: "f32" | "f16" | "bf16";
}

/** The weight and bias of a norm, f32. */
export interface Affine {
  weight: Tensor;
  bias?: Tensor;
}

/** A linear layer on the GPU; its bias is f32 `[rows]`. */
export interface Linear<W extends Weight = Weight> {
  weight: W;
  bias?: Tensor;
}

/** The weights of a decoder layer by module name. */
export class LayerWeights<W extends Weight = Weight> implements Disposable {
  readonly norms = new Map<string, Affine>();
  readonly linears = new Map<string, Linear<W>>();
  /** Linear layers that have one input, by their operation; those of a group are in `linears` too. */
  readonly groups = new Map<Step, { group: WeightGroup; biases?: Tensor }>();

  /** @param layer Its number, from 0. */
  constructor(readonly layer: number) {}

  /** Frees a linear layer that is needed no more. */
  delete(module: string): void {
    const linear = this.linears.get(module);
    linear?.weight[Symbol.dispose]();
    linear?.bias?.[Symbol.dispose]();
    this.linears.delete(module);
  }

  [Symbol.dispose](): void {
    for (const { weight, bias } of this.norms.values()) {
      weight[Symbol.dispose]();
      bias?.[Symbol.dispose]();
    }
    for (const module of [...this.linears.keys()]) this.delete(module);
    for (const { group, biases } of this.groups.values()) {
      group[Symbol.dispose]();
      biases?.[Symbol.dispose]();
    }
    this.norms.clear();
    this.groups.clear();
  }
}

/** Activations by register, f32 `[tokens, width]`. */
export type Registers = Map<string, Tensor>;

/** Runs a model's parts on the GPU; holds what does not depend on the layer. */
export class Decoder implements Disposable {
  readonly #partBytes: number;
  readonly #ropeFrequencies: "f32" | "f16" | "bf16";
  /** (cos, sin) for the longest window so far. */
  #longestRopeTable?: Tensor;
  /** Shorter ones before it, which recordings may still read. */
  readonly #shorterRopeTables: Tensor[] = [];
  /** The id 0, u32 `[1]`: a position is row 0 of what begins at its row. */
  #rowZero?: Tensor;
  /** Names of tensors outside the layers that were found to be finite. */
  readonly #finite = new Set<string>();
  /** Tensors that {@link prefetchLayer} has brought to the GPU, as they are stored. */
  readonly #prefetched = new Map<string, Tensor>();
  /** Tensors outside the layers that {@link keepEnds} has brought to the GPU. */
  readonly #kept = new Map<string, Tensor>();
  /** Likewise, of packed tables. */
  readonly #keptTables = new Map<string, GpuTable>();

  constructor(
    readonly gpu: Gpu,
    readonly model: ModelFiles,
    { partBytes = PART_BYTES, ropeFrequencies = "f32" }: DecoderOptions = {},
  ) {
    this.#partBytes = partBytes;
    this.#ropeFrequencies = ropeFrequencies;
  }

  get architecture(): Architecture {
    return this.model.architecture;
  }

  /**
   * Uploads a decoder layer; packed linear layers are dequantized, so that they give the very bits that
   * the matrices gave which were packed.
   *
   * @param options `packed` leaves them packed, which takes a tenth of the memory; the products are
   *   the same but for rounding. `stored` leaves matrices in f16 or bf16 if they are stored so: half
   *   the memory, for somewhat slower products of many tokens.
   * @throws {UserError} If a tensor is missing, has another shape than config.json and its
   *   neighbours want, or holds NaN or infinite values.
   */
  async loadLayer(
    index: number,
    options?: { packed?: false },
  ): Promise<LayerWeights<DenseWeight>>;
  async loadLayer(
    index: number,
    options: { packed: boolean; stored?: boolean },
  ): Promise<LayerWeights>;
  async loadLayer(
    index: number,
    options: { packed?: boolean; stored?: boolean } = {},
  ): Promise<LayerWeights> {
    const { steps, names } = this.architecture;
    const prefix = names.layer(index);
    const weights = new LayerWeights(index);
    try {
      for (const step of steps) {
        if (step.op === "norm") {
          weights.norms.set(step.module, await this.#norm(prefix + step.module));
        }
        if (step.op !== "linear") continue;
        if (options.packed && await this.#loadGroup(step, prefix, weights)) continue;
        for (const { module } of step.linears) {
          weights.linears.set(module, await this.#linear(prefix + module, step.bias, options));
        }
      }
      this.#checkLayerShapes(weights, prefix);
      await this.#checkFinite(
        [...weights.norms, ...weights.linears].flatMap(([module, affine]) =>
          named(prefix + module, affine)
        ),
      );
    } catch (error) {
      weights[Symbol.dispose]();
      throw error;
    }
    return weights;
  }

  /**
   * Reads and uploads the weights of a layer that is to be loaded next, as they are stored, while
   * the GPU is at work; packed ones are left for then.
   */
  prefetchLayer(index: number): void {
    const prefix = this.architecture.names.layer(index);
    const add = (name: string) => this.#prefetched.set(name, this.#upload(name));
    for (const { module, bias } of weightedModules(this.architecture)) {
      if (!this.#codecOf(prefix + module)) add(`${prefix}${module}.weight`);
      if (bias) add(`${prefix}${module}.bias`);
    }
  }

  /** The weight of an RMS norm, or the weight and bias of a layer norm. */
  async #norm(name: string): Promise<Affine> {
    const weight = await this.#tensor(`${name}.weight`);
    if (this.architecture.norm === "rms") return { weight };
    return { weight, bias: await this.#tensor(`${name}.bias`) };
  }

  /**
   * A linear layer, dequantized if it is packed and is not to stay so; a bias that config.json does not
   * ask for is ignored.
   */
  async #linear(
    name: string,
    hasBias: boolean,
    { packed: staysPacked = false, stored: staysStored = false }: {
      packed?: boolean;
      stored?: boolean;
    },
  ): Promise<Linear> {
    const { gpu, model } = this;
    const bias = hasBias ? await this.#tensor(`${name}.bias`) : undefined;
    const packed = this.#codecOf(name) &&
      loadLinear(model.checkpoint, model.quantization!, name);
    if (!packed) {
      const weight = `${name}.weight`;
      const matrix = await (staysStored ? this.#matrix(weight) : this.#tensor(weight));
      return { weight: new DenseWeight(matrix), bias };
    }
    const { codec, host } = packed;
    if (!staysPacked) return { weight: new DenseWeight(await codec.matrix(gpu, host)), bias };
    this.#checkPacked(name, codec, host);
    return { weight: await codec.upload(gpu, host), bias };
  }

  #codecOf(name: string): Codec | undefined {
    return this.model.quantization && codecOf(this.model.checkpoint, name);
  }

  /** Loads the linear layers of an operation as a group, if they and the adapter are suited for it. */
  async #loadGroup(
    step: Step & { op: "linear" },
    prefix: string,
    weights: LayerWeights,
  ): Promise<boolean> {
    const { gpu, model: { checkpoint, quantization } } = this;
    const names = step.linears.map(({ module }) => prefix + module);
    const codec = this.#codecOf(names[0]);
    if (!codec?.uploadGroup || names.some((name) => this.#codecOf(name) !== codec)) return false;
    if (!codec.groups?.(gpu, quantization!.block_size)) return false; // nothing is read in vain
    const hosts = names.map((name) => loadLinear(checkpoint, quantization!, name)!.host);
    hosts.forEach((host, i) => this.#checkPacked(names[i], codec, host));
    const group = await codec.uploadGroup(gpu, hosts);
    if (!group) return false;
    const biases = step.bias ? gpu.zeros([1, group.rows]) : undefined;
    weights.groups.set(step, { group, biases });
    for (const [i, { module }] of step.linears.entries()) {
      const bias = step.bias ? await this.#tensor(`${names[i]}.bias`) : undefined;
      if (bias) gpu.copy(bias, biases!.view(group.starts[i], bias.shape));
      weights.linears.set(module, { weight: group.weights[i], bias });
    }
    return true;
  }

  /** A matrix as it is stored, checked. */
  async #matrix(name: string): Promise<Tensor> {
    const stored = this.#upload(name);
    if (stored.dtype !== "f32") {
      using wide = await widen(this.gpu, stored);
      await this.#checkFinite([{ name, tensor: wide }]);
    }
    return stored;
  }

  /** A stored tensor as f32. */
  async #tensor(name: string): Promise<Tensor> {
    const stored = this.#prefetched.get(name) ?? this.#upload(name);
    this.#prefetched.delete(name);
    if (stored.dtype === "f32") return stored;
    const wide = await widen(this.gpu, stored);
    this.gpu.free(stored);
    return wide;
  }

  /** A tensor, or some of its rows, as it is stored; a view of it if it is kept. */
  #upload(name: string, firstRow = 0, rows?: number): Tensor {
    const { checkpoint } = this.model;
    const kept = this.#kept.get(name);
    if (kept) {
      const [allRows, ...rest] = kept.shape;
      return kept.view(firstRow * kept.size / allRows, [rows ?? allRows, ...rest]);
    }
    const { dtype, shape, file } = checkpoint.get(name);
    if (!(dtype in STORED)) {
      throw new UserError(`"${file}": "${name}" is stored as ${dtype}; supported: F32, F16, BF16`);
    }
    const part = rows === undefined ? undefined : { first: firstRow, rows };
    const chunks = checkpoint.readChunks(name, UPLOAD_CHUNK, part);
    return this.gpu.upload(chunks, [rows ?? shape[0], ...shape.slice(1)], STORED[dtype]);
  }

  /** Checks that each operation of a layer gets tensors of the width that it works on. */
  #checkLayerShapes(weights: LayerWeights, prefix: string): void {
    const { steps, hiddenSize, heads, keyValueHeads, headDim } = this.architecture;
    /** How wide each register is, and the linear layer that it comes from. */
    const registers = new Map<string, { width: number; module?: string; cols?: number }>();
    registers.set("hidden", { width: hiddenSize });
    const widthOf = (register: string) => registers.get(register)!.width;
    const expect = (module: string, found: readonly number[], shape: number[]) =>
      this.#checkShape(`${prefix}${module}.weight`, found, shape);
    const expectWidth = (register: string, wanted: number) => {
      const { width, module, cols = 0 } = registers.get(register)!;
      if (width === wanted) return;
      this.#checkShape(`${prefix}${module}.weight`, [width, cols], [wanted, cols]);
    };
    for (const step of steps) {
      switch (step.op) {
        case "norm": {
          if (step.heads) expectWidth(step.from, step.heads * headDim);
          const width = widthOf(step.from);
          const { weight } = weights.norms.get(step.module)!;
          expect(step.module, weight.shape, [step.heads ? headDim : width]);
          registers.set(step.to, { width });
          break;
        }
        case "linear": {
          const cols = widthOf(step.from);
          for (const { module, to } of step.linears) {
            const { weight } = weights.linears.get(module)!;
            const width = step.residual ? widthOf(step.residual) : weight.rows;
            expect(module, [weight.rows, weight.cols], [width, cols]);
            registers.set(to, { width, module, cols });
          }
          break;
        }
        case "rope":
          for (const { register, heads } of step.registers) expectWidth(register, heads * headDim);
          break;
        case "attention":
          expectWidth(step.query, heads * headDim);
          expectWidth(step.key, keyValueHeads * headDim);
          expectWidth(step.value, keyValueHeads * headDim);
          registers.set(step.to, { width: heads * headDim });
          break;
        case "activation":
          if (step.up) expectWidth(step.up, widthOf(step.from));
          registers.set(step.to, { width: widthOf(step.from) });
      }
    }
    // Last, so that a weight with too few rows is not taken for a bias with too many.
    for (const [module, { weight, bias }] of weights.norms) {
      if (bias) this.#checkShape(`${prefix}${module}.bias`, bias.shape, weight.shape);
    }
    for (const [module, { weight, bias }] of weights.linears) {
      if (bias) this.#checkShape(`${prefix}${module}.bias`, bias.shape, [weight.rows]);
    }
  }

  #checkShape(name: string, shape: readonly number[], expected: readonly number[]): void {
    if (shapeText(shape) === shapeText(expected)) return;
    throw new UserError(
      `"${this.model.name}": "${name}" has the shape ${shapeText(shape)}, ` +
        `expected ${shapeText(expected)}; the weights do not fit config.json`,
    );
  }

  /** Checks tensors outside the layers when they are first used. */
  async #checkOnce(name: string, affine: Affine, shape: readonly number[]): Promise<void> {
    if (this.#finite.has(name)) return;
    this.#checkShape(`${name}.weight`, affine.weight.shape, shape);
    if (affine.bias) this.#checkShape(`${name}.bias`, affine.bias.shape, shape.slice(0, 1));
    await this.#checkFinite(named(name, affine));
    this.#finite.add(name);
  }

  async #checkFinite(tensors: { name: string; tensor: Tensor }[]): Promise<void> {
    const { gpu } = this;
    using counts = gpu.zeros([tensors.length * 64], "u32"); // bindings start at multiples of 256 bytes
    for (const [i, { tensor }] of tensors.entries()) {
      await countNonFinite(gpu, tensor, counts.view(i * 64, [1]));
    }
    const found = await gpu.read(counts, "u32");
    tensors.forEach(({ name }, i) => this.#refuseNonFinite(name, found[i * 64]));
  }

  /** Checks what a packed linear layer is made of; its bits may be any. */
  #checkPacked(name: string, codec: Codec, host: HostLinear): void {
    for (const [part, count] of Object.entries(codec.nonFinite(host))) {
      this.#refuseNonFinite(`${name}.${part}`, count);
    }
  }

  #refuseNonFinite(name: string, count: number): void {
    if (count === 0) return;
    throw new UserError(
      `"${this.model.name}": "${name}" holds ${count} ` +
        `${count === 1 ? "value that is" : "values that are"} NaN or infinite; ` +
        `the model is damaged, get it again`,
    );
  }

  /**
   * Brings what lies outside the layers to the GPU to stay there: embedding, positions and head as they
   * are stored, projections and final norm in f32. {@link embed} and {@link logits} read no file then.
   *
   * @throws {UserError} If a tensor is missing, has another shape than config.json wants, or holds NaN
   *   or infinite values.
   */
  async keepEnds(): Promise<void> {
    const { names, norm, vocabularySize, embeddingSize, hiddenSize, maxLength } = this.architecture;
    const { embedding, head = embedding, positions, finalNorm } = names;
    const tables = new Map<string, [rows: number, cols: number]>();
    for (const table of [embedding, head]) {
      tables.set(`${table}.weight`, [vocabularySize, embeddingSize]);
    }
    if (positions) {
      tables.set(`${positions.name}.weight`, [maxLength + positions.offset, hiddenSize]);
      this.#rowZero ??= this.gpu.zeros([1], "u32");
    }
    for (const [name, shape] of tables) {
      const table = name.slice(0, -".weight".length);
      const { checkpoint } = this.model;
      if (isPackedTable(checkpoint, table)) {
        this.#keptTables.set(name, GpuTable.upload(this.gpu, checkpoint, table));
      } else this.#kept.set(name, this.#upload(name));
      await this.#parts(name, shape, "stored", async () => {}); // checks it
    }
    const others = [names.projectIn, names.projectOut, finalNorm]
      .flatMap((name) => name ? [`${name}.weight`] : []);
    if (finalNorm && norm === "layer") others.push(`${finalNorm}.bias`);
    for (const name of others) this.#kept.set(name, await this.#tensor(name));
  }

  /**
   * The input of the first decoder layer, for several batches: the embedding is read once.
   *
   * @param batches Token ids; all windows have the same length.
   * @param start Position of the first token of each window.
   * @returns f32 `[windows * length, hidden]` for each batch, owned by the caller.
   * @throws {UserError} If an id is not in the vocabulary, a window is longer than the model takes,
   *   or the embedding has another shape than config.json wants or holds NaN or infinite values.
   */
  async embed(batches: readonly (readonly Int32Array[])[], start = 0): Promise<Tensor[]> {
    const length = batches[0][0].length;
    this.#checkEnd("The windows have", start + length);
    const ids = batches.map((windows) => {
      const ids = new Uint32Array(windows.length * length);
      windows.forEach((window, i) => ids.set(window, i * length));
      return ids;
    });
    return await this.#embed(ids, (i) => ids[i].map((_, token) => start + token % length));
  }

  /**
   * Likewise, for batches of prompts that share what they begin with.
   *
   * @returns f32 `[tokens, hidden]` for each batch, owned by the caller.
   * @throws {UserError} As {@link embed} does.
   */
  async embedPrompts(batches: readonly PromptBatch[]): Promise<Tensor[]> {
    this.#checkEnd("The longest prompt has", Math.max(...batches.map(({ length }) => length)));
    return await this.#embed(batches.map(({ ids }) => ids), (i) => batches[i].positions);
  }

  #checkEnd(what: string, end: number): void {
    const { maxLength } = this.architecture;
    if (end <= maxLength) return;
    throw new UserError(
      `${what} ${end} tokens, but the model "${this.model.name}" takes at most ` +
        `${maxLength}; use a smaller sequence-length`,
    );
  }

  async #embed(
    ids: readonly Uint32Array[],
    positionsOf: (batch: number) => Uint32Array,
  ): Promise<Tensor[]> {
    const { gpu } = this;
    const { names, vocabularySize, maxLength, hiddenSize, embeddingSize } = this.architecture;
    const wrong = ids.flatMap((ids) => ids.find((id) => id >= vocabularySize) ?? []);
    if (wrong.length > 0) {
      throw new UserError(
        `Token id ${wrong[0]} is not in the vocabulary of "${this.model.name}" ` +
          `(${vocabularySize} ids); do the tokens belong to this model?`,
      );
    }
    const hidden = ids.map(({ length }) => gpu.empty([length, embeddingSize]));
    const shape = [vocabularySize, embeddingSize] as const;
    await this.#lookUp(`${names.embedding}.weight`, shape, ids, hidden, false);
    if (names.projectIn) {
      for (const [i, narrow] of hidden.entries()) {
        hidden[i] = await this.#project(narrow, names.projectIn, [hiddenSize, embeddingSize]);
        gpu.free(narrow);
      }
    }
    if (names.positions) {
      const { name, offset } = names.positions;
      const rows = ids.map((_, i) => positionsOf(i).map((position) => position + offset));
      await this.#lookUp(`${name}.weight`, [maxLength + offset, hiddenSize], rows, hidden, true);
    }
    return hidden;
  }

  /**
   * The input of the first decoder layer for one token whose id the GPU knows, after
   * {@link keepEnds}.
   *
   * @param id u32 `[1]`. What an id that is not in the vocabulary gives means nothing.
   * @returns f32 `[1, hidden]`, owned by the caller.
   */
  async embedToken(id: Tensor, position: number): Promise<Tensor> {
    const { gpu } = this;
    const { names, hiddenSize, embeddingSize } = this.architecture;
    let hidden = gpu.empty([1, embeddingSize]);
    await this.#lookUpKept(`${names.embedding}.weight`, id, hidden);
    if (names.projectIn) {
      using narrow = hidden;
      hidden = await this.#project(narrow, names.projectIn, [hiddenSize, embeddingSize]);
    }
    if (names.positions) {
      const { name, offset } = names.positions;
      await this.#lookUpKept(`${name}.weight`, this.#rowZero!, hidden, position + offset);
    }
    return hidden;
  }

  /**
   * Looks an id up in a matrix that is kept.
   *
   * @param from The row that id 0 means; what is found is added to `out` if given.
   */
  async #lookUpKept(name: string, id: Tensor, out: Tensor, from?: number): Promise<void> {
    const accumulate = from !== undefined;
    const table = this.#keptTables.get(name);
    if (table) return await table.lookUp(id, out, accumulate, from);
    const kept = this.#kept.get(name);
    if (!kept) throw new Error(`"${name}" is not on the GPU`);
    const [rows, cols] = kept.shape;
    // Views begin at multiples of 256 bytes.
    const most = Math.max(256, Math.floor(this.gpu.maxBinding / (kept.bytes / rows) / 256) * 256);
    for (let first = 0; first < rows; first += most) {
      const part = kept.view(first * cols, [Math.min(most, rows - first), cols]);
      await embed(this.gpu, id, part, first - (from ?? 0), out, accumulate, accumulate);
    }
  }

  /** Embeds batches and keeps them as what enters the first layer; see {@link embed}. */
  async embedInto(
    activations: Activations,
    batches: readonly (readonly Int32Array[])[],
  ): Promise<void> {
    const tokens = batches[0].length * batches[0][0].length;
    await this.#embedInto(activations, batches, tokens, (some) => this.embed(some));
  }

  /** Likewise, see {@link embedPrompts}. */
  async embedPromptsInto(
    activations: Activations,
    batches: readonly PromptBatch[],
  ): Promise<void> {
    const tokens = Math.max(...batches.map(({ ids }) => ids.length));
    await this.#embedInto(activations, batches, tokens, (some) => this.embedPrompts(some));
  }

  /** @param tokens Of the largest batch. */
  async #embedInto<Batch>(
    activations: Activations,
    batches: readonly Batch[],
    tokens: number,
    embed: (batches: readonly Batch[]) => Promise<Tensor[]>,
  ): Promise<void> {
    const batchBytes = 4 * tokens * this.architecture.hiddenSize;
    // The embedding is read once for so many batches: all at once could take too much memory.
    const together = Math.max(1, Math.floor(EMBED_BYTES / batchBytes));
    for (let first = 0; first < batches.length; first += together) {
      const some = await embed(batches.slice(first, first + together));
      for (const [i, hidden] of some.entries()) {
        await activations.keep(first + i, 0, new Map([["hidden", hidden]]));
      }
    }
  }

  async #lookUp(
    name: string,
    shape: readonly [number, number],
    ids: readonly Uint32Array[],
    out: readonly Tensor[],
    accumulate: boolean,
  ): Promise<void> {
    const { gpu } = this;
    const rows = ids.map((ids) => gpu.upload(ids, [ids.length]));
    const keptTable = this.#keptTables.get(name); // checked
    if (keptTable) {
      for (const [i, batch] of rows.entries()) await keptTable.lookUp(batch, out[i], accumulate);
      gpu.free(...rows);
      return;
    }
    const isWanted = (first: number, count: number) =>
      ids.some((batch) => batch.some((id) => id >= first && id < first + count));
    await this.#parts(name, shape, "stored", async (part, first) => {
      for (const [i, batch] of rows.entries()) {
        await embed(gpu, batch, part, first, out[i], accumulate);
      }
    }, isWanted);
    gpu.free(...rows);
  }

  /** x through a projection between the width of the embedding and that of the layers. */
  async #project(x: Tensor, name: string, shape: readonly [number, number]): Promise<Tensor> {
    const weight = await this.#tensor(`${name}.weight`);
    await this.#checkOnce(name, { weight }, shape);
    using projection = new DenseWeight(weight);
    return await this.linear(x, { weight: projection });
  }

  /** x · weightᵀ + bias (+ residual), f32 `[tokens, rows]`, owned by the caller. */
  async linear(x: Tensor, { weight, bias }: Linear, residual?: Tensor): Promise<Tensor> {
    const [, width] = x.shape;
    if (weight.cols !== width) {
      throw new UserError(
        `"${this.model.name}": a weight of ${weight.rows} x ${weight.cols} meets an input ${width} ` +
          `wide; the weights do not fit config.json`,
      );
    }
    return await weight.multiply(x, { bias, residual });
  }

  /**
   * Runs operations `from` up to, not including, `to` of a decoder layer over the registers. A
   * register is freed as soon as no later operation of the layer reads it.
   *
   * @param window Tokens of a window; or the prompts that the tokens are; or the cache of a single
   *   window that goes on: it gets the keys and values of these tokens, and its length stays until all
   *   layers have run.
   */
  async run(
    weights: LayerWeights,
    registers: Registers,
    window: number | PromptBatchOnGpu | KeyValueCache,
    from = 0,
    to = this.architecture.steps.length,
  ): Promise<void> {
    const { steps } = this.architecture;
    const isWhole = from === 0 && to === steps.length;
    if (
      isWhole && window instanceof KeyValueCache && weights.groups.size > 0 &&
      tokensOf(registers) === 1
    ) {
      return await this.#runToken(weights, registers, window);
    }
    for (let i = from; i < to; i++) {
      const results = await this.#step(steps[i], weights, registers, window);
      for (const [register, tensor] of results) {
        const before = registers.get(register);
        registers.set(register, tensor);
        if (before) this.gpu.free(before);
      }
      for (const [register, tensor] of registers) {
        if (isRead(steps, register, i + 1)) continue;
        registers.delete(register);
        this.gpu.free(tensor);
      }
    }
  }

  /**
   * All operations of a layer over the registers of one token. Packed linear layers of one input are
   * one dispatch, together with the RMS norm or activation function before them.
   */
  async #runToken(
    weights: LayerWeights,
    registers: Registers,
    cache: KeyValueCache,
  ): Promise<void> {
    const { gpu } = this;
    const { steps } = this.architecture;
    const outputs: Tensor[] = []; // of groups; registers are views of them
    for (let i = 0; i < steps.length; i++) {
      const source = this.#sourceAt(i, weights, registers);
      const step = source ? steps[++i] : steps[i];
      const known = weights.groups.get(step);
      let results: [string, Tensor][];
      if (step.op === "linear" && known) {
        const residual = step.residual && registers.get(step.residual);
        const { x, ...made } = source ?? { x: registers.get(step.from)! };
        const addends = { bias: known.biases, residual: residual || undefined };
        const y = await known.group.multiplyVector(x, { ...made, ...addends });
        outputs.push(y);
        results = step.linears.map(({ to }, n) => {
          const { rows } = known.group.weights[n];
          return [to, y.view(known.group.starts[n], [1, rows])];
        });
      } else results = await this.#step(step, weights, registers, cache);
      for (const [register, tensor] of results) {
        const before = registers.get(register);
        registers.set(register, tensor);
        if (before) gpu.free(before);
      }
      for (const [register, tensor] of registers) {
        if (isRead(steps, register, i + 1)) continue;
        registers.delete(register);
        gpu.free(tensor);
      }
    }
    // What the layer gives is one layer's output from its first row on: it becomes the register's own.
    const hidden = registers.get("hidden")!;
    const owner = outputs.find(({ buffer }) => buffer === hidden.buffer);
    if (owner) registers.set("hidden", owner);
    gpu.free(...outputs.filter((output) => output !== owner));
  }

  /**
   * What a group multiplies in place of its input, if operation i makes that input, nothing else reads
   * it, and the group can make it on the way.
   */
  #sourceAt(
    i: number,
    weights: LayerWeights,
    registers: Registers,
  ): { x: Tensor; source: VectorSource } | undefined {
    const { steps, norm, normEpsilon: epsilon } = this.architecture;
    const [step, next] = [steps[i], steps[i + 1]];
    if (next?.op !== "linear" || !weights.groups.has(next)) return undefined;
    if (step.op !== "norm" && step.op !== "activation") return undefined;
    if (step.to !== next.from || isRead(steps, step.to, i + 2)) return undefined;
    const x = registers.get(step.from)!;
    if (step.op === "norm") {
      if (norm !== "rms" || step.heads) return undefined;
      const { weight } = weights.norms.get(step.module)!;
      return { x, source: { op: "rms", weight, epsilon } };
    }
    const { name } = step;
    if (!step.up) return { x, source: { op: "activation", name } };
    const half = registers.get(step.up)!;
    if (half.buffer !== x.buffer || half.offset < x.offset) return undefined;
    const up = (half.offset - x.offset) / 4;
    const both = new Tensor(this.gpu, x.buffer, [1, up + half.size], "f32", x.offset, false);
    return { x: both, source: { op: "activation", name, up } };
  }

  async #step(
    step: Step,
    weights: LayerWeights,
    registers: Registers,
    window: number | PromptBatchOnGpu | KeyValueCache,
  ): Promise<[string, Tensor][]> {
    const { gpu, architecture } = this;
    const read = (register: string) => registers.get(register)!;
    switch (step.op) {
      case "norm": {
        const { weight, bias } = weights.norms.get(step.module)!;
        const out = await norm(gpu, read(step.from), weight, bias, architecture.normEpsilon);
        return [[step.to, out]];
      }
      case "linear": {
        const residual = step.residual ? read(step.residual) : undefined;
        const results: [string, Tensor][] = [];
        for (const { module, to } of step.linears) {
          results.push([
            to,
            await this.linear(read(step.from), weights.linears.get(module)!, residual),
          ]);
        }
        return results;
      }
      case "rope": {
        if (window instanceof KeyValueCache) return []; // done together with the writing to the cache
        using table = typeof window === "number"
          ? this.#ropeTable(window)
          : await this.#ropeRows(window);
        for (const { register, heads } of step.registers) {
          await rope(gpu, read(register), table, heads);
        }
        return [];
      }
      case "attention": {
        const [q, k, v] = [read(step.query), read(step.key), read(step.value)];
        const out = window instanceof KeyValueCache
          ? await this.#attentionToCache(q, k, v, weights.layer, window)
          : await this.#attention(q, k, v, weights.layer, window);
        return [[step.to, out]];
      }
      case "activation": {
        const up = step.up ? read(step.up) : undefined;
        return [[step.to, await activation(gpu, step.name, read(step.from), up)]];
      }
    }
  }

  #attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer: number,
    window: number | PromptBatchOnGpu,
  ): Promise<Tensor> {
    const { heads, keyValueHeads, headDim, slidingWindows } = this.architecture;
    const shape = { heads, keyValueHeads, headDim, slidingWindow: slidingWindows[layer] };
    return typeof window === "number"
      ? attention(this.gpu, q, k, v, { ...shape, length: window })
      : segmentAttention(this.gpu, q, k, v, window.segments, shape);
  }

  /** Attention of new tokens, not turned by their positions yet, to themselves and a cache. */
  async #attentionToCache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer: number,
    cache: KeyValueCache,
  ): Promise<Tensor> {
    const { gpu } = this;
    const { heads, keyValueHeads, headDim, rotary, slidingWindows } = this.architecture;
    const [tokens] = q.shape;
    const start = cache.length;
    const { keys, values } = cache.layers[layer];
    const table = rotary && this.#ropeTable(cache.capacity);
    const slidingWindow = slidingWindows[layer];
    const append = { q, k, v, keys, values, heads, keyValueHeads, headDim, start };
    if (tokens === 1) return await attendAndAppend(gpu, { ...append, table, slidingWindow });
    if (start === 0) { // a window of its own
      if (table) {
        await rope(gpu, q, table, heads);
        await rope(gpu, k, table, keyValueHeads);
      }
      await appendCache(gpu, append);
      return await this.#attention(q, k, v, layer, tokens);
    }
    await appendCache(gpu, { ...append, table });
    const shape = { heads, keyValueHeads, headDim, start, slidingWindow };
    return await attentionDecode(gpu, q, keys, values, shape);
  }

  /** A view of (cos, sin) of each position and frequency, in the f32 steps of transformers. */
  #ropeTable(length: number): Tensor {
    const { headDim, rotary } = this.architecture;
    const half = headDim / 2;
    const longest = this.#longestRopeTable;
    if (longest && longest.shape[0] >= length) return longest.view(0, [length, half, 2]);
    if (longest) this.#shorterRopeTables.push(longest);
    const twice = Math.min(2 * (longest?.shape[0] ?? 0), this.architecture.maxLength);
    const rows = Math.max(length, twice); // so that there are few of them
    const table = new Float32Array(rows * half * 2);
    const frequencies = rotaryFrequencies(headDim, rotary!)
      .map(ROUNDED[this.#ropeFrequencies]);
    for (let i = 0; i < half; i++) {
      for (let position = 0; position < rows; position++) {
        const angle = Math.fround(position * frequencies[i]);
        table[(position * half + i) * 2] = Math.cos(angle);
        table[(position * half + i) * 2 + 1] = Math.sin(angle);
      }
    }
    this.#longestRopeTable = this.gpu.upload(table, [rows, half, 2]);
    return this.#longestRopeTable.view(0, [length, half, 2]);
  }

  /** The rows of the rotary table for the positions of prompts, one for each token. */
  async #ropeRows({ positions, segments }: PromptBatchOnGpu): Promise<Tensor> {
    const { gpu } = this;
    const half = this.architecture.headDim / 2;
    const rows = gpu.empty([positions.size, half, 2]);
    const table = this.#ropeTable(segments.length).view(0, [segments.length, 2 * half]);
    await embed(gpu, positions, table, 0, rows);
    return rows;
  }

  /** What the head reads: the last layer's output after the final norm and projection. */
  async finish(hidden: Tensor): Promise<Tensor> {
    const { gpu } = this;
    const { names, normEpsilon, hiddenSize, embeddingSize } = this.architecture;
    let x = hidden.view(0, hidden.shape);
    if (names.finalNorm) {
      const affine = await this.#norm(names.finalNorm);
      await this.#checkOnce(names.finalNorm, affine, [hiddenSize]);
      const { weight, bias } = affine;
      x = await norm(gpu, x, weight, bias, normEpsilon);
      gpu.free(weight, ...(bias ? [bias] : []));
    }
    if (names.projectOut) {
      using wide = x;
      x = await this.#project(wide, names.projectOut, [embeddingSize, hiddenSize]);
    }
    return x.owned ? x : gpu.clone(x);
  }

  /** Parts of the head's weight, `[rows, width]`, each freed after the call it is passed to. */
  async #headParts(
    as: "stored" | "f32",
    use: (part: Tensor, first: number) => Promise<void>,
  ): Promise<void> {
    const { names, vocabularySize, embeddingSize } = this.architecture;
    const name = `${names.head ?? names.embedding}.weight`;
    await this.#parts(name, [vocabularySize, embeddingSize], as, use);
  }

  /**
   * Some rows at a time of a matrix that may be too large for the GPU; each part is freed after the
   * call it is passed to. NaN and infinities are refused when the matrix is first used.
   *
   * @param name With ".weight", also of a packed one, which comes as f32.
   * @param as What the parts come as: f32, or whatever the matrix is stored as.
   * @param isWanted Says of some rows whether they are used; all are, if absent.
   */
  async #parts(
    name: string,
    shape: readonly [number, number],
    as: "stored" | "f32",
    use: (part: Tensor, first: number) => Promise<void>,
    isWanted?: (first: number, count: number) => boolean,
  ): Promise<void> {
    const { checkpoint } = this.model;
    const table = name.slice(0, -".weight".length);
    const isPacked = isPackedTable(checkpoint, table);
    const [rows, cols] = shape;
    let rowBytes = 4 * cols;
    if (isPacked) {
      const layout = tableLayout(checkpoint, table);
      this.#checkShape(name, [layout.rows, layout.cols], shape);
    } else {
      const stored = checkpoint.get(name);
      this.#checkShape(name, stored.shape, shape);
      if (as === "stored") rowBytes = stored.bytes / rows;
    }
    const isFinite = this.#finite.has(name);
    let rowsPerPart = this.#rowsPerPart(rowBytes);
    const keptTable = this.#keptTables.get(name);
    if (keptTable || this.#kept.has(name)) {
      // Views begin at multiples of 256 bytes; where nothing is widened, they may be large.
      const isWhole = isFinite && as === "stored" && !keptTable;
      const most = isWhole ? this.gpu.maxBinding / rowBytes : rowsPerPart;
      rowsPerPart = Math.max(256, Math.floor(most / 256) * 256);
    }
    for (let first = 0; first < rows; first += rowsPerPart) {
      const count = Math.min(rowsPerPart, rows - first);
      if (isFinite && isWanted && !isWanted(first, count)) continue;
      using uploaded = isPacked && !keptTable
        ? GpuTable.upload(this.gpu, checkpoint, table, first, count)
        : undefined;
      using part = await (keptTable?.dequantized(first, count) ??
        uploaded?.dequantized(0, count) ?? this.#upload(name, first, count));
      if (isFinite && as === "stored") {
        await use(part, first);
        continue;
      }
      using wide = part.dtype === "f32" ? part.view(0, part.shape) : await widen(this.gpu, part);
      if (!isFinite) await this.#checkFinite([{ name, tensor: wide }]);
      await use(as === "f32" ? wide : part, first);
    }
    this.#finite.add(name);
  }

  /** Logits of every token, f32 `[tokens, vocabulary]`, owned by the caller; for short texts. */
  async logits(hidden: Tensor): Promise<Tensor> {
    const { gpu } = this;
    const { names, vocabularySize } = this.architecture;
    using x = await this.finish(hidden);
    const [tokens, width] = x.shape;
    const logits = gpu.empty([tokens, vocabularySize]);
    if (tokens === 1) {
      const keptTable = this.#keptTables.get(`${names.head ?? names.embedding}.weight`); // checked
      if (keptTable) {
        await keptTable.multiply(x, logits);
        return logits;
      }
      await this.#headParts("stored", async (weight, start) => {
        await matvec(gpu, { x, weight, out: logits, start });
      });
      return logits;
    }
    await this.#headParts("f32", async (part, first) => {
      const c = { tensor: logits, start: first, stride: vocabularySize };
      const [n] = part.shape;
      await gemm(gpu, { layout: "NT", m: tokens, n, k: width, a: x, b: part, c });
    });
    return logits;
  }

  /**
   * The cross-entropy of each token's prediction of the next, in nats, for several batches: the head
   * is read once.
   *
   * @param finished Gives what {@link finish} gave for the last layer's output of a batch, once for
   *   each part of the head; it is freed.
   * @param batches The windows of each batch.
   * @param onBatch Called after each batch of each part of the head.
   * @returns f32 `[windows * length]` on the host for each batch; the entry of a window's last token
   *   means nothing.
   */
  async losses(
    finished: (batch: number) => Promise<Tensor>,
    batches: readonly (readonly Int32Array[])[],
    onBatch?: () => Promise<void>,
  ): Promise<Float32Array[]> {
    const length = batches[0][0].length;
    const next = batches.map((windows) => {
      const next = new Uint32Array(windows.length * length);
      windows.forEach((window, w) => next.set(window.subarray(1), w * length));
      return next;
    });
    return await this.targetLosses(finished, next, onBatch);
  }

  /**
   * The cross-entropy of what each row predicts, in nats, for several batches: the head is read once.
   *
   * @param finished As for {@link losses}; its tensors have as many rows as there are targets.
   * @param targets The id that each row should predict.
   * @param onBatch Called after each batch of each part of the head.
   * @returns On the host, for each batch.
   */
  async targetLosses(
    finished: (batch: number) => Promise<Tensor>,
    targets: readonly Uint32Array[],
    onBatch?: () => Promise<void>,
  ): Promise<Float32Array[]> {
    const { gpu } = this;
    const states = targets.map(({ length }) => gpu.empty([length, 4]));
    await this.#headParts("f32", async (part, first) => {
      const [n] = part.shape;
      // Logits of some tokens at a time, in multiples of 64 so that all bindings stay aligned.
      const slice = Math.max(64, Math.floor(this.#partBytes / 4 / n / 64) * 64);
      for (let i = 0; i < targets.length; i++) {
        using x = await finished(i);
        const [tokens, width] = x.shape;
        for (let start = 0; start < tokens; start += slice) {
          const m = Math.min(slice, tokens - start);
          using logits = gpu.empty([m, n]);
          using wanted = gpu.upload(targets[i].subarray(start, start + m), [m]);
          const a = { tensor: x, start: start * width };
          await gemm(gpu, { layout: "NT", m, n, k: width, a, b: part, c: logits });
          await crossEntropy(gpu, logits, wanted, first, states[i].view(start * 4, [m, 4]));
        }
        await onBatch?.();
      }
    });
    const losses: Float32Array[] = [];
    for (const state of states) {
      const all = await gpu.read(state);
      losses.push(Float32Array.from({ length: all.length / 4 }, (_, token) => all[token * 4 + 3]));
      gpu.free(state);
    }
    return losses;
  }

  /** Parts that the head is read in. */
  get headParts(): number {
    const { vocabularySize, embeddingSize } = this.architecture;
    return Math.ceil(vocabularySize / this.#rowsPerPart(4 * embeddingSize));
  }

  #rowsPerPart(rowBytes: number): number {
    return Math.max(1, Math.floor(this.#partBytes / rowBytes));
  }

  [Symbol.dispose](): void {
    const { gpu } = this;
    gpu.free(...this.#prefetched.values(), ...this.#kept.values());
    gpu.free(...this.#shorterRopeTables.splice(0));
    if (this.#longestRopeTable) gpu.free(this.#longestRopeTable);
    this.#longestRopeTable = undefined;
    if (this.#rowZero) gpu.free(this.#rowZero);
    this.#rowZero = undefined;
    this.#prefetched.clear();
    this.#kept.clear();
    for (const table of this.#keptTables.values()) table[Symbol.dispose]();
    this.#keptTables.clear();
  }
}

const ROUNDED = { f32: Math.fround, f16: Math.f16round, bf16: bf16Round };

/** The nearest bf16, ties to even, of a finite f32. */
function bf16Round(value: number): number {
  const [bits] = new Uint32Array(Float32Array.of(value).buffer);
  const rounded = bits + 0x7fff + ((bits >>> 16) & 1) & 0xffff0000;
  return new Float32Array(Uint32Array.of(rounded).buffer)[0];
}

function tokensOf(registers: Registers): number {
  return registers.values().next().value!.shape[0];
}

/** A module's f32 tensors with their names: packed and stored ones are checked when they are read. */
function named(
  module: string,
  { weight, bias }: Affine | Linear,
): { name: string; tensor: Tensor }[] {
  const tensor = weight instanceof Tensor
    ? weight
    : weight instanceof DenseWeight
    ? weight.matrix
    : undefined;
  const tensors = tensor?.dtype === "f32" ? [{ name: `${module}.weight`, tensor }] : [];
  if (bias) tensors.push({ name: `${module}.bias`, tensor: bias });
  return tensors;
}
