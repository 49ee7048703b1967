import type { Op } from "../ops/mod.ts";
import type { NormOp } from "../ops/norm.ts";
import type { Rotary } from "../rotary.ts";
import type { Architecture, ArchitectureFamily } from "./architecture.ts";
import { type ExpertsKind, expertSteps } from "./experts.ts";
import type { Fields } from "./fields.ts";
import { readHeads } from "./heads.ts";
import { readRotary, type RotaryDefaults, scaledLength } from "./rotary_fields.ts";
import type { SlidingWindows } from "./sliding_windows.ts";

export const llama: ArchitectureFamily = {
	models: "LLaMA 1 to 3, Vicuna and other descendants",
	features: "biases",
	read: (fields) =>
		readLlama(fields, {
			intermediateSize: 11008,
			maxLength: 2048,
			biases: { ...attentionBias(fields), mlp: fields.boolean("mlp_bias", false) },
		}),
};

/** How a family normalizes. */
export interface NormKind {
	kind: "rms" | "layer";
	/** Whether a layer norm has a bias. */
	bias?: boolean;
	/** The key of epsilon in config.json, and its default. */
	epsilon: [key: string, fallback: number];
	/** Added to the stored weight, which is 1 less than the factor in Gemma. */
	offset?: number;
}

/** The norms of a decoder layer by their modules; none where absent. */
export interface LayerNorms {
	attention?: string;
	/** Of the output of attention, before it is added to the residual stream. */
	afterAttention?: string;
	/** Absent if the feed-forward layers read what attention reads, beside it. */
	mlp?: string;
	afterMlp?: string;
}

/**
 * The differences of a LLaMA variant: the defaults of transformers, and facts that config.json lacks.
 */
export interface LlamaKind {
	/** The default number of key-value heads. */
	keyValueHeads?: number;
	headDim?: number;
	intermediateSize: number;
	maxLength: number;
	/** Whether `max_position_embeddings` is the length after any scaling of rotary positions. */
	hasFinalLength?: boolean;
	/** The default activation function, and its key in config.json. */
	activation?: [key: string, fallback: "silu" | "gelu_pytorch_tanh"];
	norm?: NormKind;
	norms?: LayerNorms;
	/**
	 * Whether attention and the feed-forward layers both read the layer's input, and add their outputs to
	 * it.
	 */
	parallel?: boolean;
	/**
	 * Which of q, k and v, the output projection, and the feed-forward layers have biases; none if
	 * absent.
	 */
	biases?: { qkv?: boolean; output?: boolean; mlp?: boolean };
	/**
	 * Norms of q and k: per head, with one weight for all heads or one for each, or over all heads
	 * together.
	 */
	headNorms?: {
		q: string;
		k: string;
		over: "head" | "all-heads";
		perHead?: NormOp["perHead"];
		bias?: boolean;
	};
	/** The sliding window of each layer; no layer has one if absent. */
	slidingWindows?(layers: number): SlidingWindows;
	rotary?: RotaryDefaults;
	/** Whether a layer has rotary positions; all layers have them if absent. */
	hasPositions?(layer: number): boolean;
	/** The rotary positions of each layer; all have the same ones if absent. */
	rotaries?(headDim: number, layers: number): Rotary[];
	/** Factor and bound of the attention scores. */
	scores?: { scale?: number; cap?: number };
	/** The tensor of the sinks of attention; none if absent. */
	sinks?: string;
	/** Factor of what attention and the feed-forward layers add to the residual stream. */
	residualFactor?: number;
	embeddingFactor?: number;
	logitFactor?: number;
	logitCap?: number;
	/** The modules of fused q, k and v, or gate and up, if checkpoints fuse them. */
	fused?: { qkv?: string; gateUp?: string };
	/** The experts of the feed-forward layers; none if absent. */
	experts?: ExpertsKind;
	/** The modules of a feed-forward network without a gate. */
	ungated?: { up: string; down: string };
	/** Whether the head is tied to the embedding if config.json does not say so. */
	isTied?: boolean;
}

/** The biases of the attention projections by `attention_bias`. */
export function attentionBias(fields: Fields): { qkv: boolean; output: boolean } {
	const bias = fields.boolean("attention_bias", false);
	return { qkv: bias, output: bias };
}

/** The norms of q and k per head, as Qwen3 names them. */
export const HEAD_NORMS = {
	q: "self_attn.q_norm",
	k: "self_attn.k_norm",
	over: "head",
} as const;

