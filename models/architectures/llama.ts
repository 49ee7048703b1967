import type { Op } from "../ops/mod.ts";
import type { NormOp } from "../ops/norm.ts";
import type { Architecture, ArchitectureFamily } from "./architecture.ts";
import type { Fields } from "./fields.ts";
import { readHeads } from "./heads.ts";
import { readRotary } from "./rotary_fields.ts";

export const llama: ArchitectureFamily = {
  read: (fields) =>
    readLlama(fields, {
      intermediateSize: 11008,
      maxLength: 2048,
      biases: { ...attentionBias(fields), mlp: fields.boolean("mlp_bias", false) },
    }),
};

/**
 * The differences of a LLaMA variant: the defaults of transformers, and facts that config.json lacks.
 */
export interface LlamaKind {
  /** The default number of key-value heads. */
  keyValueHeads?: number;
  headDim?: number;
  intermediateSize: number;
  maxLength: number;
  /**
   * Which of q, k and v, the output projection, and the feed-forward layers have biases; none if
   * absent.
   */
  biases?: { qkv?: boolean; output?: boolean; mlp?: boolean };
  /** Whether q and k are normalized per head. */
  headNorms?: boolean;
  /** The sliding window of each layer; no layer has one if absent. */
  slidingWindows?(layers: number): (number | undefined)[];
  /** Whether a layer has rotary positions; all layers have them if absent. */
  hasPositions?(layer: number): boolean;
  /** The modules of fused q, k and v, or gate and up, if checkpoints fuse them. */
  fused?: { qkv?: string; gateUp?: string };
}

/** The biases of the attention projections by `attention_bias`. */
export function attentionBias(fields: Fields): { qkv: boolean; output: boolean } {
  const bias = fields.boolean("attention_bias", false);
  return { qkv: bias, output: bias };
}

/** Reads a LLaMA variant: norm, attention, norm, gated feed-forward. */
export function readLlama(fields: Fields, kind: LlamaKind): Omit<Architecture, "modelType"> {
  const hiddenSize = fields.integer("hidden_size");
  const layers = fields.layers("num_hidden_layers");
  const { heads, keyValueHeads } = readHeads(fields, kind.keyValueHeads);
  if (fields.json.head_dim == null && !kind.headDim && hiddenSize % heads) {
    fields.fail("hidden_size", `a multiple of num_attention_heads, ${heads}`);
  }
  const headDim = fields.integer("head_dim", kind.headDim ?? hiddenSize / heads);
  if (headDim % 2) {
    if (fields.json.head_dim != null) fields.fail("head_dim", "even");
    fields.fail("hidden_size", `an even multiple of num_attention_heads, ${heads}`);
  }
  const { qkv = false, output = false, mlp = false } = kind.biases ?? {};
  const slidingWindows = kind.slidingWindows?.(layers);
  const rotary = readRotary(fields, headDim);
  const stretch = rotary.scaling?.type === "linear" ? rotary.scaling.factor : 1;
  const positions = Math.floor(fields.integer("max_position_embeddings", kind.maxLength) * stretch);
  const inner = fields.integer("intermediate_size", kind.intermediateSize);
  const activation = fields.activation("hidden_act", "silu");
  const epsilon = fields.number("rms_norm_eps", 1e-6);
  const norm = (module: string): NormOp => (
    { op: "norm", kind: "rms", module, from: "hidden", to: "x", width: hiddenSize, epsilon }
  );
  const headNorm = (to: "q" | "k", heads: number): NormOp => ({
    ...norm(`self_attn.${to}_norm`),
    from: to,
    to,
    width: headDim,
    heads,
  });
  const rope: Op = {
    op: "rope",
    registers: [{ register: "q", heads }, { register: "k", heads: keyValueHeads }],
    rotary,
  };
  const hasPositions = kind.hasPositions ?? (() => true);
  const steps = (layer: number): Op[] => [
    norm("input_layernorm"),
    {
      op: "linear",
      from: "x",
      cols: hiddenSize,
      linears: [
        { module: "self_attn.q_proj", to: "q", rows: heads * headDim },
        { module: "self_attn.k_proj", to: "k", rows: keyValueHeads * headDim },
        { module: "self_attn.v_proj", to: "v", rows: keyValueHeads * headDim },
      ],
      bias: qkv,
      fused: kind.fused?.qkv,
    },
    ...(kind.headNorms ? [headNorm("q", heads), headNorm("k", keyValueHeads)] : []),
    ...(hasPositions(layer) ? [rope] : []),
    {
      op: "attention",
      query: "q",
      key: "k",
      value: "v",
      to: "x",
      heads,
      keyValueHeads,
      headDim,
      slidingWindow: slidingWindows?.[layer],
      rotary: hasPositions(layer) ? rotary : undefined,
    },
    {
      op: "linear",
      from: "x",
      cols: heads * headDim,
      linears: [{ module: "self_attn.o_proj", to: "hidden", rows: hiddenSize }],
      bias: output,
      residual: "hidden",
    },
    norm("post_attention_layernorm"),
    {
      op: "linear",
      from: "x",
      cols: hiddenSize,
      linears: [
        { module: "mlp.gate_proj", to: "gate", rows: inner },
        { module: "mlp.up_proj", to: "up", rows: inner },
      ],
      bias: mlp,
      fused: kind.fused?.gateUp,
    },
    { op: "activation", name: activation, from: "gate", up: "up", to: "x", width: inner },
    {
      op: "linear",
      from: "x",
      cols: inner,
      linears: [{ module: "mlp.down_proj", to: "hidden", rows: hiddenSize }],
      bias: mlp,
      residual: "hidden",
    },
  ];
  return {
    vocabularySize: fields.integer("vocab_size"),
    hiddenSize,
    embeddingSize: hiddenSize,
    layers,
    maxLength: Math.max(1, Math.min(positions, 2 ** 31 - 1)),
    steps,
    finalNorm: { ...norm("model.norm"), to: "hidden" },
    names: {
      layer: (i) => `model.layers.${i}.`,
      embedding: "model.embed_tokens",
      head: fields.boolean("tie_word_embeddings", false) ? undefined : "lm_head",
    },
  };
}
