/** What is special about model types that are not supported. */
const SPECIAL: readonly [types: RegExp, what: string][] = [
  [
    /moe|mixtral|gpt_oss|deepseek|dbrx|jetmoe|^grok|llama4|minimax|^phimoe/,
    "its layers have experts",
  ],
  [
    /mamba|rwkv|^jamba|zamba|bamba|recurrent|^xlstm|falcon_h1|granitemoehybrid|^lfm|_next|qwen3_5|^hyena/,
    "its layers are recurrent or convolutional",
  ],
  [
    /(^|_)vl($|_)|llava|vision|idefics|pixtral|mllama|mistral3|paligemma|omni|blip|internvl|smolvlm|kosmos/,
    "it is multimodal",
  ],
  [/whisper|wav2vec|audio|musicgen|bark|speech/, "it is an audio model"],
  [/bert|electra|albert|deberta|xlm|mpnet/, "it is an encoder"],
  [/^t5|^mt5|umt5|bart|pegasus|marian|^m2m|nllb|^led$/, "it is an encoder and a decoder"],
  [/^clip|siglip|^vit|dino|swin/, "it is a vision model"],
  [/gemma3n|gemma4/, "its layers share keys and values and have embeddings of their own"],
  [/ministral3/, "its queries are scaled by position"],
];

/** What is special about a model type that is not supported; undefined if that is not known. */
export function specialOf(modelType: string): string | undefined {
  return SPECIAL.find(([types]) => types.test(modelType))?.[1];
}
