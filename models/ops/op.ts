import type { Gpu } from "../../gpu/device.ts";
import type { VectorSource } from "../../codecs/codec.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { KeyValueCache } from "../generation/kv_cache.ts";
import type { LayerWeights } from "../layer_weights.ts";
import type { PromptBatchOnGpu } from "../metrics/prompt_batch.ts";
import type { Outputs } from "../registers.ts";
import type { Rotary } from "../rotary.ts";
import type { RopeTables } from "../rope_table.ts";

/** Registers with their widths. */
export type Widths = Readonly<Record<string, number>>;

/**
 * The attention context of a batch: the length of its windows; or its prompts; or the KV cache of a
 * single text that continues. The cache's length is advanced after all layers have run.
 */
export type Window = number | PromptBatchOnGpu | KeyValueCache;

/** A tensor of a decoder layer that is used in f32, such as the weight of a norm. */
export interface LayerTensor {
	/** The name without the layer's prefix: "input_layernorm.weight". */
	name: string;
	shape: readonly number[];
	/** Added to what the checkpoint stores; nothing if absent. */
	offset?: number;
}

/** Linear layers that share an input and therefore a Hessian. */
export interface LinearGroup {
	/** The input register. */
	from: string;
	/** The width of the input. */
	cols: number;
	/** The layers, in the order of their outputs. */
	linears: readonly GroupedLinear[];
	/** Whether they have biases. */
	bias: boolean;
	/** The register that is added to each output. */
	residual?: string;
	/**
	 * The fused module of checkpoints whose tensors hold the concatenated rows of these linear layers:
	 * "self_attn.qkv_proj"; absent if each layer has its own tensors.
	 */
	fused?: string;
	/** The matrix of the fused module, if that stacks those of several groups. */
	stack?: StackedMatrix;
	/** The expert that they belong to; absent if all tokens pass through them. */
	expert?: ExpertPlace;
}

/** One of the matrices that a tensor stacks. */
export interface StackedMatrix {
	/** Its index. */
	matrix: number;
	/** The number of matrices. */
	of: number;
	/**
	 * Whether the rows of the linear layers are columns there, which take turns, as in GPT-OSS: gate, up,
	 * gate, up. Such tensors are named `fused` and `fused_bias`.
	 */
	columns?: boolean;
}

/** The place of an expert among those of a decoder layer. */
export interface ExpertPlace {
	/** Its index. */
	index: number;
	/** Experts of the layer. */
	of: number;
	/** Experts per token. */
	k: number;
	/** The register that tells the experts of a token. */
	routing: string;
}

/** A linear layer of a group. */
export interface GroupedLinear {
	/** The name in the checkpoint, or after packing if it is fused: "self_attn.q_proj". */
	module: string;
	/** Of an expert: the module with `*` in place of the expert, "mlp.experts.*.gate_proj". */
	role?: string;
	/** The register that receives its output. */
	to: string;
	/** Outputs. */
	rows: number;
}

/** The head shape of the keys and values in a KV cache. */
export interface CacheShape {
	keyValueHeads: number;
	headDim: number;
}

/** The context in which an operation runs. */
export interface OpContext {
	gpu: Gpu;
	weights: LayerWeights;
	registers: ReadonlyMap<string, Tensor>;
	window: Window;
	ropeTables: RopeTables;
}

/** A kind of operation: its registers, its weights and how it runs. */
export interface OpKind<O> {
	/** Whether it is cheap enough to recompute its output instead of storing it. */
	readonly isCheap: boolean;
	/** The registers that it reads. */
	reads(op: O): Widths;
	/** The registers that it overwrites. */
	writes(op: O): Widths;
	/** The input registers that it changes in place. */
	changes?(op: O): readonly string[];
	/** Its tensors besides those of its linear layers. */
	tensors?(op: O): readonly LayerTensor[];
	/** Adds tensors that are made of the loaded ones to the weights. */
	prepare?(op: O, weights: LayerWeights, gpu: Gpu): void;
	/** The rotary positions that it uses. */
	rotary?(op: O): Rotary | undefined;
	/** Its linear layers, which stages can quantize. */
	group?(op: O): LinearGroup;
	/** Its linear layers if it has several groups of them, each with an input of its own. */
	groups?(op: O): LinearGroup[];
	/** Its shape in a KV cache. */
	cache?(op: O): CacheShape;
	/**
	 * The input and prologue with which a group of linear layers computes this operation itself (fused);
	 * undefined if it cannot.
	 */
	source?(op: O, context: OpContext): { x: Tensor; source: VectorSource } | undefined;
	run(op: O, context: OpContext): Promise<Outputs>;
}
