import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./norm.wgsl" with { type: "text" };
import large from "./reduce_large.wgsl" with { type: "text" };
import { withReduction } from "./reduction.ts";

/**
 * Normalizes the rows of `x`, f32 `[rows, cols]`: layer norm if there is a bias, else RMS norm. Rows
 * that are a multiple of the weight long, such as the heads of a token, are normalized part by part.
 *
 * @param weight Factor of each column, f32 `[cols]`.
 * @returns f32, the shape of `x`, owned by the caller.
 */
export async function norm(
  gpu: Gpu,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | undefined,
  epsilon: number,
): Promise<Tensor> {
  const cols = weight.size;
  const rows = x.size / cols;
  const constants = { CENTER: Number(bias !== undefined) };
  const kernel = await gpu.kernel(
    rows === 1 && !gpu.software
      ? { name: "norm_row", source: () => large + source, constants: { ...constants, LANES: 256 } }
      : withReduction(gpu, { name: "norm", source, constants }),
  );
  const out = gpu.empty(x.shape);
  kernel.dispatch({
    params: uniform([rows, cols], [epsilon]),
    tensors: [x, weight, bias ?? weight, out],
    workgroups: rows,
  });
  return out;
}
