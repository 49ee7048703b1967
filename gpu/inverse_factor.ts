import blockSource from "./cholesky_block.wgsl" with { type: "text" };
import type { Gpu } from "./device.ts";
import { gemm } from "./gemm.ts";
import { uniform } from "./kernel.ts";
import meanSource from "./mean_diagonal.wgsl" with { type: "text" };
import { withReduction } from "./reduction.ts";
import reverseDampedSource from "./reverse_damped.wgsl" with { type: "text" };
import reverseFactorSource from "./reverse_factor.wgsl" with { type: "text" };
import type { Tensor } from "./tensor.ts";
import { placeRegion } from "./transpose.ts";

const BLOCK = 32;

/** The upper Cholesky factor of an inverse Hessian. */
export interface InverseFactor {
  /** U with UᵀU = (H + damping)⁻¹, f32 `[n, n]`, zeros below the diagonal. */
  factor: Tensor;
  /** 1 / U_jj², f32 `[n]`: the cost of a squared error in a column. */
  cost: Tensor;
  /** 0, or 1 + the column (counted from the last) where a pivot was not positive, u32 `[1]`. */
  status: Tensor;
}

/**
 * Factors the inverse of H + damping · mean(diagonal) · I without computing the inverse: with P the
 * reversal of rows and columns and P·H·P = L·Lᵀ, U = P·L⁻¹·P.
 *
 * @param hessian f32 `[n, n]`, of which the upper triangle is read; H_jj = 0 counts as 1.
 * @returns Tensors that the caller owns. If `status` is not 0, the others are useless.
 */
export async function inverseFactor(
  gpu: Gpu,
  hessian: Tensor,
  damping: number,
): Promise<InverseFactor> {
  const [n] = hessian.shape;
  const tiles: [number, number] = [Math.ceil(n / 16), Math.ceil(n / 4)];
  using mean = gpu.empty([1]);
  const meanKernel = await gpu.kernel(
    withReduction(gpu, { name: "mean_diagonal", source: meanSource }),
  );
  meanKernel.dispatch({ params: uniform([n]), tensors: [hessian, mean], workgroups: 1 });
  using a = gpu.empty([n, n]);
  const reverse = await gpu.kernel({ name: "reverse_damped", source: reverseDampedSource });
  reverse.dispatch({
    params: uniform([n], [damping]),
    tensors: [hessian, mean, a],
    workgroups: tiles,
  });

  const status = gpu.zeros([1], "u32");
  const block = await gpu.kernel({ name: "cholesky_block", source: blockSource });
  using m = gpu.zeros([n, n]); // becomes L⁻¹
  const inverse = gpu.empty([BLOCK, BLOCK]);
  for (let start = 0; start < n; start += BLOCK) {
    const size = Math.min(BLOCK, n - start);
    const after = start + size;
    const rest = n - after;
    block.dispatch({
      params: uniform([n, start, size]),
      tensors: [a, inverse, status],
      workgroups: 1,
    });
    // The panel below the block: L = A · (L_bb⁻¹)ᵀ.
    using panel = gpu.empty([Math.max(rest, 1), BLOCK]);
    await gemm(gpu, {
      layout: "NT",
      m: rest,
      n: size,
      k: size,
      a: { tensor: a, start: after * n + start, stride: n },
      b: inverse,
      c: panel,
    });
    // The rest of the matrix: A -= L Lᵀ. Only its lower triangle counts, but GEMM can leave out
    // tiles below the diagonal only.
    await gemm(gpu, {
      layout: "NT",
      m: rest,
      n: rest,
      k: size,
      alpha: -1,
      accumulate: true,
      a: panel,
      b: panel,
      c: { tensor: a, start: after * n + after, stride: n },
    });
    // L⁻¹, the same way: its rows of the block are L_bb⁻¹ · (I - what earlier rows contributed).
    using rows = gpu.empty([BLOCK, n]);
    await gemm(gpu, {
      layout: "NN",
      m: size,
      n: start,
      k: size,
      a: inverse,
      b: { tensor: m, start: start * n, stride: n },
      c: { tensor: rows, stride: n },
    });
    await placeRegion(gpu, { tensor: inverse, start: 0, stride: BLOCK, rows: size, cols: size }, {
      tensor: rows,
      start,
      stride: n,
    });
    await placeRegion(gpu, { tensor: rows, start: 0, stride: n, rows: size, cols: after }, {
      tensor: m,
      start: start * n,
      stride: n,
    });
    // Reads the rows from their own tensor: a kernel cannot read what it writes.
    await gemm(gpu, {
      layout: "NN",
      m: rest,
      n: after,
      k: size,
      alpha: -1,
      accumulate: true,
      a: panel,
      b: rows,
      c: { tensor: m, start: after * n, stride: n },
    });
  }
  gpu.free(inverse);
  const factor = gpu.empty([n, n]);
  const cost = gpu.empty([n]);
  const turn = await gpu.kernel({ name: "reverse_factor", source: reverseFactorSource });
  turn.dispatch({ params: uniform([n]), tensors: [m, factor, cost], workgroups: tiles });
  return { factor, cost, status };
}
