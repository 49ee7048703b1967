import type { Op } from "../ops/mod.ts";
import type { NormOp } from "../ops/norm.ts";
import type { ArchitectureFamily } from "./architecture.ts";
import { plainFeedForward } from "./plain_feed_forward.ts";

export const opt: ArchitectureFamily = {
	models: "OPT",
	features: "pre- and post-layer-norm, projections",
	read(fields) {
		const hiddenSize = fields.integer("hidden_size");
		const layers = fields.layers("num_hidden_layers");
		const heads = fields.integer("num_attention_heads");
		if (hiddenSize % heads) {
			fields.fail("hidden_size", `a multiple of num_attention_heads, ${heads}`);
		}
		if (!fields.boolean("layer_norm_elementwise_affine", true)) {
			fields.fail("layer_norm_elementwise_affine", "true");
		}
		const normFirst = fields.boolean("do_layer_norm_before", true);
		const hasFinalNorm = normFirst && !fields.boolean("_remove_final_layer_norm", false);
		const embeddingSize = fields.integer("word_embed_proj_dim", hiddenSize);
		const projects = embeddingSize !== hiddenSize;
		const tied = fields.boolean("tie_word_embeddings", true);
		const inner = fields.integer("ffn_dim", 3072);
		const bias = fields.boolean("enable_bias", true);
		const input = normFirst ? "x" : "hidden";
		const norm = (module: string): NormOp => ({
			op: "norm",
			kind: "layer",
			module,
			from: "hidden",
			to: input,
			width: hiddenSize,
			epsilon: 1e-5, // fixed in transformers
		});
		const attentionNorm = norm("self_attn_layer_norm");
		const feedForwardNorm = norm("final_layer_norm");
		const attention: Op[] = [
			{
				op: "linear",
				from: input,
				cols: hiddenSize,
				linears: ["q", "k", "v"].map((to) => (
					{ module: `self_attn.${to}_proj`, to, rows: hiddenSize }
				)),
				bias,
			},
			{
				op: "attention",
				query: "q",
				key: "k",
				value: "v",
				to: "x",
				heads,
				keyValueHeads: heads,
				headDim: hiddenSize / heads,
			},
			{
				op: "linear",
				from: "x",
				cols: hiddenSize,
				linears: [{ module: "self_attn.out_proj", to: "hidden", rows: hiddenSize }],
				bias,
				residual: "hidden",
			},
		];
		const feedForward = plainFeedForward({
			from: input,
			hiddenSize,
			inner,
			activation: fields.activation("activation_function", "relu"),
			modules: ["fc1", "fc2"],
			bias,
		});
		const steps = normFirst
			? [attentionNorm, ...attention, feedForwardNorm, ...feedForward]
			: [...attention, attentionNorm, ...feedForward, feedForwardNorm];
		return {
			vocabularySize: fields.integer("vocab_size"),
			hiddenSize,
			embeddingSize,
			layers,
			maxLength: fields.integer("max_position_embeddings", 2048),
			steps: () => steps,
			finalNorm: hasFinalNorm
				? { ...norm("model.decoder.final_layer_norm"), to: "hidden" }
				: undefined,
			names: {
				layer: (i) => `model.decoder.layers.${i}.`,
				embedding: "model.decoder.embed_tokens",
				head: tied ? undefined : "lm_head",
				positions: { name: "model.decoder.embed_positions", offset: 2 },
				projectIn: projects ? "model.decoder.project_in" : undefined,
				projectOut: projects ? "model.decoder.project_out" : undefined,
			},
		};
	},
};
