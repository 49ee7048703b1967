import type { ArchitectureFamily } from "./architecture.ts";
import { EXPERT_MODULES, readExpertCounts } from "./experts.ts";
import type { Fields } from "./fields.ts";
import { attentionBias, HEAD_NORMS, readLlama } from "./llama.ts";
import { readOptionalWindows } from "./sliding_windows.ts";

/** Qwen3 with experts in some or all layers. */
export const qwen3Moe: ArchitectureFamily = {
	models: "Qwen3 with experts",
	features: "norms on the heads of q and k; experts",
	read: (fields) =>
		readLlama(fields, {
			keyValueHeads: 4,
			intermediateSize: 6144,
			maxLength: 32768,
			biases: attentionBias(fields),
			headNorms: HEAD_NORMS,
			slidingWindows: (layers) => readOptionalWindows(fields, layers, () => true, 4096),
			experts: {
				...readExpertCounts(fields, ["num_experts", "num_local_experts"], {
					count: 128,
					perToken: 8,
				}),
				intermediateSize: fields.integer("moe_intermediate_size", 768),
				renormalized: fields.boolean("norm_topk_prob", false),
				router: "mlp.gate",
				modules: EXPERT_MODULES,
				hasExperts: sparseLayers(fields),
			},
		}),
};

/** Which layers have experts: every `decoder_sparse_step`-th, without those of `mlp_only_layers`. */
function sparseLayers(fields: Fields): (layer: number) => boolean {
	const step = fields.integer("decoder_sparse_step", 1);
	const dense = fields.json.mlp_only_layers ?? [];
	if (!Array.isArray(dense) || !dense.every((layer) => Number.isInteger(layer))) {
		fields.fail("mlp_only_layers", "a list of layers");
	}
	return (layer) => (layer + 1) % step === 0 && !(dense as number[]).includes(layer);
}
