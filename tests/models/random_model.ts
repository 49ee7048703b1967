import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TensorToWrite } from "~/storage/safetensors.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { normals, seededRandom } from "../reference/random.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

export type StoredFloat = "F32" | "F16" | "BF16";

/** A model in memory: its config.json and its weights, with the values that `dtype` holds. */
export interface RandomModel {
	config: Record<string, unknown>;
	dtype: StoredFloat;
	tensors: Map<string, { shape: number[]; data: Float32Array }>;
}

/** The fields that the shapes depend on. */
interface Config {
	model_type: string;
	vocab_size: number;
	hidden_size: number;
	num_hidden_layers: number;
	num_attention_heads: number;
	max_position_embeddings: number;
	[field: string]: unknown;
}

/** A LLaMA of 2 layers and odd sizes: grouped heads, tied head, no biases. */
export const TINY_LLAMA: Config = {
	model_type: "llama",
	vocab_size: 97,
	hidden_size: 40,
	intermediate_size: 52,
	num_hidden_layers: 2,
	num_attention_heads: 4,
	num_key_value_heads: 2,
	max_position_embeddings: 64,
	rms_norm_eps: 1e-5,
	tie_word_embeddings: true,
};

/** An OPT of 2 layers and odd sizes, its norms before attention and feed-forward. */
export const TINY_OPT: Config = {
	model_type: "opt",
	vocab_size: 97,
	hidden_size: 35,
	ffn_dim: 52,
	num_hidden_layers: 2,
	num_attention_heads: 5,
	max_position_embeddings: 64,
};

/**
 * Random weights for a config.json, such that activations stay near 1 and attention is neither
 * uniform nor all on one token.
 */
export function randomModel(config: Config, seed: number, dtype: StoredFloat = "F32"): RandomModel {
	const tensors: RandomModel["tensors"] = new Map();
	const random = seededRandom(seed);
	const add = (name: string, shape: number[], mean: number, deviation: number) => {
		const size = shape.reduce((product, length) => product * length, 1);
		const values = normals(size, Math.floor(random() * 2 ** 32), deviation);
		tensors.set(name, { shape, data: values.map((value) => rounded(mean + value, dtype)) });
	};
	const linear = (name: string, rows: number, cols: number, bias: unknown) => {
		const gain = /[qk]_proj$/.test(name) ? 1.5 : 1;
		add(`${name}.weight`, [rows, cols], 0, gain / Math.sqrt(cols));
		if (bias) add(`${name}.bias`, [rows], 0, 0.3);
	};
	const norm = (name: string, width: number, bias: boolean) => {
		add(`${name}.weight`, [width], 1, 0.2);
		if (bias) add(`${name}.bias`, [width], 0, 0.2);
	};
	const hidden = config.hidden_size;
	const heads = config.num_attention_heads;
	if (config.model_type !== "opt") {
		const intermediate = config.intermediate_size as number;
		const headDim = config.head_dim as number ?? hidden / heads;
		const keyWidth = (config.num_key_value_heads as number ?? heads) * headDim;
		const { attention_bias: attentionBias, mlp_bias: mlpBias } = config;
		const inputBias = config.model_type === "qwen2" || attentionBias;
		add("model.embed_tokens.weight", [config.vocab_size, hidden], 0, 1);
		for (let i = 0; i < config.num_hidden_layers; i++) {
			const layer = `model.layers.${i}`;
			norm(`${layer}.input_layernorm`, hidden, false);
			linear(`${layer}.self_attn.q_proj`, heads * headDim, hidden, inputBias);
			linear(`${layer}.self_attn.k_proj`, keyWidth, hidden, inputBias);
			linear(`${layer}.self_attn.v_proj`, keyWidth, hidden, inputBias);
			linear(`${layer}.self_attn.o_proj`, hidden, heads * headDim, attentionBias);
			if (config.model_type === "qwen3") {
				norm(`${layer}.self_attn.q_norm`, headDim, false);
				norm(`${layer}.self_attn.k_norm`, headDim, false);
			}
			norm(`${layer}.post_attention_layernorm`, hidden, false);
			linear(`${layer}.mlp.gate_proj`, intermediate, hidden, mlpBias);
			linear(`${layer}.mlp.up_proj`, intermediate, hidden, mlpBias);
			linear(`${layer}.mlp.down_proj`, hidden, intermediate, mlpBias);
		}
		norm("model.norm", hidden, false);
		if (!config.tie_word_embeddings) linear("lm_head", config.vocab_size, hidden, false);
	} else {
		const feedForward = config.ffn_dim as number;
		const embedding = config.word_embed_proj_dim as number ?? hidden;
		const normFirst = config.do_layer_norm_before ?? true;
		add("model.decoder.embed_tokens.weight", [config.vocab_size, embedding], 0, 1);
		const positions = config.max_position_embeddings + 2;
		add("model.decoder.embed_positions.weight", [positions, hidden], 0, 0.5);
		if (embedding !== hidden) {
			linear("model.decoder.project_in", hidden, embedding, false);
			linear("model.decoder.project_out", embedding, hidden, false);
		}
		for (let i = 0; i < config.num_hidden_layers; i++) {
			const layer = `model.decoder.layers.${i}`;
			norm(`${layer}.self_attn_layer_norm`, hidden, true);
			for (const module of ["q_proj", "k_proj", "v_proj", "out_proj"]) {
				linear(`${layer}.self_attn.${module}`, hidden, hidden, true);
			}
			norm(`${layer}.final_layer_norm`, hidden, true);
			linear(`${layer}.fc1`, feedForward, hidden, true);
			linear(`${layer}.fc2`, hidden, feedForward, true);
		}
		if (normFirst && !config._remove_final_layer_norm) {
			norm("model.decoder.final_layer_norm", hidden, true);
		}
		if (config.tie_word_embeddings === false) {
			linear("lm_head", config.vocab_size, embedding, false);
		}
	}
	return { config, dtype, tensors };
}

