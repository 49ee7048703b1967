import { z } from "zod";
import { gemm } from "../gpu/gemm.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { placeRegion } from "../gpu/transpose.ts";
import { blockBits } from "../pipeline/block_bits.ts";
import { defineStage, type LinearLayer } from "../pipeline/stage.ts";

/** Rounds of refinement where the file says nothing: more gain less than another seed does. */
const REFINE = 8;

/**
 * Columns whose errors reach the columns beyond them in one product, not block by block: a product of
 * 128 inner columns reads and writes as much as one of 1024.
 */
const LAZY_COLUMNS = 1024;

/** The errors of the columns so far that the columns beyond have not made up for, f32 `[rows, n]`. */
const errorsOf = new WeakMap<LinearLayer, Tensor>();

/**
 * Turns the block into bits and lets the columns to come make up for its error:
 * W[:, later] -= E · U[block, later] with E = (W - Q) / U_jj.
 *
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */
export const compensate = defineStage({
  name: "compensate",
  scope: "block",
  summary: "Let the columns to come make up for each block's error",
  options: z.strictObject({
    "block-size": z.literal([32, 64, 128, 256]).default(128).describe(
      "Columns that share scales and are quantized together",
    ),
    "feedback": z.enum(["block", "column"]).default("column").describe(
      "block: only the blocks to come make up for an error (as the released program does); " +
        "column: also the columns to come in the block",
    ),
    "assign": z.enum(["fit", "nearest"]).default("nearest").describe(
      "The bits of a weight: those that the fit saw, or those of the nearest stored value",
    ),
    "refine": z.int().min(0).max(100).optional().describe(
      "Times that means and scales are moved to fit the bits, and the bits to fit them; " +
        "8 if absent, none with assign: fit",
    ),
  }).refine(({ assign, refine }) => assign === "nearest" || !refine, {
    path: ["refine"],
    message: "must be 0 with assign: fit",
  }),
  presets: { reference: { feedback: "block", assign: "fit" } },
  needs: ["factor"],
  gives: ["block-error"],

  async run(context, options) {
    const { gpu, linear, block } = context;
    const error = await blockBits(context, {
      feedback: options.feedback === "column",
      nearest: options.assign === "nearest",
      refine: options.refine ?? (options.assign === "nearest" ? REFINE : 0),
    });
    const { rows, cols } = linear;
    const later = block.first + block.cols;
    const first = block.first - block.first % LAZY_COLUMNS;
    const end = Math.min(first + LAZY_COLUMNS, cols);
    const factor = context.get("factor");
    const makeUpFor = (a: Tensor, from: number, start: number, stop: number) =>
      gemm(gpu, {
        layout: "NN",
        m: rows,
        n: stop - start,
        k: a.shape[1],
        alpha: -1,
        accumulate: true,
        a,
        b: { tensor: factor, start: from * cols + start, stride: cols },
        c: { tensor: linear.weight, start, stride: cols },
      });
    await makeUpFor(error, block.first, later, end);
    if (end === cols) return;
    const errors = errorsOf.get(linear) ?? gpu.empty([rows, end - first]);
    errorsOf.set(linear, errors);
    const region = { tensor: error, start: 0, stride: block.cols, rows, cols: block.cols };
    const stride = end - first;
    await placeRegion(gpu, region, { tensor: errors, start: block.first - first, stride });
    if (later < end) return;
    await makeUpFor(errors, first, end, cols);
    gpu.free(errors);
    errorsOf.delete(linear);
  },
});
