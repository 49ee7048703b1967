import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import { gemm } from "../matmul/gemm.ts";
import differenceSource from "./difference.wgsl" with { type: "text" };
import dotSource from "./dot.wgsl" with { type: "text" };
import { withReduction } from "./reduction.ts";

const PARTS = 256;

/** tr(D H Dᵀ) = Σ (D H) ∘ D as partial sums, f32 `[256]`. */
async function quadraticForm(gpu: Gpu, d: Tensor, hessian: Tensor, part: Tensor): Promise<void> {
  const [rows, n] = d.shape;
  using product = gpu.empty(d.shape);
  await gemm(gpu, { layout: "NN", m: rows, n, k: n, a: d, b: hessian, c: product });
  const dot = await gpu.kernel(withReduction(gpu, { name: "dot", source: dotSource }));
  dot.dispatch({ params: uniform([d.size]), tensors: [d, product, part], workgroups: PARTS });
}

/** The difference of two tensors of the same shape, f32, owned by the caller. */
export async function subtract(gpu: Gpu, a: Tensor, b: Tensor): Promise<Tensor> {
  const kernel = await gpu.kernel({ name: "difference", source: differenceSource });
  const difference = gpu.empty(a.shape);
  kernel.dispatch({
    params: uniform([a.size]),
    tensors: [a, b, difference],
    workgroups: Math.ceil(a.size / 64),
  });
  return difference;
}

/**
 * The output error of a quantized linear layer on the calibration data: partial sums of
 * tr((W-Q) H (W-Q)ᵀ) and of tr(W H Wᵀ).
 *
 * @param weight W, f32 `[rows, n]`; `quantized` is Q.
 * @param hessian H, symmetric, f32 `[n, n]`.
 * @returns f32 `[2, 256]`, owned by the caller; see {@link relativeError}.
 */
export async function outputErrorParts(
  gpu: Gpu,
  weight: Tensor,
  quantized: Tensor,
  hessian: Tensor,
): Promise<Tensor> {
  using d = await subtract(gpu, weight, quantized);
  const parts = gpu.empty([2, PARTS]);
  await quadraticForm(gpu, d, hessian, parts.view(0, [PARTS]));
  await quadraticForm(gpu, weight, hessian, parts.view(PARTS, [PARTS]));
  return parts;
}

/** The error relative to the output, tr((W-Q) H (W-Q)ᵀ) / tr(W H Wᵀ). */
export async function relativeError(parts: Tensor): Promise<number> {
  const sums = await parts.gpu.read(parts);
  const sum = (from: number) => sums.subarray(from, from + PARTS).reduce((a, b) => a + b, 0);
  return sum(0) / sum(PARTS);
}
