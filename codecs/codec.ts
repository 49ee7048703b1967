import type { Gpu } from "../gpu/device.ts";
import type { ActivationName } from "../gpu/kernels/elementwise/activation.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Checkpoint } from "../storage/checkpoint.ts";
import type { TensorToWrite } from "../storage/safetensors.ts";

/** What config.json says of a packed linear layer; the rows are those of its tensors. */
export interface PackedShape {
  cols: number;
  /** Columns that share scales, of methods that work on blocks of columns. */
  blockSize: number;
}

/** How the parts of a packed linear layer are stored where there is a choice. */
export interface StoreForm {
  /** Means and scales of BiLLM's bits in f16, or in 8 or 4 bits with factors for each row. */
  scales: "f16" | "i8" | "i4";
  /** "entropy" takes as many bits as the flags, or which weights are salient, hold information. */
  flags: "plain" | "entropy";
}

/** A linear layer in host memory, as its codec reads and writes it. */
export interface HostLinear {
  rows: number;
  cols: number;
}

/** What a run's record says of a packed linear layer, by the keys that it has there. */
export interface LinearFacts {
  /** Bits per weight as papers count: without scales and without what says where they apply. */
  paperBits: number;
  /** Salient columns of each block; none in a codec without salient columns. */
  salientColumns: number[];
  /** Fraction of the weights that are salient; absent in a codec without salient weights. */
  salientFraction?: number;
  /** Fraction of the other weights in the high zone; 0 in a codec without zones. */
  highFraction: number;
}

/** A fact that has a column in tables of linear layers. */
export interface FactColumn {
  key: string;
  heading: string;
  value(facts: LinearFacts): number;
  text(value: number): string;
  /** How the values of several linear layers become one: their sum, or their mean over all weights. */
  together: "sum" | "mean";
}

/** A fact that a report draws by decoder layer and module. */
export interface FactMap {
  /** "Salient columns" */
  title: string;
  /** What the part is of which a report gives the size: "The part of a linear layer's columns that ..." */
  about: string;
  /** The part, from 0 to 1; nothing is drawn if it is 0 everywhere. */
  value(linear: LinearFacts & { cols: number }): number;
  /** The columns that the part is made of, where it is made of columns. */
  columns?(facts: LinearFacts): number;
}

/** What weights of a linear layer were taken for. */
export type WeightKind = "low" | "high" | "salient" | "all";

/**
 * How a packed linear layer lies in a file, in host memory and on the GPU. A method (a stage) chooses
 * values; a codec stores them and multiplies with them.
 */
export interface Codec<Host extends HostLinear = HostLinear> {
  /** "billm", "grid" */
  readonly name: string;
  /** The tensor that each linear layer of this codec has, with a row for each of its rows: "signs". */
  readonly main: string;
  /** The first version of the packed format that has this codec. */
  readonly since: number;
  /** What each tensor of a linear layer, by the last word of its name, is called in tables. */
  readonly parts: Readonly<Record<string, string>>;
  /** Parts that are named even where they take nothing. */
  readonly usualParts: readonly string[];
  /** Columns of sizes in tables, each with the parts that it adds up. */
  readonly sizeColumns: Readonly<Record<string, readonly string[]>>;
  readonly factColumns: readonly FactColumn[];
  readonly factMaps: readonly FactMap[];

  /**
   * Reads a linear layer.
   *
   * @param name Without the last words of its tensors: "model.layers.0.self_attn.q_proj".
   * @throws {UserError} If a tensor is missing or has a shape that does not fit the others, or another
   *   type.
   */
  load(checkpoint: Checkpoint, name: string, shape: PackedShape): Host;
  /** The tensors that store a linear layer, NAME.signs and so on. */
  store(name: string, host: Host, form: StoreForm): TensorToWrite[];
  /**
   * The weights that a linear layer stands for, or `rows` rows of them from `first` on, f32
   * `[rows, cols]`; the very bits that {@link Codec.matrix} gives on the GPU.
   */
  dequantize(host: Host, first?: number, rows?: number): Float32Array<ArrayBuffer>;
  facts(host: Host): LinearFacts;
  /** Tensors whose values are not all finite, by the last word of their names, with how many are not. */
  nonFinite(host: Host): Record<string, number>;
  /** What the weights of a row were taken for; "all" for each, if absent. */
  kinds?(host: Host, row: number): WeightKind[];
  /** The weights that a linear layer stands for, f32 `[rows, cols]` on the GPU, owned by the caller. */
  matrix(gpu: Gpu, host: Host): Promise<Tensor>;
  /** A linear layer to multiply with; it is a matrix where the codec has no product of its own. */
  upload(gpu: Gpu, host: Host): Promise<Weight>;
  /** Whether {@link Codec.uploadGroup} may make a group on this adapter, before anything is read. */
  groups?(gpu: Gpu, blockSize: number): boolean;
  /** Linear layers of one input as one; undefined if these do not go together. */
  uploadGroup?(gpu: Gpu, hosts: readonly Host[]): Promise<WeightGroup | undefined>;
}

/** What is added to a product: bias f32 `[rows]`, residual f32 `[tokens, rows]`. */
export interface Addends {
  bias?: Tensor;
  residual?: Tensor;
}

/** The weight of a linear layer on the GPU. */
export interface Weight extends Disposable {
  readonly rows: number;
  readonly cols: number;
  /**
   * x · weightᵀ (+ bias) (+ residual), for one token and for many.
   *
   * @param x f32 `[tokens, cols]`.
   * @returns f32 `[tokens, rows]`, owned by the caller.
   * @throws {RangeError} If x does not fit.
   */
  multiply(x: Tensor, addends?: Addends): Promise<Tensor>;
}

/** What is multiplied in place of a vector itself, made of it on the way. */
export type VectorSource =
  /** Its RMS norm. */
  | { op: "rms"; weight: Tensor; epsilon: number }
  /** An activation function of it; with `up`, of its first half times its second half, which begins there. */
  | { op: "activation"; name: ActivationName; up?: number };

/** Linear layers of one input that are multiplied with a vector at once; disposing of it frees them all. */
export interface WeightGroup extends Disposable {
  /** From the first row of the first layer to the last row of the last one. */
  readonly rows: number;
  /** The row where each layer begins. */
  readonly starts: readonly number[];
  /** The layers one by one, views of what the group owns. */
  readonly weights: readonly Weight[];
  /**
   * The product of one vector with each linear layer.
   *
   * @param x f32 `[1, cols]`, or with a second half `[1, up + cols]`.
   * @param options Bias and residual are f32 `[1, rows]`.
   * @returns f32 `[1, rows]`, owned by the caller; the layers' products begin at `starts`.
   * @throws {RangeError} If x does not fit.
   */
  multiplyVector(x: Tensor, options?: Addends & { source?: VectorSource }): Promise<Tensor>;
}

/** A linear layer on the GPU while stages quantize it, on its way to the file. */
export interface Draft<Host extends HostLinear = HostLinear> extends Disposable {
  readonly codec: Codec<Host>;
  /**
   * Brings it to host memory.
   *
   * @param form Where it rounds what is stored, `quantized` receives the weights as they are then.
   * @param quantized The weights that the draft stands for, f32 `[rows, cols]`.
   */
  download(form: StoreForm, quantized: Tensor): Promise<Host>;
}

/** A linear layer in host memory with the codec that understands it. */
export interface PackedLinear<Host extends HostLinear = HostLinear> {
  codec: Codec<Host>;
  host: Host;
}
