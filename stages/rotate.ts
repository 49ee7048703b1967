import { z } from "zod";
import { counted, listed } from "../base/figures.ts";
import { markLiveColumns, zeroUnmarkedColumns } from "../gpu/kernels/rotation/dead_columns.ts";
import { transformInput, transformRows } from "../gpu/kernels/rotation/rotate.ts";
import { LEAST_RUN, type Rotation, runFor } from "../gpu/kernels/rotation/rotation.ts";
import { LayerPlan } from "../models/layer_plan.ts";
import { defineStage, type GroupContext } from "../pipeline/stage.ts";

/**
 * The stage that rotates the input of the linear layers, R x = Had(signs · x), and their weights to
 * match, W Rᵀ: outliers spread over the entries of a run, and weights become nearly normal. Linear layers
 * that share an input share R. Columns whose input is always zero become 0 before, if there is a
 * calibration to tell them.
 *
 * @see QuIP#, "incoherence processing with the randomized Hadamard transform",
 *   https://arxiv.org/abs/2402.04396
 */
export const rotate = defineStage({
	name: "rotate",
	scope: "group",
	summary: "Rotate the inputs of linear layers by random signs and a Hadamard transform",
	options: z.strictObject({
		"block": z.literal([16, 32, 64, 128, 256, 512]).default(64).describe(
			"Entries that are transformed together; at most the largest power of two that divides the width",
		),
		"seed": z.int().min(0).max(2 ** 32 - 1).optional().describe(
			"The seed of the signs; that of the run if absent",
		),
	}),
	needs: ["model-files"],
	gives: [],
	excludes: ["hessian", "block-error", "packed-model"],

	async check({ get, emit }, { block }) {
		const { architecture } = get("model-files");
		const odd = new Map<number, Set<string>>();
		for (let layer = 0; layer < architecture.layers; layer++) {
			for (const { cols, linears } of new LayerPlan(architecture, layer).groups) {
				if (runFor(cols, block) !== undefined) continue;
				if (!odd.has(cols)) odd.set(cols, new Set());
				for (const { module } of linears) odd.get(cols)!.add(module);
			}
		}
		for (const [cols, modules] of odd) {
			emit({
				type: "warning",
				message: `Not rotated: ${listed([...modules], "and")} ` +
					`(${counted(cols, "column")}, not a multiple of ${LEAST_RUN})`,
			});
		}
	},

	async transform(context, options, input) {
		const rotation = rotationFor(context, options);
		if (!rotation) return undefined;
		const { gpu } = context;
		const [, n] = input.shape;
		let live = context.find("live-columns");
		if (!live) context.set("live-columns", live = gpu.zeros([n], "u32"));
		await markLiveColumns(gpu, input, live);
		return await transformInput(gpu, input, n, { rotation });
	},

	async run(context, options) {
		const rotation = rotationFor(context, options);
		if (!rotation) return;
		const { gpu, linears } = context;
		const live = context.find("live-columns");
		for (const linear of linears) {
			for (const matrix of [linear.original, linear.weight]) {
				if (live) await zeroUnmarkedColumns(gpu, live, matrix);
				await transformRows(gpu, matrix, { rotation });
			}
			linear.transform = { ...linear.transform, rotation };
		}
	},
});

/** The rotation of a group's input; undefined if its width is odd. */
function rotationFor(
	{ linears: [{ cols }], seed }: GroupContext,
	options: { block: number; seed?: number },
): Rotation | undefined {
	const block = runFor(cols, options.block);
	return block === undefined ? undefined : { seed: options.seed ?? seed, block };
}
