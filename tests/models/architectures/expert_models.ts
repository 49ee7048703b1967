// Tiny models of all families with experts, from random weights that code generates, so that their goldens
// are all that a fixture has to hold. `deno run -A tests/models/architectures/expert_models.ts FOLDER`
// writes them for tests/fixtures/experts.py.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { syntheticShards } from "~/models/synthetic.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";

const SIZES = {
	vocab_size: 40,
	hidden_size: 32,
	num_hidden_layers: 2,
	num_attention_heads: 2,
	num_key_value_heads: 1,
	max_position_embeddings: 64,
	num_experts_per_tok: 2,
	tie_word_embeddings: false,
	eos_token_id: null,
	bos_token_id: null,
	pad_token_id: null,
};

/** The config.json of each model, and the seed of its weights. */
export const EXPERT_MODELS: Record<string, { config: Record<string, unknown>; seed: number }> = {
	"mixtral": {
		seed: 1,
		config: {
			...SIZES,
			model_type: "mixtral",
			intermediate_size: 24,
			num_local_experts: 4,
			sliding_window: 6,
		},
	},
	"qwen3_moe": {
		seed: 2,
		config: {
			...SIZES,
			model_type: "qwen3_moe",
			head_dim: 12,
			intermediate_size: 40,
			moe_intermediate_size: 20,
			num_experts: 6,
			num_experts_per_tok: 3,
			norm_topk_prob: true,
			decoder_sparse_step: 2,
		},
	},
	"qwen3_moe, not renormalized": {
		seed: 3,
		config: {
			...SIZES,
			model_type: "qwen3_moe",
			head_dim: 16,
			intermediate_size: 40,
			moe_intermediate_size: 20,
			num_experts: 5,
			norm_topk_prob: false,
			mlp_only_layers: [1],
		},
	},
	"olmoe": {
		seed: 14,
		config: {
			...SIZES,
			model_type: "olmoe",
			intermediate_size: 24,
			num_experts: 5,
			norm_topk_prob: false,
		},
	},
	"granitemoe": {
		seed: 15,
		config: {
			...SIZES,
			model_type: "granitemoe",
			intermediate_size: 24,
			num_local_experts: 4,
			embedding_multiplier: 3,
			attention_multiplier: 0.4,
			residual_multiplier: 0.6,
			logits_scaling: 2,
		},
	},
	"gpt_oss": {
		seed: 16,
		config: {
			...SIZES,
			model_type: "gpt_oss",
			head_dim: 12,
			intermediate_size: 24,
			num_local_experts: 4,
			sliding_window: 5,
			swiglu_limit: 1.5,
			rope_theta: 150000,
			rope_scaling: {
				rope_type: "yarn",
				factor: 4,
				beta_fast: 32,
				beta_slow: 1,
				truncate: false,
				original_max_position_embeddings: 16,
			},
			attention_bias: true,
			layer_types: ["sliding_attention", "full_attention"],
		},
	},
};

/** The text whose logits are known. */
export const TEXT = Int32Array.from({ length: 16 }, (_, i) => (7 * i + i * i) % 40);

/** Writes one of {@link EXPERT_MODELS} to a folder. */
export function writeExpertModel(folder: string, name: string): void {
	const { config, seed } = EXPERT_MODELS[name];
	mkdirSync(folder, { recursive: true });
	writeFileSync(join(folder, "config.json"), JSON.stringify(config));
	const tensors = [];
	for (const shard of syntheticShards(config, seed)) {
		for (const tensor of shard.tensors) {
			const data = [...tensor.data as Iterable<Uint8Array>].map((chunk) => chunk.slice());
			tensors.push({ ...tensor, data });
		}
	}
	writeSafetensors(join(folder, "model.safetensors"), tensors, { format: "pt" });
}

if (import.meta.main) {
	for (const name of Object.keys(EXPERT_MODELS)) writeExpertModel(join(Deno.args[0], name), name);
}
