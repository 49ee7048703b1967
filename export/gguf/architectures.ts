import type { ModelFacts } from "./facts.ts";
import type { MetadataValue } from "./writer.ts";

/** A family of models as llama.cpp names and computes it. */
export interface GgufArchitecture {
	/** The value of `general.architecture`. */
	readonly name: string;
	/** Names of norms in a layer that differ from {@link NORM_NAMES}. */
	readonly norms?: Readonly<Record<string, string>>;
	/**
	 * Whether neighbouring entries of a head rotate together, so that rows of q and k, which are stored for
	 * halves, change places.
	 */
	readonly rotatesNeighbours?: true;
	/** Tensors that are stored as one, by the names of their modules: q, k and v; gate and up. */
	readonly joined?: readonly { modules: readonly string[]; name: string }[];
	/** Whether an own head has to be there, or cannot be there. */
	readonly head?: "needed" | "tied";
	/**
	 * What it does with sliding windows: one layer of so many attends to all tokens, unless the file says
	 * another number. Absent if all layers attend to all tokens.
	 */
	readonly windowPeriod?: number;
	/** Whether heads have to fill the hidden width. */
	readonly isSquare?: true;
	/** Rotary scalings that need tensors of their own and that it has. */
	readonly factors?: readonly ("llama3" | "longrope")[];
	/** The activation functions of its feed-forward layers; silu if absent. */
	readonly activations?: readonly string[];
	/** Further metadata, by the key behind the architecture's name. */
	metadata?(facts: ModelFacts): Record<string, MetadataValue | undefined>;
	/** What llama.cpp computes in another way, as the end of a sentence; undefined if there is nothing. */
	problem?(facts: ModelFacts): string | undefined;
	/** What users have to know. */
	note?(facts: ModelFacts): string | undefined;
}

/** The names of tensors in a layer, by module. */
export const MODULE_NAMES: Readonly<Record<string, string>> = {
	"self_attn.q_proj": "attn_q",
	"self_attn.k_proj": "attn_k",
	"self_attn.v_proj": "attn_v",
	"self_attn.o_proj": "attn_output",
	"mlp.gate_proj": "ffn_gate",
	"mlp.up_proj": "ffn_up",
	"mlp.down_proj": "ffn_down",
	"mlp.c_fc": "ffn_up",
	"mlp.c_proj": "ffn_down",
	"attention.query_key_value": "attn_qkv",
	"attention.dense": "attn_output",
	"mlp.dense_h_to_4h": "ffn_up",
	"mlp.dense_4h_to_h": "ffn_down",
};

/** The names of norms in a layer, by module. */
export const NORM_NAMES: Readonly<Record<string, string>> = {
	"input_layernorm": "attn_norm",
	"post_attention_layernorm": "ffn_norm",
	"self_attn.q_norm": "attn_q_norm",
	"self_attn.k_norm": "attn_k_norm",
	"self_attn.q_layernorm": "attn_q_norm",
	"self_attn.k_layernorm": "attn_k_norm",
};

const NORMS_BEHIND = {
	"post_attention_layernorm": "post_attention_norm",
	"pre_feedforward_layernorm": "ffn_norm",
	"post_feedforward_layernorm": "post_ffw_norm",
};

const f32 = (value: number): MetadataValue => ({ type: "f32", value });

const LLAMA: GgufArchitecture = {
	name: "llama",
	rotatesNeighbours: true,
	factors: ["llama3", "longrope"],
};

const OLMO2: GgufArchitecture = {
	name: "olmo2",
	norms: NORMS_BEHIND,
	head: "needed",
	windowPeriod: 4,
	isSquare: true,
};

