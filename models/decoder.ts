import { activation } from "../gpu/activation.ts";
import { attention } from "../gpu/attention.ts";
import { crossEntropy } from "../gpu/cross_entropy.ts";
import { dequantize } from "../gpu/dequantize.ts";
import type { Gpu } from "../gpu/device.ts";
import { embed } from "../gpu/embed.ts";
import { gemm } from "../gpu/gemm.ts";
import { countNonFinite } from "../gpu/non_finite.ts";
import { norm } from "../gpu/norm.ts";
import { rope } from "../gpu/rope.ts";
import type { Dtype, Tensor } from "../gpu/tensor.ts";
import { widen } from "../gpu/widen.ts";
import { UserError } from "../pipeline/errors.ts";
import type { Architecture, Step } from "./architecture.ts";
import type { ModelFiles } from "./model_files.ts";
import { isPacked, unpackLinear } from "./packed_format.ts";

const STORED: Record<string, Dtype> = { F32: "f32", F16: "f16", BF16: "bf16" };

/** Bytes of an embedding or head on the GPU at a time. */
const PART_BYTES = 64 << 20;

/** A matrix with its bias, or the weight and bias of a norm; f32. */
export interface Affine {
  weight: Tensor;
  bias?: Tensor;
}

/** The weights of a decoder layer by module name, f32, `[rows, cols]` or `[width]`. */
export type LayerWeights = Map<string, Affine>;

/** Activations by register, f32 `[tokens, width]`. */
export type Registers = Map<string, Tensor>;

/** Runs a model's parts on the GPU; holds what does not depend on the layer. */
export class Decoder implements Disposable {
  #ropeTables = new Map<number, Tensor>();

  constructor(readonly gpu: Gpu, readonly model: ModelFiles) {}

  get architecture(): Architecture {
    return this.model.architecture;
  }

  /**
   * Uploads a decoder layer; packed linear layers are dequantized.
   *
   * @throws {UserError} If a tensor is missing, has another shape than its neighbours, or holds NaN
   *   or infinite values.
   */
  async loadLayer(index: number): Promise<LayerWeights> {
    const { steps, names } = this.architecture;
    const prefix = names.layer(index);
    const weights: LayerWeights = new Map();
    for (const step of steps) {
      const modules = step.op === "norm"
        ? [step.module]
        : step.op === "linear"
        ? step.linears.map(({ module }) => module)
        : [];
      for (const module of modules) weights.set(module, await this.#affine(prefix + module));
    }
    await this.#checkFinite(weights, prefix);
    return weights;
  }

  freeLayer(weights: LayerWeights): void {
    for (const { weight, bias } of weights.values()) this.gpu.free(weight, ...(bias ? [bias] : []));
    weights.clear();
  }

  async #affine(name: string): Promise<Affine> {
    const { checkpoint, quantization } = this.model;
    const bias = checkpoint.has(`${name}.bias`) ? await this.#tensor(`${name}.bias`) : undefined;
    if (!quantization || !isPacked(checkpoint, name)) {
      return { weight: await this.#tensor(`${name}.weight`), bias };
    }
    const { gpu } = this;
    const module = Object.keys(quantization.columns).find((known) => name.endsWith(`.${known}`));
    if (!module) {
      throw new UserError(
        `"${this.model.folder}": quantization_config lacks the columns of "${name}"`,
      );
    }
    const host = unpackLinear(
      checkpoint,
      name,
      quantization.columns[module],
      quantization.block_size,
    );
    using bits = gpu.upload(host.bits, [host.bits.length]);
    using scales = gpu.upload(host.scales, [host.scales.length]);
    using salient = gpu.upload(host.salient, [host.salient.length]);
    return { weight: await dequantize(gpu, host, bits, scales, salient), bias };
  }

  /** A stored tensor as f32. */
  async #tensor(name: string): Promise<Tensor> {
    const stored = this.#upload(name);
    if (stored.dtype === "f32") return stored;
    const wide = await widen(this.gpu, stored);
    this.gpu.free(stored);
    return wide;
  }

