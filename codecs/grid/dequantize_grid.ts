import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./dequantize_grid.wgsl" with { type: "text" };
import { codeWords, groupsOf, type LinearGrid } from "./grid.ts";

/**
 * The dequantized weights of a grid layer.
 *
 * @returns f32 `[rows, cols]`, owned by the caller.
 */
export async function dequantizeGrid(gpu: Gpu, linear: LinearGrid): Promise<Tensor> {
  const { rows, cols, groupSize, codes, fits, mask, salientFits } = linear;
  const words = bitWords(cols);
  const kernel = await gpu.kernel({
    name: "dequantize_grid",
    source,
    constants: {
      HAS_SALIENT: Number(linear.salient),
      CENTERED: Number(linear.grid !== "range"),
      BITS: linear.bits,
      CODE_WORDS: codeWords(linear),
    },
  });
  const weight = gpu.empty([rows, cols]);
  kernel.dispatch({
    params: uniform([rows, cols, words, groupSize, groupsOf(linear)]),
    tensors: [codes, fits, mask ?? codes, salientFits ?? fits, weight],
    workgroups: Math.ceil(rows * words / 64),
  });
  return weight;
}
