import { z } from "zod";
import { dequantizeLevels } from "../codecs/levels/dequantize_levels.ts";
import { LevelsDraft } from "../codecs/levels/draft.ts";
import { fitLevels } from "../codecs/levels/fit_levels.ts";
import {
	COUNTS_OF_PATTERN,
	LEVEL_COUNTS,
	LEVEL_PATTERNS,
	type LevelCount,
	type LevelKind,
	type LevelPattern,
} from "../codecs/levels/levels.ts";
import { levelsBytes } from "../codecs/levels/store.ts";
import { packLevels } from "../codecs/levels/pack_levels.ts";
import type { SearchedLevels } from "../codecs/levels/refit_levels.ts";
import { type LevelsEffort, searchLevels } from "../codecs/levels/search_levels.ts";
import { quantizeLevels, SWEEP_BLOCK } from "../codecs/levels/sweep_levels.ts";
import { gatherColumns, gatherSquare } from "../gpu/kernels/elementwise/gather.ts";
import { dampedHessian } from "../gpu/kernels/hessian/hessian.ts";
import { gemm } from "../gpu/kernels/matmul/gemm.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { defineQuantizer } from "../pipeline/quantizer.ts";
import type { LinearContext } from "../pipeline/stage.ts";
import { draftOf } from "./draft_of.ts";
import { NOT_FOR_GRIDS } from "./grid_options.ts";
import { spreadErrorFrom } from "./spread_error.ts";
import { searchOperations } from "./run_needs.ts";

/** The kind of levels that options select. */
function kindOf(
	{ count, pattern = count === 8 ? "gaussian" : "free" }: {
		count: LevelCount;
		pattern?: LevelPattern;
	},
): LevelKind {
	return { count, pattern };
}

/**
 * The stage that gives each row a few levels, which are the row's own, and each weight one of them. The
 * levels are fitted to the row; then weights are rounded column by column, by falling diagonal of the
 * Hessian, and later columns compensate for the error; then levels are refitted and codes searched in the
 * loss tr(E H Eᵀ), E = W - Q, of whole rows. For rotated weights, which are nearly normal.
 *
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */
export const levels = defineQuantizer({
	name: "levels",
	summary:
		"Round to 2, 3, 4, 5 or 8 levels of each row, and search levels and codes over whole rows",
	options: z.strictObject({
		"count": z.literal(LEVEL_COUNTS).default(4).describe(
			"Levels of a row: 2 take 1 bit per weight, 3 take 1.6, 4 take 2, 5 take 2.33, 8 take 3",
		),
		"pattern": z.enum(LEVEL_PATTERNS).optional().describe(
			"free: symmetric around 0, else any; gaussian: those for normal weights, with one scale; " +
				"default gaussian for 8 levels, else free",
		),
		"rounds": z.int().min(0).max(20).default(3).describe(
			"Rounds of a refit, coordinate descent and tabu search; 0 for a refit alone",
		),
		"sweeps": z.int().min(0).max(20).default(3).describe("Sweeps of coordinate descent per round"),
		"moves": z.number().min(0).max(8).default(1).describe(
			"Moves of the tabu search per column and round; 0 for none",
		),
		"damping": z.number().min(0).max(10).default(0.01).describe(
			"Added to the diagonal of the Hessian for refits and searches, as a fraction of its mean",
		),
	}).refine(
		(options) => {
			const { count, pattern } = kindOf(options);
			return COUNTS_OF_PATTERN[pattern].includes(count);
		},
		{
			path: ["pattern"],
			message: "must be free for 2 and 3 levels, gaussian for 8",
		},
	),
	excludes: NOT_FOR_GRIDS,
	needs: ["hessian", "ordered-factor"],
	gives: ["block-error"],
	rates: {
		option: "count",
		values: ({ pattern }) => pattern === undefined ? LEVEL_COUNTS : COUNTS_OF_PATTERN[pattern],
		bytes: (options, shape) => levelsBytes({ ...shape, ...kindOf(options) }),
	},
	work: ({ rounds, sweeps, moves }, shape) => searchOperations({ rounds, sweeps, moves }, shape),

	async run(context, { damping, rounds, sweeps, moves, ...options }) {
		await quantizeToLevels(context, kindOf(options), damping, { rounds, sweeps, moves });
	},
});

async function quantizeToLevels(
	context: LinearContext,
	kind: LevelKind,
	damping: number,
	effort: LevelsEffort,
): Promise<void> {
	const { gpu, linear } = context;
	const { rows, cols, original, quantized } = linear;
	linear.method = levels.name;
	const draft = draftOf(linear, LevelsDraft, () => new LevelsDraft(gpu, { rows, cols, ...kind }));
	const { theta } = draft.linear;
	const order = context.get("column-order");
	using hessian = await orderedHessian(context, damping);
	using targetProduct = gpu.empty([rows, cols]);
	using codes = gpu.empty([rows, cols], "u32");
	{
		using weight = await gatherColumns(gpu, original, order);
		const product = { a: weight, b: hessian, c: targetProduct };
		await gemm(gpu, { layout: "NN", m: rows, n: cols, k: cols, ...product });
		await fitLevels(gpu, kind, { weight, costs: context.get("ordered-costs"), theta });
		const factor = context.get("ordered-factor");
		for (let first = 0; first < cols; first += SWEEP_BLOCK) {
			using error = await quantizeLevels(gpu, { kind, first, weight, factor, theta, codes });
			await spreadErrorFrom(first, error, { weight, factor });
		}
	}
	const layer: SearchedLevels = { kind, codes, theta, hessian };
	await searchLevels(gpu, layer, targetProduct, effort, () => context.pause());
	await packLevels(gpu, codes, context.get("column-places"), draft.linear);
	await dequantizeLevels(gpu, draft.linear, quantized);
}

/** The damped Hessian with rows and columns in "column-order", f32 `[cols, cols]`, owned by the caller. */
async function orderedHessian(context: LinearContext, damping: number): Promise<Tensor> {
	const { gpu } = context;
	using ordered = await gatherSquare(gpu, context.get("hessian"), context.get("column-order"));
	return await dampedHessian(gpu, ordered, damping);
}