function rounded(value: number, dtype: StoredFloat): number {
	if (dtype === "F16") return Math.f16round(value);
	if (dtype === "F32") return Math.fround(value);
	const [bits] = new Uint32Array(Float32Array.of(value).buffer);
	return new Float32Array(Uint32Array.of(bits & 0xffff0000).buffer)[0]; // some bf16 will do
}

export function stored(data: Float32Array, dtype: StoredFloat): Uint8Array {
	if (dtype === "F32") return new Uint8Array(data.slice().buffer);
	if (dtype === "F16") return new Uint8Array(Float16Array.from(data).buffer);
	const bits = new Uint32Array(data.slice().buffer);
	return new Uint8Array(Uint16Array.from(bits, (word) => word >>> 16).buffer);
}

/** Writes a model as transformers does: one file, or several with an index. */
export function writeModel(folder: string, model: RandomModel, shards = 1): void {
	writeFileSync(join(folder, "config.json"), JSON.stringify(model.config));
	const tensors = [...model.tensors].map(([name, { shape, data }]): TensorToWrite => (
		{ name, dtype: model.dtype, shape, data: stored(data, model.dtype) }
	));
	if (shards === 1) {
		writeSafetensors(join(folder, "model.safetensors"), tensors);
		return;
	}
	const weightMap: Record<string, string> = {};
	const perShard = Math.ceil(tensors.length / shards);
	for (let shard = 0; shard < shards; shard++) {
		const file = `model-0000${shard + 1}-of-0000${shards}.safetensors`;
		const part = tensors.slice(shard * perShard, (shard + 1) * perShard);
		for (const { name } of part) weightMap[name] = file;
		writeSafetensors(join(folder, file), part);
	}
	const index = { metadata: {}, weight_map: weightMap };
	writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify(index));
}

export function randomWindows(
	count: number,
	length: number,
	vocabulary: number,
	seed: number,
): Int32Array[] {
	const random = seededRandom(seed);
	return Array.from(
		{ length: count },
		() => Int32Array.from({ length }, () => Math.floor(random() * vocabulary)),
	);
}

/** A folder with a model, see {@link writeModel}. */
export function modelFolder(model: RandomModel, shards?: number): TemporaryFolder {
	const folder = new TemporaryFolder();
	writeModel(folder.path, model, shards);
	return folder;
}
