import { UserError } from "../../base/errors.ts";
import { type ActivationName, ACTIVATIONS } from "../../gpu/kernels/elementwise/activation.ts";
import type { Rotary, RotaryScaling } from "../rotary.ts";

/** A linear layer of a decoder layer, named as in the checkpoint ("self_attn.q_proj"). */
export interface LinearStep {
  module: string;
  /** The register that receives its output. */
  to: string;
}

/**
 * One operation of a decoder layer. Registers hold activations, f32 `[tokens, width]`; "hidden" is
 * the layer's input and, in the end, its output. This description serves calibration, quantization
 * module by module and evaluation alike.
 */
export type Step =
  /** With `heads`, each head of the register is normalized on its own. */
  | { op: "norm"; module: string; from: string; to: string; heads?: number }
  /** Linear layers that share an input, hence a Hessian. */
  | { op: "linear"; from: string; linears: LinearStep[]; bias: boolean; residual?: string }
  | { op: "rope"; registers: { register: string; heads: number }[] }
  | { op: "attention"; query: string; key: string; value: string; to: string }
  | { op: "activation"; name: ActivationName; from: string; up?: string; to: string };

/** Everything about a model that its config.json says and a run must know. */
export interface Architecture {
  modelType: ModelType;
  vocabularySize: number;
  hiddenSize: number;
  /** Width of the embedding and of what the head reads; `hiddenSize` where nothing projects. */
  embeddingSize: number;
  layers: number;
  heads: number;
  keyValueHeads: number;
  headDim: number;
  /** Longest window that the model takes. */
  maxLength: number;
  /** Absent where positions are learned. */
  rotary?: Rotary;
  /** Tokens that each layer attends to, the token itself among them; undefined: all before it. */
  slidingWindows: (number | undefined)[];
  /** RMS norms have a weight, layer norms a weight and a bias. */
  norm: "rms" | "layer";
  normEpsilon: number;
  /** The operations of a decoder layer. */
  steps: Step[];
  /** Names in the checkpoint, without ".weight" and ".bias". */
  names: {
    /** What stands before the name of a module of layer i. */
    layer(i: number): string;
    embedding: string;
    /** The head has weights of its own; else it is the embedding. */
    head?: string;
    /** Learned positions and the row of position 0. */
    positions?: { name: string; offset: number };
    projectIn?: string;
    projectOut?: string;
    finalNorm?: string;
  };
}

/** The model types that {@link readArchitecture} knows. */
export const MODEL_TYPES = ["llama", "mistral", "opt", "qwen2", "qwen3"] as const;

export type ModelType = (typeof MODEL_TYPES)[number];

/** The fields of a config.json, read with checks that name the file and the field. */
class Fields {
  /** @param prefix What stands before the names of the fields in messages. */
  constructor(
    readonly json: Record<string, unknown>,
    readonly file: string,
    readonly prefix = "",
  ) {}

  /** The fields of an object that a field holds. */
  within(key: string): Fields {
    return new Fields(this.json[key] as Record<string, unknown>, this.file, `${key}.`);
  }

  fail(key: string, wanted: string): never {
    const found = this.json[key] === undefined ? "nothing" : JSON.stringify(this.json[key]);
    throw new UserError(`"${this.file}": ${this.prefix}${key} must be ${wanted}, found ${found}`);
  }

  integer(key: string, fallback?: number): number {
    const value = this.json[key] ?? fallback;
    if (!Number.isSafeInteger(value) || (value as number) < 1) {
      this.fail(key, "a whole number of at least 1");
    }
    return value as number;
  }

  count(key: string, fallback: number): number {
    const value = this.json[key] ?? fallback;
    if (!Number.isSafeInteger(value) || (value as number) < 0) {
      this.fail(key, "a whole number of at least 0");
    }
    return value as number;
  }

  number(key: string, fallback?: number): number {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "number" || !(value > 0)) this.fail(key, "a number above 0");
    return value as number;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "boolean") this.fail(key, "true or false");
    return value as boolean;
  }

  activation(key: string, fallback: ActivationName): ActivationName {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "string" || !Object.hasOwn(ACTIVATIONS, value)) {
      this.fail(key, `one of ${Object.keys(ACTIVATIONS).join(", ")}`);
    }
    return value as ActivationName;
  }
}

