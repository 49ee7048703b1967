import type { TensorToWrite } from "../storage/safetensors.ts";
import { readArchitecture } from "./architectures/mod.ts";
import { layerPlaces, outsidePlaces, type Place } from "./places.ts";

const LLAMA = {
	model_type: "llama",
	vocab_size: 32000,
	hidden_size: 4096,
	intermediate_size: 11008,
	num_hidden_layers: 32,
	num_attention_heads: 32,
	max_position_embeddings: 4096,
};

const OPT = {
	model_type: "opt",
	vocab_size: 50272,
	max_position_embeddings: 2048,
};

const QWEN3 = {
	...LLAMA,
	model_type: "qwen3",
	vocab_size: 151936,
	num_key_value_heads: 8,
	head_dim: 128,
	max_position_embeddings: 40960,
};

/** The config.json of models whose shapes are used, by name. */
export const SHAPES: Readonly<Record<string, Record<string, unknown>>> = {
	"opt-125m": {
		...OPT,
		hidden_size: 768,
		ffn_dim: 3072,
		num_hidden_layers: 12,
		num_attention_heads: 12,
	},
	"opt-6.7b": {
		...OPT,
		hidden_size: 4096,
		ffn_dim: 16384,
		num_hidden_layers: 32,
		num_attention_heads: 32,
	},
	"opt-30b": {
		...OPT,
		hidden_size: 7168,
		ffn_dim: 28672,
		num_hidden_layers: 48,
		num_attention_heads: 56,
	},
	"opt-66b": {
		...OPT,
		hidden_size: 9216,
		ffn_dim: 36864,
		num_hidden_layers: 64,
		num_attention_heads: 72,
	},
	"llama-7b": LLAMA,
	"llama-2-13b": {
		...LLAMA,
		hidden_size: 5120,
		intermediate_size: 13824,
		num_hidden_layers: 40,
		num_attention_heads: 40,
	},
	"llama-30b": {
		...LLAMA,
		hidden_size: 6656,
		intermediate_size: 17920,
		num_hidden_layers: 60,
		num_attention_heads: 52,
		max_position_embeddings: 2048,
	},
	"llama-65b": {
		...LLAMA,
		hidden_size: 8192,
		intermediate_size: 22016,
		num_hidden_layers: 80,
		num_attention_heads: 64,
		max_position_embeddings: 2048,
	},
	"llama-2-70b": {
		...LLAMA,
		hidden_size: 8192,
		intermediate_size: 28672,
		num_hidden_layers: 80,
		num_attention_heads: 64,
		num_key_value_heads: 8,
	},
	"llama-3-8b": {
		...LLAMA,
		vocab_size: 128256,
		intermediate_size: 14336,
		num_key_value_heads: 8,
		max_position_embeddings: 8192,
		rope_theta: 500000,
	},
	"mistral-7b": {
		...LLAMA,
		model_type: "mistral",
		intermediate_size: 14336,
		num_key_value_heads: 8,
		max_position_embeddings: 32768,
		sliding_window: 4096,
	},
	"mistral-nemo-12b": {
		...LLAMA,
		model_type: "mistral",
		vocab_size: 131072,
		hidden_size: 5120,
		intermediate_size: 14336,
		num_hidden_layers: 40,
		num_key_value_heads: 8,
		head_dim: 128,
		max_position_embeddings: 131072,
		rope_theta: 1000000,
		sliding_window: null,
	},
	"qwen3-0.6b": {
		...QWEN3,
		hidden_size: 1024,
		intermediate_size: 3072,
		num_hidden_layers: 28,
		num_attention_heads: 16,
		tie_word_embeddings: true,
	},
	"qwen3-4b": {
		...QWEN3,
		hidden_size: 2560,
		intermediate_size: 9728,
		num_hidden_layers: 36,
		num_attention_heads: 32,
		tie_word_embeddings: true,
	},
	"qwen3-14b": {
		...QWEN3,
		hidden_size: 5120,
		intermediate_size: 17408,
		num_hidden_layers: 40,
		num_attention_heads: 40,
	},
	"qwen3-30b-a3b": {
		...QWEN3,
		model_type: "qwen3_moe",
		hidden_size: 2048,
		intermediate_size: 6144,
		moe_intermediate_size: 768,
		num_experts: 128,
		num_experts_per_tok: 8,
		norm_topk_prob: true,
		num_hidden_layers: 48,
		num_attention_heads: 32,
		num_key_value_heads: 4,
		rope_theta: 1000000,
	},
	"qwen3-30b-a3b-dense": { // as many active weights, without experts
		...QWEN3,
		hidden_size: 2048,
		intermediate_size: 6144,
		num_hidden_layers: 48,
		num_attention_heads: 32,
		num_key_value_heads: 4,
		rope_theta: 1000000,
	},
	"mixtral-8x7b": {
		...LLAMA,
		model_type: "mixtral",
		intermediate_size: 14336,
		num_local_experts: 8,
		num_experts_per_tok: 2,
		num_key_value_heads: 8,
		max_position_embeddings: 32768,
		rope_theta: 1000000,
	},
	"olmoe-1b-7b": {
		...LLAMA,
		model_type: "olmoe",
		vocab_size: 50304,
		hidden_size: 2048,
		intermediate_size: 1024,
		num_hidden_layers: 16,
		num_attention_heads: 16,
		num_experts: 64,
		num_experts_per_tok: 8,
	},
	"gpt-oss-20b": {
		model_type: "gpt_oss",
		vocab_size: 201088,
		hidden_size: 2880,
		intermediate_size: 2880,
		num_hidden_layers: 24,
		num_attention_heads: 64,
		num_key_value_heads: 8,
		head_dim: 64,
		num_local_experts: 32,
		num_experts_per_tok: 4,
		sliding_window: 128,
		max_position_embeddings: 131072,
		rope_theta: 150000,
		rope_scaling: {
			rope_type: "yarn",
			factor: 32,
			beta_fast: 32,
			beta_slow: 1,
			truncate: false,
			original_max_position_embeddings: 4096,
		},
	},
	"qwen3-32b": {
		...QWEN3,
		hidden_size: 5120,
		intermediate_size: 25600,
		num_hidden_layers: 64,
		num_attention_heads: 64,
	},
	"gemma-3-4b": {
		model_type: "gemma3_text",
		vocab_size: 262208,
		hidden_size: 2560,
		intermediate_size: 10240,
		num_hidden_layers: 34,
		num_attention_heads: 8,
		num_key_value_heads: 4,
		head_dim: 256,
		max_position_embeddings: 131072,
		sliding_window: 1024,
		rope_scaling: { rope_type: "linear", factor: 8 },
	},
	"phi-4-mini": { // without the factors of LongRoPE
		model_type: "phi3",
		vocab_size: 200064,
		hidden_size: 3072,
		intermediate_size: 8192,
		num_hidden_layers: 32,
		num_attention_heads: 24,
		num_key_value_heads: 8,
		max_position_embeddings: 4096,
		partial_rotary_factor: 0.75,
		tie_word_embeddings: true,
	},
	"smollm3-3b": {
		model_type: "smollm3",
		vocab_size: 128256,
		hidden_size: 2048,
		intermediate_size: 11008,
		num_hidden_layers: 36,
		num_attention_heads: 16,
		num_key_value_heads: 4,
		max_position_embeddings: 65536,
		rope_theta: 5000000,
	},
	"olmo-2-7b": {
		...LLAMA,
		model_type: "olmo2",
		vocab_size: 100352,
		rope_theta: 500000,
	},
	"granite-3-8b": {
		...LLAMA,
		model_type: "granite",
		vocab_size: 49155,
		intermediate_size: 12800,
		num_hidden_layers: 40,
		num_key_value_heads: 8,
		max_position_embeddings: 131072,
		rope_theta: 10000000,
		embedding_multiplier: 12,
		attention_multiplier: 0.0078125,
		residual_multiplier: 0.22,
		logits_scaling: 16,
		tie_word_embeddings: true,
	},
};

