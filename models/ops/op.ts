import type { Gpu } from "../../gpu/device.ts";
import type { VectorSource } from "../../codecs/codec.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { KeyValueCache } from "../generation/kv_cache.ts";
import type { LayerWeights } from "../layer_weights.ts";
import type { PromptBatchOnGpu } from "../metrics/prompt_batch.ts";
import type { Outputs } from "../registers.ts";
import type { RopeTables } from "../rope_table.ts";

/** Registers with their widths. */
export type Widths = Readonly<Record<string, number>>;

/**
 * What tokens attend to: windows of so many tokens; or the prompts that the tokens are; or the cache of
 * a single window that goes on, whose length stays until all layers have run.
 */
export type Window = number | PromptBatchOnGpu | KeyValueCache;

/** A tensor of a decoder layer that is used as f32: of a norm, for example. */
export interface LayerTensor {
  /** Without the layer's prefix: "input_layernorm.weight". */
  name: string;
  shape: readonly number[];
}

/** Linear layers that share an input, hence a Hessian. */
export interface LinearGroup {
  /** The register that is their input. */
  from: string;
  /** Its width. */
  cols: number;
  linears: readonly GroupedLinear[];
  bias: boolean;
  /** A register that is added to each output. */
  residual?: string;
  /**
   * The module whose tensors hold the rows of all these linear layers, one after the other, in
   * checkpoints: "self_attn.qkv_proj"; absent where each has tensors of its own.
   */
  fused?: string;
}

/** A linear layer of a group. */
export interface GroupedLinear {
  /** As in the checkpoint, or what it is called once it is packed: "self_attn.q_proj". */
  module: string;
  /** The register that receives its output. */
  to: string;
  rows: number;
}

/** Heads of the keys and values that a cache keeps. */
export interface CacheShape {
  keyValueHeads: number;
  headDim: number;
}

/** What an operation runs with. */
export interface OpContext {
  gpu: Gpu;
  weights: LayerWeights;
  registers: ReadonlyMap<string, Tensor>;
  window: Window;
  ropeTables: RopeTables;
}

/** A kind of operations: all that is known of it. */
export interface OpKind<O> {
  /** Whether it takes so little that it is computed again rather than its output kept. */
  readonly isCheap: boolean;
  /** The registers that it reads. */
  reads(op: O): Widths;
  /** The registers that it writes anew. */
  writes(op: O): Widths;
  /** The registers that it changes in place, of those that it reads. */
  changes?(op: O): readonly string[];
  /** The tensors that it needs, besides those of its linear layers. */
  tensors?(op: O): readonly LayerTensor[];
  /** Its linear layers, which stages may quantize. */
  group?(op: O): LinearGroup;
  /** What it keeps of each token in a cache. */
  cache?(op: O): CacheShape;
  /**
   * What a group multiplies in place of this operation's output, which it makes on the way; undefined
   * where it cannot.
   */
  source?(op: O, context: OpContext): { x: Tensor; source: VectorSource } | undefined;
  run(op: O, context: OpContext): Promise<Outputs>;
}