/**
 * Reads what a config.json describes; both its present form (`rope_parameters`) and the older one
 * (`rope_theta`, `rope_scaling`).
 *
 * @param file For messages.
 * @throws {UserError} If the model type is unknown or a field is missing, wrong or not supported.
 */
export function readArchitecture(config: Record<string, unknown>, file: string): Architecture {
  const fields = new Fields(config, file);
  const modelType = config.model_type as ModelType;
  if (!MODEL_TYPES.includes(modelType)) {
    fields.fail("model_type", `a supported one (${MODEL_TYPES.join(", ")})`);
  }
  return modelType === "opt" ? readOpt(fields) : readLlama(fields, modelType);
}

/** In what the relatives of LLaMA differ: the defaults of transformers, and what config.json lacks. */
interface LlamaKind {
  /** Where config.json says nothing. */
  keyValueHeads?: number;
  headDim?: number;
  maxLength: number;
  /** Whether q, k and v, and the output projection, have biases. */
  biases(fields: Fields): { qkv: boolean; output: boolean };
  /** q and k are normalized head by head. */
  headNorms?: boolean;
  slidingWindows?(fields: Fields, layers: number): (number | undefined)[];
}

const LLAMA_KINDS: Record<Exclude<ModelType, "opt">, LlamaKind> = {
  llama: { maxLength: 2048, biases: attentionBias },
  mistral: {
    keyValueHeads: 8,
    maxLength: 131072,
    biases: () => ({ qkv: false, output: false }),
    slidingWindows: (fields, layers) => new Array(layers).fill(slidingWindow(fields)),
  },
  qwen2: {
    keyValueHeads: 32,
    maxLength: 32768,
    biases: () => ({ qkv: true, output: false }),
    slidingWindows: qwenWindows,
  },
  qwen3: {
    keyValueHeads: 32,
    headDim: 128,
    maxLength: 32768,
    biases: attentionBias,
    headNorms: true,
    slidingWindows: qwenWindows,
  },
};

function attentionBias(fields: Fields): { qkv: boolean; output: boolean } {
  const bias = fields.boolean("attention_bias", false);
  return { qkv: bias, output: bias };
}

/** The window that config.json states, 4096 if nothing; null is none. */
function slidingWindow(fields: Fields): number | undefined {
  return fields.json.sliding_window === null ? undefined : fields.integer("sliding_window", 4096);
}

/** Qwen models say layer by layer who slides or, in the older form, from which layer on. */
function qwenWindows(fields: Fields, layers: number): (number | undefined)[] {
  const window = fields.boolean("use_sliding_window", false) ? slidingWindow(fields) : undefined;
  const types = fields.json.layer_types;
  if (types == null) {
    const first = fields.count("max_window_layers", 28);
    return Array.from({ length: layers }, (_, layer) => layer >= first ? window : undefined);
  }
  const known = ["full_attention", "sliding_attention"];
  if (
    !Array.isArray(types) || types.length !== layers || types.some((type) => !known.includes(type))
  ) {
    fields.fail("layer_types", `${layers} times one of ${known.join(", ")}`);
  }
  return types.map((type) => type === "sliding_attention" ? window : undefined);
}

function readHeads(fields: Fields, fallback: number | undefined) {
  const heads = fields.integer("num_attention_heads");
  const isNull = fields.json.num_key_value_heads === null;
  const keyValueHeads = fields.integer("num_key_value_heads", isNull ? heads : fallback ?? heads);
  if (heads % keyValueHeads) {
    fields.fail("num_key_value_heads", `a divisor of num_attention_heads, ${heads}`);
  }
  return { heads, keyValueHeads };
}