  /** A tensor, or some of its rows, as it is stored. */
  #upload(name: string, firstRow = 0, rows?: number): Tensor {
    const { checkpoint } = this.model;
    const { dtype, shape, file } = checkpoint.get(name);
    if (!(dtype in STORED)) {
      throw new UserError(`"${file}": "${name}" is stored as ${dtype}; supported: F32, F16, BF16`);
    }
    const bytes = checkpoint.readBytes(name);
    if (rows === undefined) return this.gpu.upload(bytes, shape, STORED[dtype]);
    const rowBytes = bytes.byteLength / shape[0];
    const part = bytes.subarray(firstRow * rowBytes, (firstRow + rows) * rowBytes);
    return this.gpu.upload(part, [rows, ...shape.slice(1)], STORED[dtype]);
  }

  async #checkFinite(weights: LayerWeights, prefix: string): Promise<void> {
    const { gpu } = this;
    const tensors = [...weights].flatMap(([module, { weight, bias }]) => [
      { name: `${prefix}${module}.weight`, tensor: weight },
      ...(bias ? [{ name: `${prefix}${module}.bias`, tensor: bias }] : []),
    ]);
    using counts = gpu.zeros([tensors.length * 64], "u32"); // bindings start at multiples of 256 bytes
    for (const [i, { tensor }] of tensors.entries()) {
      await countNonFinite(gpu, tensor, counts.view(i * 64, [1]));
    }
    const found = await gpu.read(counts, "u32");
    tensors.forEach(({ name }, i) => {
      if (found[i * 64] > 0) {
        throw new UserError(
          `"${this.model.folder}": "${name}" holds ${found[i * 64]} values that are NaN or infinite; ` +
            `the model is damaged, get it again`,
        );
      }
    });
  }

  /**
   * The input of the first decoder layer.
   *
   * @param windows Token ids; all windows have the same length.
   * @returns f32 `[windows * length, hidden]`, owned by the caller.
   * @throws {UserError} If an id is not in the vocabulary or a window is longer than the model takes.
   */
  async embed(windows: readonly Int32Array[]): Promise<Tensor> {
    const { gpu } = this;
    const { names, vocabularySize, maxLength } = this.architecture;
    const length = windows[0].length;
    if (length > maxLength) {
      throw new UserError(
        `The windows have ${length} tokens, but the model "${this.model.folder}" takes at most ` +
          `${maxLength}; use a smaller sequence-length`,
      );
    }
    const tokens = windows.length * length;
    const ids = new Uint32Array(tokens);
    windows.forEach((window, i) => ids.set(window, i * length));
    const wrong = ids.find((id) => id >= vocabularySize);
    if (wrong !== undefined) {
      throw new UserError(
        `Token id ${wrong} is not in the vocabulary of "${this.model.folder}" ` +
          `(${vocabularySize} ids); do the tokens belong to this model?`,
      );
    }
    const [, width] = this.model.checkpoint.get(`${names.embedding}.weight`).shape;
    let hidden = gpu.empty([tokens, width]);
    await this.#lookUp(`${names.embedding}.weight`, ids, hidden, false);
    if (names.projectIn) {
      using narrow = hidden;
      const projection = await this.#affine(names.projectIn);
      hidden = await this.linear(narrow, projection);
      gpu.free(projection.weight);
    }
    if (names.positions) {
      const { name, offset } = names.positions;
      const rows = Uint32Array.from(ids, (_, token) => token % length + offset);
      await this.#lookUp(`${name}.weight`, rows, hidden, true);
    }
    return hidden;
  }

  async #lookUp(name: string, ids: Uint32Array, out: Tensor, accumulate: boolean): Promise<void> {
    const { gpu } = this;
    const { shape, bytes } = this.model.checkpoint.get(name);
    const rowsPerPart = partRows(shape[0], bytes);
    using rows = gpu.upload(ids, [ids.length]);
    for (let first = 0; first < shape[0]; first += rowsPerPart) {
      using part = this.#upload(name, first, Math.min(rowsPerPart, shape[0] - first));
      await embed(gpu, rows, part, first, out, accumulate);
    }
  }

  /** x · weightᵀ + bias (+ residual), f32 `[tokens, rows]`, owned by the caller. */
  async linear(x: Tensor, { weight, bias }: Affine, residual?: Tensor): Promise<Tensor> {
    const [tokens, k] = x.shape;
    const [n, cols] = weight.shape;
    if (cols !== k) {
      throw new UserError(
        `"${this.model.folder}": a weight of ${n} x ${cols} meets an input ${k} wide; ` +
          `the weights do not fit config.json`,
      );
    }
    const c = this.gpu.empty([tokens, n]);
    await gemm(this.gpu, { layout: "NT", m: tokens, n, k, a: x, b: weight, c, bias, residual });
    return c;
  }

  /**
   * Runs operations `from` up to, not including, `to` of a decoder layer over the registers. A
   * register is freed as soon as no later operation of the layer reads it.
   *
   * @param length Tokens of a window.
   */
  async run(
    weights: LayerWeights,
    registers: Registers,
    length: number,
    from = 0,
    to = this.architecture.steps.length,
  ): Promise<void> {
    const { steps } = this.architecture;
    for (let i = from; i < to; i++) {
      const results = await this.#step(steps[i], weights, registers, length);
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

  async #step(
    step: Step,
    weights: LayerWeights,
    registers: Registers,
    length: number,
  ): Promise<[string, Tensor][]> {
    const { gpu, architecture } = this;
    const read = (register: string) => registers.get(register)!;
    switch (step.op) {
      case "norm": {
        const { weight, bias } = weights.get(step.module)!;
        const out = await norm(gpu, read(step.from), weight, bias, architecture.normEpsilon);
        return [[step.to, out]];
      }
      case "linear": {
        const residual = step.residual ? read(step.residual) : undefined;
        const results: [string, Tensor][] = [];
        for (const { module, to } of step.linears) {
          results.push([to, await this.linear(read(step.from), weights.get(module)!, residual)]);
        }
        return results;
      }
      case "rope": {
        const table = this.#ropeTable(length);
        for (const { register, heads } of step.registers) {
          await rope(gpu, read(register), table, heads);
        }
        return [];
      }
      case "attention": {
        const out = await attention(gpu, read(step.query), read(step.key), read(step.value), {
          heads: architecture.heads,
          keyValueHeads: architecture.keyValueHeads,
          headDim: architecture.headDim,
          length,
        });
        return [[step.to, out]];
      }
      case "activation": {
        const up = step.up ? read(step.up) : undefined;
        return [[step.to, await activation(gpu, step.name, read(step.from), up)]];
      }
    }
  }

  /** (cos, sin) of each position and frequency, in the f32 steps of transformers. */
  #ropeTable(length: number): Tensor {
    const known = this.#ropeTables.get(length);
    if (known) return known;
    const { headDim, ropeTheta } = this.architecture;
    const half = headDim / 2;
    const table = new Float32Array(length * half * 2);
    const { fround } = Math;
    for (let i = 0; i < half; i++) {
      const frequency = fround(1 / fround(ropeTheta! ** (2 * i / headDim)));
      for (let position = 0; position < length; position++) {
        const angle = fround(position * frequency);
        table[(position * half + i) * 2] = Math.cos(angle);
        table[(position * half + i) * 2 + 1] = Math.sin(angle);
      }
    }
    const tensor = this.gpu.upload(table, [length, half, 2]);
    this.#ropeTables.set(length, tensor);
    return tensor;
  }

  /** What the head reads: the last layer's output after the final norm and projection. */
  async finish(hidden: Tensor): Promise<Tensor> {
    const { gpu } = this;
    const { names, normEpsilon } = this.architecture;
    let x = hidden.view(0, hidden.shape);
    if (names.finalNorm) {
      const { weight, bias } = await this.#affine(names.finalNorm);
      x = await norm(gpu, x, weight, bias, normEpsilon);
      gpu.free(weight, ...(bias ? [bias] : []));
    }
    if (names.projectOut) {
      using wide = x;
      const projection = await this.#affine(names.projectOut);
      x = await this.linear(wide, projection);
      gpu.free(projection.weight);
    }
    return x.owned ? x : gpu.clone(x);
  }

  /** Parts of the head's weight, f32 `[rows, width]`, each freed after the call it is passed to. */
  async #headParts(use: (part: Tensor, first: number) => Promise<void>): Promise<void> {
    const { names } = this.architecture;
    const name = `${names.head ?? names.embedding}.weight`;
    const { shape } = this.model.checkpoint.get(name);
    const rowsPerPart = partRows(shape[0], shape[0] * shape[1] * 4);
    for (let first = 0; first < shape[0]; first += rowsPerPart) {
      using stored = this.#upload(name, first, Math.min(rowsPerPart, shape[0] - first));
      using part = await widen(this.gpu, stored);
      await use(part, first);
    }
  }

  /** Logits of every token, f32 `[tokens, vocabulary]`, owned by the caller; for short texts. */
  async logits(hidden: Tensor): Promise<Tensor> {
    const { gpu } = this;
    const { vocabularySize } = this.architecture;
    using x = await this.finish(hidden);
    const [tokens, width] = x.shape;
    const logits = gpu.empty([tokens, vocabularySize]);
    await this.#headParts(async (part, first) => {
      const c = { tensor: logits, start: first, stride: vocabularySize };
      const [n] = part.shape;
      await gemm(gpu, { layout: "NT", m: tokens, n, k: width, a: x, b: part, c });
    });
    return logits;
  }

  /**
   * The cross-entropy of each token's prediction of the next, in nats.
   *
   * @param hidden The last layer's output for whole windows, f32 `[windows * length, hidden]`.
   * @returns f32 `[windows * length]` on the host; the entry of a window's last token means nothing.
   */
  async losses(hidden: Tensor, windows: readonly Int32Array[]): Promise<Float32Array> {
    const { gpu } = this;
    const length = windows[0].length;
    using x = await this.finish(hidden);
    const [tokens, width] = x.shape;
    const next = new Uint32Array(tokens);
    windows.forEach((window, i) => next.set(window.subarray(1), i * length));
    using state = gpu.empty([tokens, 4]);
    await this.#headParts(async (part, first) => {
      const [n] = part.shape;
      // Logits of some tokens at a time, in multiples of 64 so that all bindings stay aligned.
      const slice = Math.max(64, Math.floor(PART_BYTES / 4 / n / 64) * 64);
      for (let start = 0; start < tokens; start += slice) {
        const m = Math.min(slice, tokens - start);
        using logits = gpu.empty([m, n]);
        using targets = gpu.upload(next.subarray(start, start + m), [m]);
        const a = { tensor: x, start: start * width };
        await gemm(gpu, { layout: "NT", m, n, k: width, a, b: part, c: logits });
        await crossEntropy(gpu, logits, targets, first, state.view(start * 4, [m, 4]));
      }
    });
    const all = await gpu.read(state);
    return Float32Array.from({ length: tokens }, (_, token) => all[token * 4 + 3]);
  }

  [Symbol.dispose](): void {
    this.gpu.free(...this.#ropeTables.values());
    this.#ropeTables.clear();
  }
}

function partRows(rows: number, bytes: number): number {
  return Math.max(1, Math.min(rows, Math.floor(PART_BYTES / (bytes / rows))));
}

/** Whether an operation from `start` on reads a register before it is written anew. */
function isRead(steps: readonly Step[], register: string, start: number): boolean {
  for (const step of steps.slice(start)) {
    if (inputs(step).includes(register)) return true;
    if (outputs(step).includes(register)) return false;
  }
  return register === "hidden"; // what the next layer reads
}

function inputs(step: Step): string[] {
  switch (step.op) {
    case "norm":
      return [step.from];
    case "linear":
      return step.residual ? [step.from, step.residual] : [step.from];
    case "rope":
      return step.registers.map(({ register }) => register);
    case "attention":
      return [step.query, step.key, step.value];
    case "activation":
      return step.up ? [step.from, step.up] : [step.from];
  }
}

function outputs(step: Step): string[] {
  switch (step.op) {
    case "linear":
      return step.linears.map(({ to }) => to);
    case "rope":
      return [];
    default:
      return [step.to];
  }
}
