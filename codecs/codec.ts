import type { Gpu } from "../gpu/device.ts";
import type { SharedFactor } from "../gpu/kernels/matmul/gemm.ts";
import type { InputTransform } from "../gpu/kernels/rotation/rotation.ts";
import type { VectorSource } from "../gpu/kernels/vector_source.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Checkpoint } from "../storage/checkpoint.ts";
import type { TensorToWrite } from "../storage/safetensors.ts";
import type { EqualSteps, NoEqualSteps } from "./equal_steps.ts";

/** The shape of a packed linear layer as config.json states it; its tensors give the rows. */
export interface PackedShape {
	/** Columns of the linear layer. */
	cols: number;
	/** Columns that share scales, of methods that work on blocks of columns. */
	blockSize: number;
}

/** The storage options of a packed linear layer. */
export interface StoreForm {
	/** The format of BiLLM's means and scales: f16, or 8-bit or 4-bit codes with two factors per row. */
	scales: "f16" | "i8" | "i4";
	/**
	 * "entropy" entropy-codes the zone flags, or the mask of salient weights; "plain" stores one bit
	 * each.
	 */
	flags: "plain" | "entropy";
}

/** A linear layer in host memory, in the form that its codec reads and writes. */
export interface HostLinear {
	/** Rows of the weight: outputs. */
	rows: number;
	/** Columns of the weight: inputs. */
	cols: number;
}

/** The statistics of a packed linear layer in a run's record, under the record's keys. */
export interface LinearFacts {
	/** Bits per weight as papers count them: without scales, masks and flags. */
	paperBits: number;
	/** Number of salient columns of each block; empty for a codec without salient columns. */
	salientColumns: number[];
	/** Fraction of the weights that are salient; absent for a codec without salient weights. */
	salientFraction?: number;
	/** Fraction of the remaining weights that are in the high zone; 0 for a codec without zones. */
	highFraction: number;
}

/** A column in tables of linear layers, computed from their facts. */
export interface FactColumn {
	/** Its key in JSON. */
	key: string;
	/** Its heading. */
	heading: string;
	/** The value of a linear layer. */
	value(facts: LinearFacts): number;
	/** A value as text. */
	text(value: number): string;
	/** How the values of several linear layers are aggregated: summed, or averaged over all weights. */
	together: "sum" | "mean";
}

/** A heat map in the report: one fraction per decoder layer and module. */
export interface FactMap {
	/** "Salient columns" */
	title: string;
	/** What the fraction measures: "The part of a linear layer's columns that ..." */
	about: string;
	/** The fraction, 0 .. 1; nothing is drawn if it is 0 everywhere. */
	value(linear: LinearFacts & { cols: number }): number;
	/** The number of columns behind the fraction, where it counts columns. */
	columns?(facts: LinearFacts): number;
}

/** The class that the quantization method assigned to a weight. */
export type WeightKind = "low" | "high" | "salient" | "all";

/**
 * A storage format for linear layers: in a file, in host memory and on the GPU. A method (a stage)
 * chooses the values; a codec stores them and multiplies with them.
 */
export interface Codec<Host extends HostLinear = HostLinear> {
	/** "billm", "grid" */
	readonly name: string;
	/** The suffix of the tensor that every linear layer of this codec has: "signs". */
	readonly main: string;
	/** The suffix of the tensor whose first dimension is the layer's rows; `main` if absent. */
	readonly rowsPart?: string;
	/** The first version of the packed format that supports this codec. */
	readonly since: number;
	/** The first version that supports a part, by the suffix of its tensor, where that is later. */
	readonly sinceParts?: Readonly<Record<string, number>>;
	/** The label in tables of each tensor of a linear layer, by the suffix of the tensor's name. */
	readonly parts: Readonly<Record<string, string>>;
	/** Parts that tables list even if they take no bytes. */
	readonly usualParts: readonly string[];
	/** Size columns in tables, each with the parts that it sums. */
	readonly sizeColumns: Readonly<Record<string, readonly string[]>>;
	/** Columns of `inspect`. */
	readonly factColumns: readonly FactColumn[];
	/** Heat maps of the report. */
	readonly factMaps: readonly FactMap[];