function readLlama(fields: Fields, modelType: Exclude<ModelType, "opt">): Architecture {
  const kind = LLAMA_KINDS[modelType];
  const hiddenSize = fields.integer("hidden_size");
  const layers = fields.integer("num_hidden_layers");
  const { heads, keyValueHeads } = readHeads(fields, kind.keyValueHeads);
  if (fields.json.head_dim == null && !kind.headDim && hiddenSize % heads) {
    fields.fail("hidden_size", `a multiple of num_attention_heads, ${heads}`);
  }
  const headDim = fields.integer("head_dim", kind.headDim ?? hiddenSize / heads);
  if (headDim % 2) {
    if (fields.json.head_dim != null) fields.fail("head_dim", "even");
    fields.fail("hidden_size", `an even multiple of num_attention_heads, ${heads}`);
  }
  const biases = kind.biases(fields);
  const mlpBias = modelType === "llama" && fields.boolean("mlp_bias", false);
  const qkv = ["q", "k", "v"].map((to) => ({ module: `self_attn.${to}_proj`, to }));
  const headNorms: Step[] = [["q", heads] as const, ["k", keyValueHeads] as const]
    .map(([to, heads]) => ({ op: "norm", module: `self_attn.${to}_norm`, from: to, to, heads }));
  const rotary = readRotary(fields);
  const stretch = rotary.scaling?.type === "linear" ? rotary.scaling.factor : 1;
  return {
    modelType,
    vocabularySize: fields.integer("vocab_size"),
    hiddenSize,
    embeddingSize: hiddenSize,
    layers,
    heads,
    keyValueHeads,
    headDim,
    maxLength: Math.floor(fields.integer("max_position_embeddings", kind.maxLength) * stretch),
    rotary,
    slidingWindows: kind.slidingWindows?.(fields, layers) ?? new Array(layers).fill(undefined),
    norm: "rms",
    normEpsilon: fields.number("rms_norm_eps", 1e-6),
    steps: [
      { op: "norm", module: "input_layernorm", from: "hidden", to: "x" },
      { op: "linear", from: "x", linears: qkv, bias: biases.qkv },
      ...(kind.headNorms ? headNorms : []),
      {
        op: "rope",
        registers: [{ register: "q", heads }, { register: "k", heads: keyValueHeads }],
      },
      { op: "attention", query: "q", key: "k", value: "v", to: "x" },
      {
        op: "linear",
        from: "x",
        linears: [{ module: "self_attn.o_proj", to: "hidden" }],
        bias: biases.output,
        residual: "hidden",
      },
      { op: "norm", module: "post_attention_layernorm", from: "hidden", to: "x" },
      {
        op: "linear",
        from: "x",
        linears: [{ module: "mlp.gate_proj", to: "gate" }, { module: "mlp.up_proj", to: "up" }],
        bias: mlpBias,
      },
      {
        op: "activation",
        name: fields.activation("hidden_act", "silu"),
        from: "gate",
        up: "up",
        to: "x",
      },
      {
        op: "linear",
        from: "x",
        linears: [{ module: "mlp.down_proj", to: "hidden" }],
        bias: mlpBias,
        residual: "hidden",
      },
    ],
    names: {
      layer: (i) => `model.layers.${i}.`,
      embedding: "model.embed_tokens",
      head: fields.boolean("tie_word_embeddings", false) ? undefined : "lm_head",
      finalNorm: "model.norm",
    },
  };
}

/** `rope_parameters` or, in the older form, `rope_theta` and `rope_scaling`. */
function readRotary(fields: Fields): Rotary {
  const rotary: Rotary = { theta: fields.number("rope_theta", 10000) };
  for (const key of ["rope_scaling", "rope_parameters"]) {
    const value = fields.json[key];
    if (value == null) continue;
    if (typeof value !== "object" || Array.isArray(value)) fields.fail(key, "an object");
    const inner = fields.within(key);
    rotary.theta = inner.number("rope_theta", rotary.theta);
    const scaling = readScaling(fields, inner);
    if (scaling) rotary.scaling = scaling;
  }
  return rotary;
}

function readScaling(fields: Fields, inner: Fields): RotaryScaling | undefined {
  switch (inner.json.rope_type ?? inner.json.type ?? "default") {
    case "default":
      return undefined;
    case "linear":
      return { type: "linear", factor: inner.number("factor") };
    case "llama3": {
      const longest = fields.integer("max_position_embeddings", 2048);
      const [lowTurns, highTurns] = ["low_freq_factor", "high_freq_factor"]
        .map((key) => inner.number(key));
      if (lowTurns >= highTurns) {
        inner.fail("high_freq_factor", `above low_freq_factor, ${lowTurns}`);
      }
      return {
        type: "llama3",
        factor: inner.number("factor"),
        lowTurns,
        highTurns,
        originalLength: inner.integer("original_max_position_embeddings", longest),
      };
    }
    default:
      return fields.fail(inner.prefix.slice(0, -1), "of the type default, linear or llama3");
  }
}

