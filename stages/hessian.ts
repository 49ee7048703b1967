import { z } from "zod";
import { accumulateHessian, mirrorUpper, zeroDeadColumns } from "../gpu/hessian.ts";
import { inverseFactor } from "../gpu/inverse_factor.ts";
import { UserError } from "../pipeline/errors.ts";
import { defineStage } from "../pipeline/stage.ts";

/**
 * Collects the Hessian of the squared output error, H = (2 / sequences) Σ x xᵀ, and factors the
 * inverse of its damped form. Columns whose input is always zero are dead: their weights become 0.
 *
 * @see Optimal brain surgeon in GPTQ's form, https://arxiv.org/abs/2210.17323
 */
export const hessian = defineStage({
  name: "hessian",
  scope: "layer",
  summary: "Collect the Hessian of each group of linear layers and factor its inverse",
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
    for (const { weight } of linears) await zeroDeadColumns(gpu, h, weight);
    const { factor, cost, status } = await inverseFactor(gpu, h, damping);
    const [failed] = await gpu.read(status, "u32");
    gpu.free(status);
    if (failed) {
      throw new UserError(
        `The Hessian of ${linears.map(({ name }) => name).join(", ")} cannot be factored: ` +
          `with damping ${damping} it is not positive definite at column ` +
          `${h.shape[0] - failed} of ${h.shape[0]}; use more damping or more calibration text`,
      );
    }
    context.set("factor", factor);
    context.set("column-costs", cost);
  },
});