	/**
	 * Loads a linear layer from a checkpoint.
	 *
	 * @param name The layer's name, without tensor suffixes: "model.layers.0.self_attn.q_proj".
	 * @throws {UserError} If a tensor is missing, has an unexpected dtype, or its shape does not match the
	 *   others.
	 */
	load(checkpoint: Checkpoint, name: string, shape: PackedShape): Host;
	/** The tensors that store a linear layer: NAME.signs and so on. */
	store(name: string, host: Host, form: StoreForm): TensorToWrite[];
	/**
	 * The dequantized weights of a linear layer, or `rows` rows of them from row `first`, f32
	 * `[rows, cols]`; bit-identical to {@link Codec.matrix} on the GPU.
	 */
	dequantize(host: Host, first?: number, rows?: number): Float32Array<ArrayBuffer>;
	/** The statistics of a linear layer. */
	facts(host: Host): LinearFacts;
	/**
	 * The number of values of each tensor that are NaN or infinite when stored, by the suffix of its name;
	 * tensors without any may be left out.
	 */
	nonFinite(host: Host): Record<string, number>;
	/** The class of each weight of a row; all are "all" if absent. */
	kinds?(host: Host, row: number): WeightKind[];
	/** A linear layer as codes on equal steps, for exports; no linear layer has that form if absent. */
	equalSteps?(host: Host): EqualSteps | NoEqualSteps;
	/** The dequantized weights of a linear layer on the GPU, f32 `[rows, cols]`, owned by the caller. */
	matrix(gpu: Gpu, host: Host): Promise<Tensor>;
	/**
	 * Uploads a linear layer for multiplication: packed, or as a dense matrix if the codec has no kernel
	 * of its own.
	 */
	upload(gpu: Gpu, host: Host): Promise<Weight>;
	/** Whether this adapter supports {@link Codec.uploadGroup}; asked before anything is read. */
	groups?(gpu: Gpu, blockSize: number): boolean;
	/**
	 * What linear layers of experts must have in common so that {@link Codec.uploadExperts} can stack them;
	 * undefined for one that it cannot take.
	 */
	expertKind?(gpu: Gpu, host: Host): string | undefined;
	/** Uploads linear layers of experts of one kind and shape for multiplication, one above the other. */
	uploadExperts?(gpu: Gpu, hosts: readonly Host[]): Promise<StackedWeights>;
	/** Uploads linear layers that share an input as a group; undefined if their layouts differ. */
	uploadGroup?(gpu: Gpu, hosts: readonly Host[]): Promise<WeightGroup | undefined>;
}

/** Terms added to a product: bias f32 `[rows]`, residual f32 `[tokens, rows]`. */
export interface Addends {
	/** f32 `[rows]`. */
	bias?: Tensor;
	/** f32 `[tokens, rows]`. */
	residual?: Tensor;
	/** @internal Keeps the rounded input for further products with it, on tensor cores. */
	shared?: SharedFactor;
}

/** The weight of a linear layer on the GPU. */
export interface Weight extends Disposable {
	/** Outputs. */
	readonly rows: number;
	/** Inputs. */
	readonly cols: number;
	/**
	 * x · weightᵀ (+ bias) (+ residual), for one token and for many.
	 *
	 * @param x f32 `[tokens, cols]`.
	 * @returns f32 `[tokens, rows]`, owned by the caller.
	 * @throws {RangeError} If the shape of x does not match.
	 */
	multiply(x: Tensor, addends?: Addends): Promise<Tensor>;
}

export type { InputTransform, VectorSource };

/** What a product with one vector includes: first the source, then the transform, at last the addends. */
export interface VectorOptions extends Addends {
	/** Where the vector comes from; x itself if absent. */
	source?: VectorSource;
	/** A transform of the input that {@link WeightGroup.transforms} allows. */
	transform?: InputTransform;
}

