import type { Gpu } from "./device.ts";
import differenceSource from "./difference.wgsl" with { type: "text" };
import dotSource from "./dot.wgsl" with { type: "text" };
import { gemm } from "./gemm.ts";
import { uniform } from "./kernel.ts";
import { withReduction } from "./reduction.ts";
import type { Tensor } from "./tensor.ts";

const PARTS = 256;

/** tr(D H Dᵀ) = Σ (D H) ∘ D as partial sums, f32 `[256]`, owned by the caller. */
async function quadraticForm(gpu: Gpu, d: Tensor, hessian: Tensor): Promise<Tensor> {
  const [rows, n] = d.shape;
  using product = gpu.empty(d.shape);
  await gemm(gpu, { layout: "NN", m: rows, n, k: n, a: d, b: hessian, c: product });
  const dot = await gpu.kernel(withReduction(gpu, { name: "dot", source: dotSource }));
  const part = gpu.empty([PARTS]);
  dot.dispatch({ params: uniform([d.size]), tensors: [d, product, part], workgroups: PARTS });
  return part;
}

/**
 * What quantization does to a layer's output on the calibration data, relative to the output:
 * tr((W-Q) H (W-Q)ᵀ) / tr(W H Wᵀ).
 *
 * @param weight W, f32 `[rows, n]`; `quantized` is Q.
 * @param hessian H, symmetric, f32 `[n, n]`.
 */
export async function relativeOutputError(
  gpu: Gpu,
  weight: Tensor,
  quantized: Tensor,
  hessian: Tensor,
): Promise<number> {
  const kernel = await gpu.kernel({ name: "difference", source: differenceSource });
  using d = gpu.empty(weight.shape);
  kernel.dispatch({
    params: uniform([weight.size]),
    tensors: [weight, quantized, d],
    workgroups: Math.ceil(weight.size / 64),
  });
  using error = await quadraticForm(gpu, d, hessian);
  using output = await quadraticForm(gpu, weight, hessian);
  const sum = async (parts: Tensor) => (await gpu.read(parts)).reduce((a, b) => a + b, 0);
  return await sum(error) / await sum(output);
}
