import { UserError } from "../base/errors.ts";
import { dequantize } from "../codecs/billm/dequantize.ts";
import { canGroup, freeGroup, uploadPackedGroup } from "../codecs/billm/packed_group.ts";
import { packedProduct } from "../codecs/billm/packed_matmul.ts";
import { multipliesVectors, packedVectorProduct } from "../codecs/billm/packed_vector.ts";
import {
  freePacked,
  type PackedOnHost,
  type PackedWeight,
  uploadPacked,
} from "../codecs/billm/packed_weight.ts";
import type { Weight } from "../codecs/codec.ts";
import { DenseWeight } from "../codecs/dense/weight.ts";
import { isPackedGrid, uploadGrid } from "../codecs/grid/packed_grid.ts";
import { columnsOf, isGrid, isPacked, readLinear, unpackLinear } from "../codecs/packed_format.ts";
import type { Gpu } from "../gpu/device.ts";
import { widen } from "../gpu/kernels/elementwise/widen.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { LayerPlan } from "./layer_plan.ts";
import { LayerWeights } from "./layer_weights.ts";
import { kindOf, type Op } from "./ops/mod.ts";
import type { LinearGroup } from "./ops/op.ts";
import { layerPlaces, type Place, placeOf } from "./places.ts";
import type { StoredTensors } from "./stored_tensors.ts";

/** How the linear layers of a decoder layer are loaded. */
export interface LoadLayerOptions {
  /**
   * Leaves them packed, which takes a tenth of the memory; the products are the same but for
   * rounding. Else they are dequantized, and give the very bits that the matrices gave which were
   * packed.
   */
  packed?: boolean;
  /**
   * Leaves matrices in f16 or bf16 if they are stored so: half the memory, for somewhat slower
   * products of many tokens.
   */
  stored?: boolean;
}

/**
 * Reads and uploads the weights of a layer that is to be loaded next, as they are stored, while the
 * GPU is at work; packed ones are left for then.
 */
export function prefetchLayer(stored: StoredTensors, layer: number): void {
  const { architecture, checkpoint } = stored.model;
  for (const { linear, ...place } of layerPlaces(architecture, layer)) {
    if (!linear || !isPacked(checkpoint, linear)) stored.prefetch(place);
  }
}

/**
 * Uploads a decoder layer.
 *
 * @throws {UserError} If a tensor is missing, has another shape than config.json wants, or holds NaN
 *   or infinite values.
 */
export async function loadLayer(
  stored: StoredTensors,
  layer: number,
  options: LoadLayerOptions,
): Promise<LayerWeights> {
  const loader = new LayerLoader(stored, layer, options);
  try {
    await loader.load();
  } catch (error) {
    loader.weights[Symbol.dispose]();
    throw error;
  }
  return loader.weights;
}

/** Loads one decoder layer. */
class LayerLoader {
  readonly weights: LayerWeights;
  readonly #gpu: Gpu;
  readonly #prefix: string;
  /** What is in f32, to be checked together: other forms are checked when they are read. */
  readonly #wide: { name: string; tensor: Tensor }[] = [];

  constructor(
    readonly stored: StoredTensors,
    readonly layer: number,
    readonly options: LoadLayerOptions,
  ) {
    const { architecture } = stored.model;
    this.weights = new LayerWeights(layer, new LayerPlan(architecture, layer));
    this.#gpu = stored.gpu;
    this.#prefix = architecture.names.layer(layer);
  }

