import { type ActivationName, ACTIVATIONS } from "../gpu/activation.ts";
import { UserError } from "../pipeline/errors.ts";

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
  | { op: "norm"; module: string; from: string; to: string }
  /** Linear layers that share an input, hence a Hessian. */
  | { op: "linear"; from: string; linears: LinearStep[]; bias: boolean; residual?: string }
  | { op: "rope"; registers: { register: string; heads: number }[] }
  | { op: "attention"; query: string; key: string; value: string; to: string }
  | { op: "activation"; name: ActivationName; from: string; up?: string; to: string };

/** Everything about a model that its config.json says and a run must know. */
export interface Architecture {
  modelType: "llama" | "opt";
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
  /** Base of the rotary position embedding; absent where positions are learned. */
  ropeTheta?: number;
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
export const MODEL_TYPES = ["llama", "opt"] as const;

/** The fields of a config.json, read with checks that name the file and the field. */
class Fields {
  constructor(readonly json: Record<string, unknown>, readonly file: string) {}

  fail(key: string, wanted: string): never {
    const found = this.json[key] === undefined ? "nothing" : JSON.stringify(this.json[key]);
    throw new UserError(`"${this.file}": ${key} must be ${wanted}, found ${found}`);
  }

  integer(key: string, fallback?: number): number {
    const value = this.json[key] ?? fallback;
    if (!Number.isSafeInteger(value) || (value as number) < 1) {
      this.fail(key, "a whole number of at least 1");
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
  switch (config.model_type) {
    case "llama":
      return readLlama(fields);
    case "opt":
      return readOpt(fields);
    default:
      return fields.fail("model_type", `a supported one (${MODEL_TYPES.join(", ")})`);
  }
}

function readHeads(fields: Fields, hiddenSize: number, keyValueKey?: string) {
  const heads = fields.integer("num_attention_heads");
  const keyValueHeads = keyValueKey ? fields.integer(keyValueKey, heads) : heads;
  if (heads % keyValueHeads) {
    fields.fail(keyValueKey!, `a divisor of num_attention_heads, ${heads}`);
  }
  return { heads, keyValueHeads, hiddenSize };
}

function readLlama(fields: Fields): Architecture {
  const hiddenSize = fields.integer("hidden_size");
  const { heads, keyValueHeads } = readHeads(fields, hiddenSize, "num_key_value_heads");
  if (fields.json.head_dim == null && hiddenSize % heads) {
    fields.fail("hidden_size", `a multiple of num_attention_heads, ${heads}`);
  }
  const headDim = fields.integer("head_dim", hiddenSize / heads);
  if (headDim % 2) {
    if (fields.json.head_dim != null) fields.fail("head_dim", "even");
    fields.fail("hidden_size", `an even multiple of num_attention_heads, ${heads}`);
  }
  const attentionBias = fields.boolean("attention_bias", false);
  const mlpBias = fields.boolean("mlp_bias", false);
  const qkv = ["q", "k", "v"].map((to) => ({ module: `self_attn.${to}_proj`, to }));
  return {
    modelType: "llama",
    vocabularySize: fields.integer("vocab_size"),
    hiddenSize,
    embeddingSize: hiddenSize,
    layers: fields.integer("num_hidden_layers"),
    heads,
    keyValueHeads,
    headDim,
    maxLength: fields.integer("max_position_embeddings", 2048),
    ropeTheta: readRopeTheta(fields),
    norm: "rms",
    normEpsilon: fields.number("rms_norm_eps", 1e-6),
    steps: [
      { op: "norm", module: "input_layernorm", from: "hidden", to: "x" },
      { op: "linear", from: "x", linears: qkv, bias: attentionBias },
      {
        op: "rope",
        registers: [{ register: "q", heads }, { register: "k", heads: keyValueHeads }],
      },
      { op: "attention", query: "q", key: "k", value: "v", to: "x" },
      {
        op: "linear",
        from: "x",
        linears: [{ module: "self_attn.o_proj", to: "hidden" }],
        bias: attentionBias,
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

function readRopeTheta(fields: Fields): number {
  let theta = fields.number("rope_theta", 10000);
  for (const key of ["rope_scaling", "rope_parameters"]) {
    const value = fields.json[key];
    if (value == null) continue;
    if (typeof value !== "object" || Array.isArray(value)) fields.fail(key, "an object");
    const { rope_type, type, rope_theta } = value as Record<string, unknown>;
    if ((rope_type ?? type ?? "default") !== "default") {
      fields.fail(key, `of type "default" (scaled position embeddings are not supported)`);
    }
    const inner = `${key}.rope_theta`;
    theta = new Fields({ [inner]: rope_theta }, fields.file).number(inner, theta);
  }
  return theta;
}

function readOpt(fields: Fields): Architecture {
  const hiddenSize = fields.integer("hidden_size");
  const { heads } = readHeads(fields, hiddenSize);
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
    layers: fields.integer("num_hidden_layers"),
    heads,
    keyValueHeads: heads,
    headDim: hiddenSize / heads,
    maxLength: fields.integer("max_position_embeddings", 2048),
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

/** The groups of linear layers of a decoder layer, in the order of execution. */
export function linearGroups(
  { steps }: Architecture,
): { step: number; modules: string[] }[] {
  return steps.flatMap((step, i) =>
    step.op === "linear" ? [{ step: i, modules: step.linears.map(({ module }) => module) }] : []
  );
}
