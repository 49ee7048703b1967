import type { ArchitectureFamily } from "./architecture.ts";
import { readExpertCounts } from "./experts.ts";
import { graniteKind } from "./granite.ts";
import { readLlama } from "./llama.ts";

/** Granite with experts, whose matrices checkpoints stack. */
export const granitemoe: ArchitectureFamily = {
	models: "Granite 3 with experts",
	features: "the same multipliers; experts",
	read: (fields) =>
		readLlama(fields, {
			...graniteKind(fields),
			experts: {
				...readExpertCounts(fields, ["num_local_experts", "num_experts"], {
					count: 8,
					perToken: 2,
				}),
				intermediateSize: fields.integer("intermediate_size", 11008),
				renormalized: true,
				router: "block_sparse_moe.router.layer",
				modules: {
					gate: "block_sparse_moe.experts.*.gate_proj",
					up: "block_sparse_moe.experts.*.up_proj",
					down: "block_sparse_moe.experts.*.down_proj",
				},
				stacked: {
					gateUp: "block_sparse_moe.input_linear",
					down: "block_sparse_moe.output_linear",
				},
				hasExperts: () => true,
			},
		}),
};