  async load(): Promise<void> {
    for (const op of this.weights.plan.ops) {
      for (const { name, shape } of kindOf(op).tensors?.(op) ?? []) {
        this.weights.tensors.set(name, await this.#tensor({ name: this.#prefix + name, shape }));
      }
      const group = kindOf(op).group?.(op);
      if (!group || this.options.packed && await this.#loadGroup(op, group)) continue;
      for (const [i, { module }] of group.linears.entries()) {
        const weight = await this.#weight(group, i);
        this.weights.linears.set(module, { weight, bias: await this.#bias(group, i) });
      }
    }
    await this.stored.checkFinite(this.#wide);
  }

  /** A tensor as f32. */
  async #tensor(place: Place): Promise<Tensor> {
    const tensor = await this.stored.wide(place);
    this.#wide.push({ name: place.name, tensor });
    return tensor;
  }

  /** The bias of a linear layer; one that config.json does not ask for is ignored. */
  async #bias(group: LinearGroup, i: number): Promise<Tensor | undefined> {
    return group.bias ? await this.#tensor(placeOf(this.#prefix, group, i, "bias")) : undefined;
  }

  /** The weight of a linear layer, dequantized if it is packed and is not to stay so. */
  async #weight(group: LinearGroup, i: number): Promise<Weight> {
    const { module, rows } = group.linears[i];
    const name = this.#prefix + module;
    if (!this.#isPacked(name)) {
      const place = placeOf(this.#prefix, group, i, "weight");
      const matrix = await (this.options.stored ? this.#matrix(place) : this.#tensor(place));
      return new DenseWeight(matrix);
    }
    const gpu = this.#gpu;
    const { checkpoint, quantization } = this.stored.model;
    const host = readLinear(checkpoint, name, this.#columnsOf(name), quantization!.block_size);
    this.stored.checkShape(`${name}.weight`, [host.rows, host.cols], [rows, group.cols]);
    // There is no product with codes on grids as they are packed.
    if (isGrid(host)) return this.#dequantized(name, await uploadGrid(gpu, host));
    if (this.options.packed) {
      this.#checkScales(name, host);
      return new BillmWeight(gpu, await uploadPacked(gpu, host));
    }
    using bits = gpu.upload(host.bits, [host.bits.length]);
    using scales = gpu.upload(host.scales, [host.scales.length]);
    using salient = gpu.upload(host.salient, [host.salient.length]);
    return this.#dequantized(name, await dequantize(gpu, host, bits, scales, salient));
  }

  #dequantized(name: string, matrix: Tensor): Weight {
    this.#wide.push({ name: `${name}.weight`, tensor: matrix });
    return new DenseWeight(matrix);
  }

  /** A matrix as it is stored, checked. */
  async #matrix(place: Place): Promise<Tensor> {
    const matrix = this.stored.upload(place);
    if (matrix.dtype === "f32") this.#wide.push({ name: place.name, tensor: matrix });
    else {
      using tensor = await widen(this.#gpu, matrix);
      await this.stored.checkFinite([{ name: place.name, tensor }]);
    }
    return matrix;
  }

  #isPacked(name: string): boolean {
    const { quantization, checkpoint } = this.stored.model;
    return quantization !== undefined && isPacked(checkpoint, name);
  }

  #columnsOf(name: string): number {
    const { quantization, name: model } = this.stored.model;
    const cols = columnsOf(quantization!, name);
    if (cols === undefined) {
      throw new UserError(`"${model}": quantization_config lacks the columns of "${name}"`);
    }
    return cols;
  }

  /** Loads the linear layers of an operation as a group, if they and the adapter are suited for it. */
  async #loadGroup(op: Op, group: LinearGroup): Promise<boolean> {
    const gpu = this.#gpu;
    const { checkpoint, quantization } = this.stored.model;
    const names = group.linears.map(({ module }) => this.#prefix + module);
    const isSuited = (name: string) => this.#isPacked(name) && !isPackedGrid(checkpoint, name);
    if (!names.every(isSuited)) return false;
    const blockSize = quantization!.block_size;
    if (!multipliesVectors(gpu, blockSize)) return false; // before anything is read in vain
    const hosts = names.map((name) =>
      unpackLinear(checkpoint, name, this.#columnsOf(name), blockSize)
    );
    if (!canGroup(hosts)) return false;
    for (const [i, host] of hosts.entries()) {
      const wanted = [group.linears[i].rows, group.cols];
      this.stored.checkShape(`${names[i]}.weight`, [host.rows, host.cols], wanted);
      this.#checkScales(names[i], host);
    }
    const tensors = await uploadPackedGroup(gpu, hosts);
    const known = {
      rows: tensors.rows,
      starts: tensors.starts,
      weights: tensors.weights.map((weight) => new BillmWeight(gpu, weight)),
      multiplyVector: (
        x: Tensor,
        options: Parameters<typeof packedVectorProduct>[3],
      ) => packedVectorProduct(gpu, x, tensors, options),
      [Symbol.dispose]: () => freeGroup(gpu, tensors),
    };
    const biases = group.bias ? gpu.zeros([1, known.rows]) : undefined;
    this.weights.groups.set(op, { group: known, biases });
    for (const [i, { module }] of group.linears.entries()) {
      const bias = await this.#bias(group, i);
      if (bias) gpu.copy(bias, biases!.view(known.starts[i], bias.shape));
      this.weights.linears.set(module, { weight: known.weights[i], bias });
    }
    return true;
  }

  /** Checks what a packed linear layer is made of; its bits may be any. */
  #checkScales(name: string, { scales }: PackedOnHost): void {
    let count = 0;
    for (const scale of scales) if (!Number.isFinite(scale)) count++;
    this.stored.refuseNonFinite(`${name}.scales`, count);
  }
}

/** A linear layer that is multiplied with in BiLLM's bits. */
class BillmWeight implements Weight {
  constructor(readonly gpu: Gpu, readonly tensors: PackedWeight) {}

  get rows(): number {
    return this.tensors.rows;
  }

  get cols(): number {
    return this.tensors.cols;
  }

  multiply(x: Tensor, addends: { bias?: Tensor; residual?: Tensor } = {}): Promise<Tensor> {
    return packedProduct(this.gpu, x, this.tensors, addends);
  }

  [Symbol.dispose](): void {
    freePacked(this.gpu, this.tensors);
  }
}
