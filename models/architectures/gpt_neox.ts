import type { Op } from "../ops/mod.ts";
import type { NormOp } from "../ops/norm.ts";
import type { ArchitectureFamily } from "./architecture.ts";
import { plainFeedForward } from "./plain_feed_forward.ts";
import { readRotary, scaledLength } from "./rotary_fields.ts";

/**
 * GPT-NeoX and Pythia: attention and feed-forward beside each other, each with a layer norm. Each head's
 * query, key and value follow one another in the output of one linear layer.
 */
export const gptNeox: ArchitectureFamily = {
	models: "GPT-NeoX, Pythia",
	features: "parallel branches; q, k, v fused by head",
	read(original) {
		const fields = original.withDefaults({
			vocab_size: 50432,
			hidden_size: 6144,
			num_hidden_layers: 44,
			num_attention_heads: 64,
		});
		const hiddenSize = fields.integer("hidden_size");
		const heads = fields.integer("num_attention_heads");
		if (hiddenSize % heads) {
			fields.fail("hidden_size", `a multiple of num_attention_heads, ${heads}`);
		}
		const headDim = hiddenSize / heads;
		const inner = fields.integer("intermediate_size", 24576);
		const epsilon = fields.number("layer_norm_eps", 1e-5);
		const bias = fields.boolean("attention_bias", true);
		const parallel = fields.boolean("use_parallel_residual", true);
		const rotary = readRotary(fields, headDim, {
			theta: fields.number("rotary_emb_base", 10000),
			share: fields.number("rotary_pct", 0.25),
		});
		const norm = (module: string, to: string): NormOp => (
			{ op: "norm", kind: "layer", module, from: "hidden", to, width: hiddenSize, epsilon }
		);
		const attentionNorm = norm("input_layernorm", "input");
		const feedForwardNorm = norm("post_attention_layernorm", "other");
		const attention: Op[] = [
			{
				op: "linear",
				from: "input",
				cols: hiddenSize,
				linears: [{ module: "attention.query_key_value", to: "qkv", rows: 3 * hiddenSize }],
				bias,
			},
			{ op: "split", from: "qkv", to: ["q", "k", "v"], heads, width: headDim },
			{ op: "rope", registers: ["q", "k"].map((register) => ({ register, heads })), rotary },
			{
				op: "attention",
				query: "q",
				key: "k",
				value: "v",
				to: "x",
				heads,
				keyValueHeads: heads,
				headDim,
				rotary,
			},
			{
				op: "linear",
				from: "x",
				cols: hiddenSize,
				linears: [{ module: "attention.dense", to: "hidden", rows: hiddenSize }],
				bias,
				residual: "hidden",
			},
		];
		const feedForward = plainFeedForward({
			from: "other",
			hiddenSize,
			inner,
			activation: fields.activation("hidden_act", "gelu"),
			modules: ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
			bias: true,
		});
		const steps = parallel
			? [attentionNorm, feedForwardNorm, ...attention, ...feedForward]
			: [attentionNorm, ...attention, feedForwardNorm, ...feedForward];
		return {
			vocabularySize: fields.integer("vocab_size"),
			hiddenSize,
			embeddingSize: hiddenSize,
			layers: fields.integer("num_hidden_layers"),
			maxLength: scaledLength(rotary, fields.integer("max_position_embeddings", 2048)),
			steps: () => steps,
			finalNorm: { ...norm("gpt_neox.final_layer_norm", "hidden") },
			names: {
				layer: (i) => `gpt_neox.layers.${i}.`,
				embedding: "gpt_neox.embed_in",
				head: fields.boolean("tie_word_embeddings", false) ? undefined : "embed_out",
			},
		};
	},
};
