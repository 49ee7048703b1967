import { z } from "zod";
import { accumulateHessian, mirrorUpper, zeroDeadColumns } from "../gpu/kernels/hessian/hessian.ts";
import { defineStage } from "../pipeline/stage.ts";
import { factorSafely } from "./factor_safely.ts";

/**
 * The stage that accumulates the Hessian of the squared output error, H = (2 / sequences) Σ x xᵀ, and
 * factors the inverse of its damped form. Columns whose input is always zero are dead: their weights
 * become 0. If f32 is too inaccurate for the factorization, f64 or more damping is used, with a warning.
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
  gives: ["hessian", "factor", "column-costs"],

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
    const { factor, cost } = await factorSafely(context, h, damping);
    gpu.section(before);
    context.set("factor", factor);
    context.set("column-costs", cost);
  },
});