function readOpt(fields: Fields): Architecture {
  const hiddenSize = fields.integer("hidden_size");
  const layers = fields.integer("num_hidden_layers");
  const heads = fields.integer("num_attention_heads");
  if (hiddenSize % heads) fields.fail("hidden_size", `a multiple of num_attention_heads, ${heads}`);
  if (!fields.boolean("layer_norm_elementwise_affine", true)) {
    fields.fail("layer_norm_elementwise_affine", "true");
  }
  const normFirst = fields.boolean("do_layer_norm_before", true);
  const hasFinalNorm = normFirst && !fields.boolean("_remove_final_layer_norm", false);
  const embeddingSize = fields.integer("word_embed_proj_dim", hiddenSize);
  const projects = embeddingSize !== hiddenSize;
  const tied = fields.boolean("tie_word_embeddings", true);
  const input = normFirst ? "x" : "hidden";
  const norm = (module: string): Step => ({
    op: "norm",
    module,
    from: "hidden",
    to: normFirst ? "x" : "hidden",
  });
  const attentionNorm = norm("self_attn_layer_norm");
  const feedForwardNorm = norm("final_layer_norm");
  const bias = fields.boolean("enable_bias", true);
  const attentionSteps: Step[] = [
    {
      op: "linear",
      from: input,
      linears: ["q", "k", "v"].map((to) => ({ module: `self_attn.${to}_proj`, to })),
      bias,
    },
    { op: "attention", query: "q", key: "k", value: "v", to: "x" },
    {
      op: "linear",
      from: "x",
      linears: [{ module: "self_attn.out_proj", to: "hidden" }],
      bias,
      residual: "hidden",
    },
  ];
  const feedForwardSteps: Step[] = [
    { op: "linear", from: input, linears: [{ module: "fc1", to: "x" }], bias },
    {
      op: "activation",
      name: fields.activation("activation_function", "relu"),
      from: "x",
      to: "x",
    },
    {
      op: "linear",
      from: "x",
      linears: [{ module: "fc2", to: "hidden" }],
      bias,
      residual: "hidden",
    },
  ];
  return {
    modelType: "opt",
    vocabularySize: fields.integer("vocab_size"),
    hiddenSize,
    embeddingSize,
    layers,
    heads,
    keyValueHeads: heads,
    headDim: hiddenSize / heads,
    maxLength: fields.integer("max_position_embeddings", 2048),
    slidingWindows: new Array(layers).fill(undefined),
    norm: "layer",
    normEpsilon: 1e-5, // transformers has no option for it
    steps: normFirst
      ? [attentionNorm, ...attentionSteps, feedForwardNorm, ...feedForwardSteps]
      : [...attentionSteps, attentionNorm, ...feedForwardSteps, feedForwardNorm],
    names: {
      layer: (i) => `model.decoder.layers.${i}.`,
      embedding: "model.decoder.embed_tokens",
      head: tied ? undefined : "lm_head",
      positions: { name: "model.decoder.embed_positions", offset: 2 },
      projectIn: projects ? "model.decoder.project_in" : undefined,
      projectOut: projects ? "model.decoder.project_out" : undefined,
      finalNorm: hasFinalNorm ? "model.decoder.final_layer_norm" : undefined,
    },
  };
}

/** The norms and linear layers of a decoder layer, in the order of execution: what has weights. */
export function weightedModules(
  { steps, norm }: Architecture,
): { module: string; bias: boolean }[] {
  return steps.flatMap((step) => {
    if (step.op === "norm") return [{ module: step.module, bias: norm === "layer" }];
    if (step.op !== "linear") return [];
    return step.linears.map(({ module }) => ({ module, bias: step.bias }));
  });
}

/** The groups of linear layers of a decoder layer, in the order of execution. */
export function linearGroups(
  { steps }: Architecture,
): { step: number; modules: string[] }[] {
  return steps.flatMap((step, i) =>
    step.op === "linear" ? [{ step: i, modules: step.linears.map(({ module }) => module) }] : []
  );
}