/** @param rootWidth The numbers of layers for which scores are divided by √(hidden width / heads). */
function gemma(name: string, windowPeriod: number, rootWidth: number): GgufArchitecture {
	return {
		name,
		norms: NORMS_BEHIND,
		head: "tied",
		windowPeriod,
		activations: ["gelu_pytorch_tanh"],
		metadata: ({ architecture, attentions: [{ cap }] }) => ({
			"attn_logit_softcapping": cap === undefined ? undefined : f32(cap),
			"final_logit_softcapping": architecture.logitCap === undefined
				? undefined
				: f32(architecture.logitCap),
		}),
		problem({ architecture, attentions: [{ scale, cap }], heads, headDim }) {
			const { layers, hiddenSize, logitCap, embeddingFactor = 1 } = architecture;
			const width = layers === rootWidth ? Math.floor(hiddenSize / heads) : headDim;
			if (scale !== undefined && !isClose(scale, 1 / Math.sqrt(width))) {
				return `scores are divided by √${width}, not by ${1 / scale} (query_pre_attn_scalar)`;
			}
			if (!isClose(embeddingFactor, Math.sqrt(hiddenSize))) return "embeddings have another factor";
			if (name === "gemma2") {
				if (cap === undefined) return "scores are capped, by default at 50";
				if (logitCap === undefined) return "logits are capped, by default at 30";
			} else if (cap !== undefined) return "scores are not capped";
		},
	};
}

/** The families that llama.cpp knows, by `model_type`. */
export const GGUF_ARCHITECTURES: Readonly<Record<string, GgufArchitecture>> = {
	llama: LLAMA,
	mistral: LLAMA,
	ministral: LLAMA,
	qwen2: { name: "qwen2" },
	qwen3: { name: "qwen3" },
	gemma2: gemma("gemma2", 2, 46),
	gemma3: gemma("gemma3", 6, 62),
	gemma3_text: gemma("gemma3", 6, 62),
	granite: {
		name: "granite",
		rotatesNeighbours: true,
		factors: ["llama3", "longrope"],
		metadata: ({ architecture, attentions: [{ scale }], residualFactor = 1 }) => ({
			"logit_scale": f32(1 / (architecture.logitFactor ?? 1)),
			"residual_scale": f32(residualFactor),
			"embedding_scale": f32(architecture.embeddingFactor ?? 1),
			"attention.scale": scale === undefined ? undefined : f32(scale),
		}),
	},
	phi3: {
		name: "phi3",
		joined: [
			{ modules: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], name: "attn_qkv" },
			{ modules: ["mlp.gate_proj", "mlp.up_proj"], name: "ffn_up" },
		],
		isSquare: true,
		factors: ["longrope"],
	},
	olmo2: OLMO2,
	olmo3: OLMO2,
	smollm3: {
		name: "smollm3",
		rotatesNeighbours: true,
		problem({ attentions }) {
			const isUsual = attentions.every(({ rotary }, i) => (rotary !== undefined) === (i % 4 !== 3));
			if (!isUsual) return "every fourth layer is without positions, and no other";
		},
	},
	stablelm: { name: "stablelm", head: "needed", isSquare: true },
	starcoder2: { name: "starcoder2", activations: ["gelu_pytorch_tanh"] },
	gpt_neox: {
		name: "gptneox",
		head: "needed",
		isSquare: true,
		activations: ["gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast"],
		metadata: ({ isParallel }) => ({
			"use_parallel_residual": { type: "bool", value: isParallel },
		}),
		note: ({ activation: { name } }) =>
			name === "gelu"
				? "llama.cpp computes the activation gelu by its approximation with tanh"
				: undefined,
	},
	cohere: {
		name: "command-r",
		head: "tied",
		problem({ architecture: { layers, steps } }) {
			const norms = steps(0).filter((op) => op.op === "norm").length;
			if (norms > 1 && layers < 64) return "only models of 64 layers have norms of q and k";
		},
		metadata: ({ architecture }) => ({ "logit_scale": f32(architecture.logitFactor ?? 1) }),
	},
	cohere2: {
		name: "cohere2",
		head: "tied",
		windowPeriod: 4,
		isSquare: true,
		metadata: ({ architecture }) => ({ "logit_scale": f32(architecture.logitFactor ?? 1) }),
		problem({ attentions }) {
			const isUsual = attentions.every(({ rotary, slidingWindow }) =>
				(rotary !== undefined) === (slidingWindow !== undefined)
			);
			if (!isUsual) return "layers with a window have positions, and no others";
		},
	},
};

/** Whether two numbers are equal but for the rounding of f32. */
export function isClose(a: number, b: number): boolean {
	return Math.abs(a - b) <= 1e-6 * Math.abs(b);
}
