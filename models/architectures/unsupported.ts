/** What is special about models that are not supported, by their model types and fields of config.json. */
const SPECIAL: readonly { types: RegExp; fields: readonly string[]; what: string }[] = [
  {
    types: /_vl($|_)|vlm|llava|vision|idefics|pixtral|mllama|mistral3|paligemma|omni|blip|kosmos/,
    fields: ["vision_config", "audio_config"],
    what: "it is multimodal",
  },
  {
    types: /mamba|rwkv|jamba|zamba|bamba|recurrent|xlstm|falcon_h1|hybrid|lfm|_next|qwen3_5|hyena/,
    fields: ["ssm_cfg", "ssm_state_size", "mamba_d_state", "linear_conv_kernel_dim"],
    what: "its layers are recurrent or convolutional",
  },
  {
    types: /moe|mixtral|gpt_oss|deepseek|dbrx|grok|llama4|minimax/,
    fields: ["num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"],
    what: "its layers have experts of another kind",
  },
  { types: /whisper|wav2vec|audio|musicgen|speech/, fields: [], what: "it is an audio model" },
  { types: /bert|electra|deberta|xlm|mpnet/, fields: [], what: "it is an encoder" },
  {
    types: /^u?m?t5|bart|pegasus|marian|^m2m|nllb|^led$/,
    fields: [],
    what: "it is an encoder and a decoder",
  },
  { types: /clip|siglip|^vit|dino|swin/, fields: [], what: "it is a vision model" },
  {
    types: /gemma3n|gemma4/,
    fields: [],
    what: "its layers share keys and values and have embeddings of their own",
  },
  { types: /ministral3/, fields: [], what: "its queries are scaled by position" },
];

/**
 * What is special about a model that is not supported; undefined if that is not known.
 *
 * @param config The content of config.json.
 */
export function specialOf(config: Record<string, unknown>): string | undefined {
  const type = typeof config.model_type === "string" ? config.model_type : "";
  // The name says more than fields that several kinds have.
  const found = SPECIAL.find(({ types }) => types.test(type)) ??
    SPECIAL.find(({ fields }) => fields.some((field) => config[field] != null));
  return found?.what;
}
