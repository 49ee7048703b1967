import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { MAX_GROUPS, uniform } from "../../gpu/kernel.ts";
import { rowShape } from "../../gpu/kernels/binarize/row_shape.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import { difference } from "../../gpu/kernels/reduce/difference.ts";
import overRow from "../../gpu/kernels/reduce/reduce_row.wgsl" with { type: "text" };
import { largeLanes, reducesInSubgroup } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import chooseInSubgroup from "./choose_in_subgroup.wgsl" with { type: "text" };
import chooseInWorkgroup from "./choose_in_workgroup.wgsl" with { type: "text" };
import { type BillmBits, scalesPerBlock } from "./quantize_block.ts";
import { roundScales } from "./round_scales.ts";
import blockSource from "./search_block.wgsl" with { type: "text" };
import rowSource from "./search_row.wgsl" with { type: "text" };

/** The effort of {@link searchBits}. */
export interface SearchEffort {
  /** Rounds of sweeps over the blocks and tabu search over the rows. */
  rounds: number;
  /** Sweeps over the blocks per round: new bits of each block, then a refit of its means and scales. */
  sweeps: number;
  /** Moves of the tabu search per column and round; 0 for none. */
  moves: number;
  /**
   * Bits of the codes to which means and scales are rounded at the end; then a tabu search of at least
   * {@link ROUNDED_MOVES} moves per column adapts the bits. Not rounded beyond f16 if absent.
   */
  scaleBits?: 8 | 4;
}

/** Moves per column that make up for most of the rounding of means and scales. */
const ROUNDED_MOVES = 0.1;

/** The columns of a row that a thread of the tabu search holds in registers, if there are threads enough. */
const COLUMNS_PER_THREAD = 16;

/** Whether a layout can be searched: two zones, and two planes of the salient columns, if there are any. */
export function canSearch({ zones, planes }: Pick<BillmBits, "zones" | "planes">): boolean {
  return zones === 2 && (planes === 0 || planes === 2);
}

/**
 * Searches better means, scales and bits of a linear layer in the loss tr(E H Eᵀ), E = W - Q: each block
 * in turn gets better bits by coordinate descent and is refitted, with the rest fixed; then tabu search
 * changes the bits of whole rows. Which columns are salient does not change.
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
  { rounds, sweeps, moves, scaleBits }: SearchEffort,
  pause?: () => Promise<void>,
): Promise<void> {
  const residual = gpu.empty(target.shape);
  using _ = residual;
  const { most } = rowSearchShape(gpu, bits.cols);
  const search = async (movesPerColumn: number, seed: number) => {
    for (let left = Math.ceil(movesPerColumn * bits.cols); left > 0;) {
      await searchRows(gpu, hessian, residual, bits, quantized, Math.min(left, most), seed);
      left -= most;
      if (left > 0) await computeResidual(gpu, target, hessian, quantized, residual);
      await pause?.();
    }
  };
  for (let round = 0; round <= rounds; round++) {
    await computeResidual(gpu, target, hessian, quantized, residual);
    const isLast = round === rounds; // one more sweep after the last tabu search
    for (let sweep = 0; sweep < (isLast ? 1 : sweeps); sweep++) {
      await sweepBlocks(gpu, hessian, residual, bits, quantized);
      await pause?.();
    }
    if (!isLast && moves > 0) await search(moves, round);
  }
  if (!scaleBits) return;
  const { codes, factors } = await roundScales(gpu, bits, bits.scales, scaleBits);
  gpu.free(codes, factors);
  await searchRows(gpu, hessian, residual, bits, quantized, 0, 0); // Q of the rounded values
  await computeResidual(gpu, target, hessian, quantized, residual);
  await search(Math.max(moves, ROUNDED_MOVES), rounds);
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

/**
 * One sweep: improves the bits of each block by coordinate descent, then refits its means and scales.
 *
 * @param residual R = (W - Q) H, f32 `[rows, cols]`; updated with Q.
 */
export async function sweepBlocks(
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
    source: roundF16 + overRow + blockSource,
    constants: {
      ROWS,
      LANES,
      STRIDE,
      WORDS: blockSize / 32,
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

/** Weights times moves per dispatch: about a third of a second on a large GPU, since drivers stop long ones. */
const WORK = 2 ** 38;

/** The WGSL of the tabu search. */
export function rowSearchSource(perThread: number, isOneSubgroup: boolean): string {
  const choose = isOneSubgroup ? chooseInSubgroup : chooseInWorkgroup;
  return `const PER = ${perThread}u;\n${choose}${rowSource}`;
}

/** The threads of the tabu search for a row, the columns of each, and the most moves of one call. */
export function rowSearchShape(gpu: Gpu, cols: number): {
  lanes: number;
  perThread: number;
  most: number;
} {
  const wanted = Math.max(64, 2 ** Math.ceil(Math.log2(cols / COLUMNS_PER_THREAD)));
  const lanes = largeLanes(gpu, Math.min(1024, wanted));
  const perThread = Math.ceil(cols / lanes);
  const iterations = Math.floor(SOFTWARE_ITERATIONS / (perThread + 1)) - 2;
  return { lanes, perThread, most: gpu.software ? Math.max(1, iterations) : Infinity };
}

/**
 * Tabu search for the bits of each row, with fixed means and scales.
 *
 * @param residual R = (W - Q) H, f32 `[rows, cols]`; not updated.
 * @param moves At most those of {@link rowSearchShape}.
 * @param seed Of the random parts of the times for which columns are locked.
 */
export async function searchRows(
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
  const words = bitWords(cols);
  const { lanes, perThread } = rowSearchShape(gpu, cols);
  // Besides the levels, workgroup memory holds the bits of a row and the choice of a move.
  const memory = gpu.device.limits.maxComputeWorkgroupStorageSize - 8 * words - 64;
  const isStaged = 32 * blocks <= memory;
  const kernel = await gpu.kernel({
    name: `search_row_${perThread}`,
    source: rowSearchSource(perThread, reducesInSubgroup(gpu)),
    constants: {
      LANES: lanes,
      STAGED: Number(isStaged),
      LEVELS: isStaged ? 2 * blocks : 1,
      WORDS: words,
      HAS_SALIENT: Number(planes > 0),
      SCALES: scalesPerBlock(bits),
    },
  });
  const rowsPerCall = Math.min(MAX_GROUPS, Math.max(1, Math.floor(WORK / (cols * moves))));
  for (let first = 0; first < rows; first += rowsPerCall) {
    kernel.dispatch({
      params: uniform([first, rows, cols, words, blockSize, blocks, moves, seed]),
      tensors: [hessian, residual, bits.salient, bits.scales, bits.bits, quantized],
      workgroups: Math.min(rowsPerCall, rows - first),
    });
  }
}
