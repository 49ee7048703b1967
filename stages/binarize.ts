import { z } from "zod";
import { defineStage } from "../pipeline/stage.ts";
import { blockBits } from "./block_bits.ts";

/** The end of a chain that has fitted bits to the blocks, but in which no stage has taken them. */
export const binarize = defineStage({
  name: "binarize",
  scope: "block",
  summary: "Take the bits that the fits saw",
  options: z.strictObject({}),
  needs: [],
  gives: ["block-error"],
  completes: "block-error",

  async run(context) {
    await blockBits(context, { feedback: false, nearest: false, refine: 0 });
  },
});