/** The shapes of a model scaled to another width; the head size stays, the number of heads changes. */
export function scaledShapes(
	shapes: Record<string, unknown>,
	hiddenSize: number,
): Record<string, unknown> {
	const factor = hiddenSize / (shapes.hidden_size as number);
	const names = [
		"intermediate_size",
		"moe_intermediate_size",
		"ffn_dim",
		"num_attention_heads",
		"num_key_value_heads",
	];
	const others = names.filter((name) => name in shapes)
		.map((name) => [name, Math.max(1, Math.round(factor * (shapes[name] as number)))]);
	return { ...shapes, hidden_size: hiddenSize, ...Object.fromEntries(others) };
}

/** Number of values that are generated and written at a time. */
const CHUNK = 1 << 20;
/** Chunks of a tensor that are all different; the further ones begin anywhere in these. */
const FRESH_CHUNKS = 16;

/** A file of a synthetic model. */
export interface SyntheticShard {
	file: string;
	tensors: TensorToWrite[];
}

/**
 * The shards of a model with random f16 weights, for benchmarks: one for the tensors outside the decoder
 * layers and one per layer. Activations stay near 1, as in a trained model. The data of a shard must be
 * consumed before the next shard is requested.
 *
 * @param config The content of config.json; {@link SHAPES} has some.
 * @param seed An integer of 32 bits.
 */