/**
 * Linear layers that share an input and are multiplied in one dispatch; disposing of it frees them
 * all.
 */
export interface WeightGroup extends Disposable {
	/** Rows of the product, from the first row of the first layer to the last row of the last one. */
	readonly rows: number;
	/** The first row of each layer. */
	readonly starts: readonly number[];
	/** The individual layers, as views of the group's tensors. */
	readonly weights: readonly Weight[];
	/** Whether {@link WeightGroup.multiplyVector} can transform its input in this way; it cannot if absent. */
	transforms?(transform: InputTransform): boolean;
	/**
	 * The product of one vector with each linear layer.
	 *
	 * @param x f32 `[1, cols]`, or `[1, up + cols]` for a gated activation.
	 * @param options Bias and residual are f32 `[1, rows]`.
	 * @returns f32 `[1, rows]`, owned by the caller; the layers' products begin at `starts`.
	 * @throws {RangeError} If the shape of x does not match.
	 */
	multiplyVector(x: Tensor, options?: VectorOptions): Promise<Tensor>;
}

/** Linear layers of one shape, one above the other, of which a table says which one a vector passes through. */
export interface StackedWeights extends Disposable {
	/** Outputs of each layer. */
	readonly rows: number;
	/** Inputs of each layer. */
	readonly cols: number;
	/**
	 * Queues the products of vectors with the linear layers of their experts, in one dispatch.
	 *
	 * @param x f32 `[vectors, cols]`, or one vector for every `perRow` of them.
	 * @param choice What vector `i` passes through: `places[routing[i]]`, or nothing if that is 0xffffffff.
	 * @param y Receives them, f32 `[vectors, rows]`.
	 */
	multiplyVectors(x: Tensor, choice: StackChoice, y: Tensor, bias?: Tensor): Promise<void>;
	/** Queues the dequantized weights of one of them into `out`, f32 `[rows, cols]`. */
	unpack(place: number, out: Tensor): Promise<void>;
}

/** Which of {@link StackedWeights} vectors pass through. */
export interface StackChoice {
	/** The experts of each token, then their weights, f32 `[tokens, 2 k]`. */
	routing: Tensor;
	/** The place of each expert in the stack, u32 `[experts]`. */
	places: Tensor;
	/** Vectors in all. */
	vectors: number;
	/** Vectors that share a row of x: 1 or k. */
	perRow: number;
}

/** The arguments of {@link Draft.search}. Matrices are f32. */
export interface SearchArguments {
	/** W, `[rows, cols]`. */
	target: Tensor;
	/** H, damped, symmetric, `[cols, cols]`. */
	hessian: Tensor;
	/** Q, the dequantized values of the draft, `[rows, cols]`; updated. */
	quantized: Tensor;
	/** Rounds of tabu search. */
	rounds: number;
	/** Moves of a round per column. */
	moves: number;
	/** Called between steps that may take long. */
	pause?: () => Promise<void>;
}

/** A linear layer on the GPU while stages quantize it, before it is downloaded and stored. */
export interface Draft<Host extends HostLinear = HostLinear> extends Disposable {
	/** The codec that will store it. */
	readonly codec: Codec<Host>;
	/**
	 * Downloads the layer.
	 *
	 * @param form The storage form. If it rounds stored values, `quantized` is updated to match.
	 * @param quantized The dequantized weights of the draft, f32 `[rows, cols]`.
	 */
	download(form: StoreForm, quantized: Tensor): Promise<Host>;
	/**
	 * Searches better bits of whole rows in the loss tr(E H Eᵀ), E = W - Q, with fixed scales; absent if
	 * the codec has no search of this kind.
	 */
	search?(search: SearchArguments): Promise<void>;
}

/** A linear layer in host memory with its codec. */
export interface PackedLinear<Host extends HostLinear = HostLinear> {
	/** Its codec. */
	codec: Codec<Host>;
	/** The layer in the form of its codec. */
	host: Host;
	/** What the input goes through before the product: the codec's weights are those of W~. */
	transform?: InputTransform;
}
