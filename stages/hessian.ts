import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { accumulateHessian, mirrorUpper, zeroDeadColumns } from "../gpu/kernels/hessian/hessian.ts";
import {
  canFactorInF64,
  type FactorPrecision,
  inverseFactor,
} from "../gpu/kernels/hessian/inverse_factor.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { defineStage, type GroupContext } from "../pipeline/stage.ts";

/** The largest damping that is tried automatically. */
const MOST_DAMPING = 10;

/**
 * The factor of the inverse of the damped Hessian, in f32 if possible. On a pivot that is not positive,
 * f64 is tried if the adapter supports it, then both with ten times the damping, and so on.
 *
 * @returns The factor and the costs of {@link inverseFactor}.
 * @throws {UserError} If all attempts fail.
 */
async function factorSafely(
  { gpu, linears, emit }: GroupContext,
  hessian: Tensor,
  damping: number,
): Promise<{ factor: Tensor; cost: Tensor }> {
  const [n] = hessian.shape;
  const precisions: FactorPrecision[] = canFactorInF64(gpu, n) ? ["f32", "f64"] : ["f32"];
  const names = linears.map(({ name }) => name).join(", ");
  let failed = 0;
  let used = damping;
  while (true) {
    for (const precision of precisions) {
      const { factor, cost, status } = await inverseFactor(gpu, hessian, used, precision);
      [failed] = await gpu.read(status, "u32");
      gpu.free(status);
      if (failed === 0) {
        const raised = used === damping ? "" : ` with damping raised to ${used}`;
        if (raised || precision !== "f32") {
          emit({
            type: "warning",
            message: `The Hessian of ${names} could not be factored in f32 with damping ` +
              `${damping}; it was factored in ${precision}${raised}`,
          });
        }
        return { factor, cost };
      }
      gpu.free(factor, cost);
    }
    if (used === 0 || used >= MOST_DAMPING) break;
    used = Math.min(Number((10 * used).toPrecision(6)), MOST_DAMPING);
  }
  throw new UserError(
    `The Hessian of ${names} cannot be factored: with damping ${used} it is not positive ` +
      `definite at column ${n - failed} of ${n}; use more damping or more calibration text`,
  );
}

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
    for (const { weight } of linears) await zeroDeadColumns(gpu, h, weight);
    const before = gpu.section({ name: "factor" }); // its time is worth knowing apart from the sums
    const { factor, cost } = await factorSafely(context, h, damping);
    gpu.section(before);
    context.set("factor", factor);
    context.set("column-costs", cost);
  },
});