export function* syntheticShards(
	config: Record<string, unknown>,
	seed: number,
): Generator<SyntheticShard> {
	const architecture = readArchitecture(config, "config.json");
	const random = uniforms(seed);
	const shards = architecture.layers + 1;
	const shard = (index: number, places: Iterable<Place>): SyntheticShard => {
		const digits = (n: number) => String(n).padStart(5, "0");
		const once = new Map([...places].map((place) => [place.name, place])); // fused tensors
		return {
			file: `model-${digits(index + 1)}-of-${digits(shards)}.safetensors`,
			tensors: [...once.values()].map(({ name, shape, offset }) => ({
				name,
				dtype: "F16",
				shape: [...shape],
				data: values(shape, random, offset),
			})),
		};
	};
	const outside = Object.values(outsidePlaces(architecture)).flat();
	yield shard(0, outside.filter((place) => place !== undefined));
	for (let i = 0; i < architecture.layers; i++) yield shard(i + 1, layerPlaces(architecture, i));
}

/**
 * Random values: matrices preserve the expected norm of their input; vectors are near 1, less what is added
 * to what is stored.
 */
function* values(
	shape: readonly number[],
	random: () => number,
	offset = 0,
): Generator<Uint8Array> {
	const size = shape.reduce((product, length) => product * length, 1);
	const [mean, deviation] = shape.length === 1
		? [1 - offset, 0.1]
		: [0, 1 / Math.sqrt(shape.at(-1)!)];
	// The sum of two uniform numbers has a standard deviation of √(1/6).
	const scale = deviation * Math.sqrt(6);
	const fresh = new Float16Array(Math.min(size, FRESH_CHUNKS * CHUNK));
	for (let done = 0; done < fresh.length; done += CHUNK) {
		const chunk = fresh.subarray(done, done + CHUNK);
		for (let i = 0; i < chunk.length; i++) chunk[i] = mean + scale * (random() + random() - 1);
		yield new Uint8Array(chunk.buffer, 2 * done, 2 * chunk.length);
	}
	for (let done = fresh.length; done < size; done += CHUNK) {
		const start = Math.floor(random() * (fresh.length - CHUNK));
		yield new Uint8Array(fresh.buffer, 2 * start, 2 * Math.min(CHUNK, size - done));
	}
}

/** A generator of numbers in [0, 1): Vigna's splitmix in 32 bits. */
export function uniforms(seed: number): () => number {
	let state = seed | 0;
	return () => {
		state = (state + 0x9e3779b9) | 0;
		let word = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
		word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35);
		return ((word ^ (word >>> 16)) >>> 0) / 2 ** 32;
	};
}