const NORM: NormKind = { kind: "rms", epsilon: ["rms_norm_eps", 1e-6] };
const NORMS: LayerNorms = { attention: "input_layernorm", mlp: "post_attention_layernorm" };

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
	const { norms = NORMS, parallel = false, residualFactor, fused, ungated, headNorms } = kind;
	const slidingWindows = kind.slidingWindows?.(layers);
	const rotaries: Rotary[] = kind.rotaries?.(headDim, layers) ??
		new Array(layers).fill(readRotary(fields, headDim, kind.rotary));
	const length = fields.integer("max_position_embeddings", kind.maxLength);
	const longest = kind.hasFinalLength
		? length
		: rotaries.reduce((most, rotary) => Math.max(most, scaledLength(rotary, length)), length);
	const { hasPositions = () => true } = kind;
	const inner = fields.integer("intermediate_size", kind.intermediateSize);
	const activation = fields.activation(...(kind.activation ?? ["hidden_act", "silu"] as const));
	const normKind = kind.norm ?? NORM;
	const epsilon = fields.number(...normKind.epsilon);
	const norm = (module: string, from: string, to: string): NormOp => ({
		op: "norm",
		kind: normKind.kind,
		module,
		from,
		to,
		width: hiddenSize,
		epsilon,
		...(normKind.bias === false && { bias: false }),
		...(normKind.offset && { offset: normKind.offset }),
	});
	const headNorm = (to: "q" | "k", count: number): NormOp => ({
		...norm(headNorms![to], to, to),
		...(headNorms!.over === "head" ? { width: headDim, heads: count } : { width: count * headDim }),
		...(headNorms!.perHead && { perHead: headNorms!.perHead }),
		...(headNorms!.bias === false && { bias: false }),
	});
	/** The last linear layer of a branch, and how its output joins the residual stream. */
	const join = (
		module: string,
		from: string,
		cols: number,
		bias: boolean,
		after?: string,
	): Op[] => {
		const isDirect = !after && residualFactor === undefined;
		const to = isDirect ? "hidden" : "y";
		return [
			{
				op: "linear",
				from,
				cols,
				linears: [{ module, to, rows: hiddenSize }],
				bias,
				...(isDirect && { residual: "hidden" }),
			},
			...(after ? [norm(after, to, to)] : []),
			...(isDirect ? [] : [{
				op: "add" as const,
				to: "hidden",
				from: to,
				factor: residualFactor,
				width: hiddenSize,
			}]),
		];
	};
	const attention = (layer: number, input: string): Op[] => {
		const rotary: Rotary | undefined = hasPositions(layer) ? rotaries[layer] : undefined;
		const turned = [{ register: "q", heads }, { register: "k", heads: keyValueHeads }];
		return [
			{
				op: "linear",
				from: input,
				cols: hiddenSize,
				linears: [
					{ module: "self_attn.q_proj", to: "q", rows: heads * headDim },
					{ module: "self_attn.k_proj", to: "k", rows: keyValueHeads * headDim },
					{ module: "self_attn.v_proj", to: "v", rows: keyValueHeads * headDim },
				],
				bias: qkv,
				fused: fused?.qkv,
			},
			...(headNorms ? [headNorm("q", heads), headNorm("k", keyValueHeads)] : []),
			...(rotary ? [{ op: "rope" as const, registers: turned, rotary }] : []),
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
				...kind.scores,
				...(kind.sinks && { sinks: kind.sinks }),
				rotary,
			},
			...join("self_attn.o_proj", "x", heads * headDim, output, norms.afterAttention),
		];
	};
	const feedForward = (layer: number, input: string): Op[] =>
		kind.experts?.hasExperts(layer) === false || !kind.experts ? dense(input) : expertSteps(
			kind.experts,
			{ input, hiddenSize, activation, residualFactor },
		);
	const dense = (input: string): Op[] => [
		{
			op: "linear",
			from: input,
			cols: hiddenSize,
			linears: ungated ? [{ module: ungated.up, to: "gate", rows: inner }] : [
				{ module: "mlp.gate_proj", to: "gate", rows: inner },
				{ module: "mlp.up_proj", to: "up", rows: inner },
			],
			bias: mlp,
			fused: fused?.gateUp,
		},
		{
			op: "activation",
			name: activation,
			from: "gate",
			...(!ungated && { up: "up" }),
			to: "x",
			width: inner,
		},
		...join(ungated?.down ?? "mlp.down_proj", "x", inner, mlp, norms.afterMlp),
	];
	const steps = (layer: number): Op[] => {
		if (parallel) { // "x" is overwritten by attention
			return [
				norm(norms.attention!, "hidden", "input"),
				...(norms.mlp ? [norm(norms.mlp, "hidden", "other")] : []),
				...attention(layer, "input"),
				...feedForward(layer, norms.mlp ? "other" : "input"),
			];
		}
		return [
			...(norms.attention ? [norm(norms.attention, "hidden", "x")] : []),
			...attention(layer, norms.attention ? "x" : "hidden"),
			...(norms.mlp ? [norm(norms.mlp, "hidden", "x")] : []),
			...feedForward(layer, norms.mlp ? "x" : "hidden"),
		];
	};
	const { embeddingFactor, logitFactor, logitCap } = kind;
	return {
		vocabularySize: fields.integer("vocab_size"),
		hiddenSize,
		embeddingSize: hiddenSize,
		layers,
		maxLength: Math.max(1, Math.min(longest, 2 ** 31 - 1)),
		...(embeddingFactor !== undefined && { embeddingFactor }),
		...(logitFactor !== undefined && { logitFactor }),
		...(logitCap !== undefined && { logitCap }),
		steps,
		finalNorm: norm("model.norm", "hidden", "hidden"),
		names: {
			layer: (i) => `model.layers.${i}.`,
			embedding: "model.embed_tokens",
			head: fields.boolean("tie_word_embeddings", kind.isTied ?? false) ? undefined : "lm_head",
		},
	};
}
