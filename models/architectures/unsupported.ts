/** What is special about models that are not supported, by their model types and fields of config.json. */
const SPECIAL: readonly { types: RegExp; fields?: readonly string[]; what: string }[] = [
	// Families whose names would match a more general entry below.
	{
		types: /^gemma3n|^gemma4/,
		what: "its layers share keys and values and have embeddings of their own",
	},
	{
		types: /^qwen3_next|^qwen3_5|^kimi_linear|^olmo_hybrid/,
		what: "most of its layers have linear attention with a recurrent state (gated delta rule)",
	},
	{
		types: /^(?:granitemoehybrid|bamba|jamba|zamba|falcon_h1|nemotron_h)/,
		what: "most of its layers are state-space models (Mamba) beside those with attention",
	},
	{ types: /mamba/, what: "its layers are state-space models (Mamba) without attention" },
	{ types: /rwkv/, what: "its layers are recurrent (RWKV) without attention" },
	{
		types: /deepseek_v[23]|kimi_k|longcat|glm4_moe_lite|minicpm3/,
		what: "it has latent attention (MLA): keys and values are products of a smaller matrix",
	},
	{ types: /^ministral3/, what: "its queries are scaled by position" },
	{ types: /^llama4/, what: "its attention is chunked, and some queries are scaled by position" },
	{
		types: /_vl($|_)|vlm|llava|vision|idefics|pixtral|mllama|mistral3|paligemma|omni|blip|kosmos/,
		fields: ["vision_config", "audio_config"],
		what: "it is multimodal",
	},
	{
		types: /recurrent|xlstm|hybrid|lfm|_next|hyena/,
		fields: ["ssm_cfg", "ssm_state_size", "mamba_d_state", "linear_conv_kernel_dim"],
		what: "its layers are recurrent or convolutional",
	},
	{
		types: /moe|deepseek|dbrx|grok|minimax/,
		fields: ["num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"],
		what: "its layers have experts of a kind that is not supported",
	},
	{ types: /whisper|wav2vec|audio|musicgen|speech/, what: "it is an audio model" },
	{ types: /bert|electra|deberta|xlm|mpnet/, what: "it is an encoder" },
	{ types: /^u?m?t5|bart|pegasus|marian|^m2m|nllb|^led$/, what: "it is an encoder and a decoder" },
	{ types: /clip|siglip|^vit|dino|swin/, what: "it is a vision model" },
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
		SPECIAL.find(({ fields = [] }) => fields.some((field) => config[field] != null));
	return found?.what;
}
