import { z } from "zod";
import type { Gpu } from "../gpu/device.ts";
import { gatherSquare } from "../gpu/kernels/elementwise/gather.ts";
import {
	accumulateHessian,
	dampedDiagonal,
	mirrorUpper,
	zeroDeadColumns,
} from "../gpu/kernels/hessian/hessian.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { defineStage } from "../pipeline/stage.ts";
import { factorSafely } from "./factor.ts";

/**
 * The columns by falling diagonal of the damped Hessian; columns with the same keep their order.
 *
 * @returns The column of each place and the place of each column, u32 `[n]`.
 */
async function fallingOrder(
	gpu: Gpu,
	hessian: Tensor,
	damping: number,
): Promise<{ order: Tensor; places: Tensor }> {
	using onGpu = await dampedDiagonal(gpu, hessian, damping);
	const diagonal = await gpu.read(onGpu);
	const order = Uint32Array.from(diagonal.keys()).sort((a, b) =>
		diagonal[b] - diagonal[a] || a - b
	);
	const places = new Uint32Array(order.length);
	order.forEach((column, place) => places[column] = place);
	return { order: gpu.upload(order, [order.length]), places: gpu.upload(places, [places.length]) };
}

/**
 * The stage that accumulates the Hessian of the squared output error, H = (2 / sequences) Σ x xᵀ, and
 * factors the inverse of its damped form, with the columns in the orders that later stages need. Columns
 * whose input is always zero are dead: their weights become 0. If f32 is too inaccurate for the
 * factorization, f64 or more damping is used, with a warning.
 *
 * @see Optimal brain surgeon in GPTQ's form, https://arxiv.org/abs/2210.17323
 */
export const hessian = defineStage({
	name: "hessian",
	scope: "group",
	summary: "Accumulate the Hessian of each group of linear layers and factor its inverse",
	options: z.strictObject({
		"damping": z.number().min(0).max(10).default(0.01).describe(
			"Added to the diagonal, as a fraction of its mean",
		),
	}),
	needs: ["calibration"],
	gives: [
		"hessian",
		"factor",
		"column-costs",
		"column-order",
		"column-places",
		"ordered-factor",
		"ordered-costs",
	],

	async observe(context, _options, input) {
		const { gpu } = context;
		const [, n] = input.shape;
		let h = context.find("hessian");
		if (!h) context.set("hessian", h = gpu.zeros([n, n]));
		await accumulateHessian(gpu, input, h, 2 / context.get("calibration").sequences);
	},

	async run(context, { damping }) {
		const { gpu, linears } = context;
		const h = context.get("hessian");
		await mirrorUpper(gpu, h);
		for (const { original, weight } of linears) {
			for (const matrix of [original, weight]) await zeroDeadColumns(gpu, h, matrix);
		}
		const before = gpu.section({ name: "factor" }); // its time is worth knowing apart from the sums
		if (context.isNeeded("factor") || context.isNeeded("column-costs")) {
			const { factor, cost } = await factorSafely(context, h, damping);
			context.set("factor", factor);
			context.set("column-costs", cost);
		}
		if (context.isNeeded("ordered-factor")) {
			const { order, places } = await fallingOrder(gpu, h, damping);
			using ordered = await gatherSquare(gpu, h, order);
			const { factor, cost } = await factorSafely(context, ordered, damping);
			context.set("column-order", order);
			context.set("column-places", places);
			context.set("ordered-factor", factor);
			context.set("ordered-costs", cost);
		}
		gpu.section(before);
	},
});
