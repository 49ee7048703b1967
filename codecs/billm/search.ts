import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { type KernelSource, uniform } from "../../gpu/kernel.ts";
import { rowShape } from "../../gpu/kernels/binarize/row_shape.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import { difference } from "../../gpu/kernels/reduce/difference.ts";
import { largeLanes, reducesInSubgroup } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { type BillmBits, scalesPerBlock } from "./quantize_block.ts";
import blockSource from "./search_block.wgsl" with { type: "text" };
import { type Choice, rowSearchSource } from "./search_row_source.ts";

/** The effort of {@link searchBits}. */
export interface SearchEffort {
  /** Rounds of sweeps over the blocks and tabu search over the rows. */
  rounds: number;
  /** Sweeps over the blocks per round: a refit of each block's means and scales, then its bits. */
  sweeps: number;
  /** Moves of the tabu search per column and round; 0 for none. */
  moves: number;
}

/** The columns of a row that a thread of the tabu search holds in registers, if there are threads enough. */
const COLUMNS_PER_THREAD = 16;

/** Passes of coordinate descent over a block per sweep. */
const PASSES = 1;

/** Whether a layout can be searched: two zones, and two planes of the salient columns, if there are any. */
export function canSearch({ zones, planes }: Pick<BillmBits, "zones" | "planes">): boolean {
  return zones === 2 && (planes === 0 || planes === 2);
}

/**
 * Searches better means, scales and bits of a linear layer in the loss tr(E H Eᵀ), E = W - Q: each block
 * in turn is refitted with the rest fixed, and its bits by coordinate descent; then tabu search changes
 * the bits of whole rows. Which columns are salient does not change.
 *
 * @param target W, f32 `[rows, cols]`.
 * @param hessian H, damped, symmetric, f32 `[cols, cols]`.
 * @param bits A layout that {@link canSearch}; updated.
 * @param quantized Q, the dequantized values of `bits`, f32 `[rows, cols]`; updated.
 * @param pause Called between steps that may take long.
 */
export async function searchBits(
  gpu: Gpu,
  target: Tensor,
  hessian: Tensor,
  bits: BillmBits,
  quantized: Tensor,
  { rounds, sweeps, moves }: SearchEffort,
  pause?: () => Promise<void>,
): Promise<void> {
  const residual = gpu.empty(target.shape);
  using _ = residual;
  const { most } = rowSearchKernel(gpu, bits.cols);
  for (let round = 0; round <= rounds; round++) {
    await computeResidual(gpu, target, hessian, quantized, residual);
    const isLast = round === rounds; // one more sweep after the last tabu search
    for (let sweep = 0; sweep < (isLast ? 1 : sweeps); sweep++) {
      await sweepBlocks(gpu, hessian, residual, bits, quantized);
      await pause?.();
    }
    let left = isLast ? 0 : Math.ceil(moves * bits.cols);
    while (left > 0) {
      await searchRows(gpu, hessian, residual, bits, quantized, Math.min(left, most), round);
      left -= most;
      if (left > 0) await computeResidual(gpu, target, hessian, quantized, residual);
      await pause?.();
    }
  }
}

/** R = (W - Q) H. */
async function computeResidual(
  gpu: Gpu,
  target: Tensor,
  hessian: Tensor,
  quantized: Tensor,
  residual: Tensor,
): Promise<void> {
  const [rows, cols] = target.shape;
  using error = await difference(gpu, target, quantized);
  await gemm(gpu, { layout: "NN", m: rows, n: cols, k: cols, a: error, b: hessian, c: residual });
}

async function sweepBlocks(
  gpu: Gpu,
  hessian: Tensor,
  residual: Tensor,
  bits: BillmBits,
  quantized: Tensor,
): Promise<void> {
  const { rows, cols, blockSize, planes } = bits;
  const { ROWS, LANES, STRIDE } = rowShape(gpu, blockSize);
  const kernel = await gpu.kernel({
    name: "search_block",
    source: roundF16 + blockSource,
    constants: {
      ROWS,
      LANES,
      STRIDE,
      WORDS: blockSize / 32,
      PASSES,
      HAS_SALIENT: Number(planes > 0),
      SCALES: scalesPerBlock(bits),
    },
  });
  const blocks = Math.ceil(cols / blockSize);
  for (let block = 0; block < blocks; block++) {
    const first = block * blockSize;
    const width = Math.min(blockSize, cols - first);
    using change = gpu.empty([rows, width]);
    kernel.dispatch({
      params: uniform([rows, width, first, cols, bitWords(cols), block, blocks]),
      tensors: [hessian, residual, bits.salient, bits.bits, bits.scales, quantized, change],
      workgroups: Math.ceil(rows / ROWS),
    });
    await gemm(gpu, {
      layout: "NN",
      m: rows,
      n: cols,
      k: width,
      alpha: -1,
      accumulate: true,
      a: change,
      b: { tensor: hessian, start: first * cols, stride: cols },
      c: residual,
    });
  }
}

/** Iterations of loops after which lavapipe ends all loops of a thread, less some for other loops. */
const SOFTWARE_ITERATIONS = 65535 - 8192;

/**
 * The tabu search's kernel for an adapter and a number of columns.
 *
 * @returns The kernel, and the most moves that one call may make.
 */
export function rowSearchKernel(gpu: Gpu, cols: number): KernelSource & { most: number } {
  const wanted = Math.max(64, 2 ** Math.ceil(Math.log2(cols / COLUMNS_PER_THREAD)));
  const lanes = largeLanes(gpu, Math.min(1024, wanted));
  const perThread = Math.ceil(cols / lanes);
  const choice: Choice = reducesInSubgroup(gpu)
    ? "one subgroup"
    : gpu.subgroupSize > 0
    ? "subgroups"
    : "workgroup";
  return {
    name: `search_row_${perThread}`,
    source: () => rowSearchSource(perThread, !gpu.software, choice),
    constants: { LANES: lanes },
    most: gpu.software ? Math.max(1, Math.floor(SOFTWARE_ITERATIONS / perThread) - 2) : Infinity,
  };
}

async function searchRows(
  gpu: Gpu,
  hessian: Tensor,
  residual: Tensor,
  bits: BillmBits,
  quantized: Tensor,
  moves: number,
  seed: number,
): Promise<void> {
  const { rows, cols, blockSize, planes } = bits;
  const blocks = Math.ceil(cols / blockSize);
  const { name, source, constants } = rowSearchKernel(gpu, cols);
  const kernel = await gpu.kernel({
    name,
    source,
    constants: {
      ...constants,
      MOVES: moves,
      BLOCK: blockSize,
      LEVELS: 2 * blocks,
      WORDS: bitWords(cols),
      HAS_SALIENT: Number(planes > 0),
      SCALES: scalesPerBlock(bits),
    },
  });
  kernel.dispatch({
    params: uniform([rows, cols, bitWords(cols), blocks, seed]),
    tensors: [hessian, residual, bits.salient, bits.scales, bits.bits, quantized],
    workgroups: rows,
  });
}
