import type { Gpu } from "./device.ts";
import {
  BROADCAST_TILE,
  broadcastKernel,
  finishKernel,
  GEMM_FLAGS,
  type GemmFit,
  type GemmLayout,
  tileKernel,
  tileKernelBytes,
  type TileShape,
} from "./gemm_source.ts";
import { uniform } from "./kernel.ts";
import type { Tensor } from "./tensor.ts";
import { copyRegion } from "./transpose.ts";

export type { GemmLayout } from "./gemm_source.ts";

/** A row-major matrix inside an f32 tensor: row i begins at element `start + i * stride`. */
export interface Matrix {
  tensor: Tensor;
  start?: number;
  /** Elements from one row to the next; the tensor's last dimension unless told otherwise. */
  stride?: number;
}

export interface Gemm {
  /** Which of A and B come transposed. C is `[m, n]`, the inner dimension is k. */
  layout: GemmLayout;
  m: number;
  n: number;
  k: number;
  a: Matrix | Tensor;
  b: Matrix | Tensor;
  c: Matrix | Tensor;
  /** Factor of the product; 1 unless told otherwise. */
  alpha?: number;
  /** Adds to C instead of replacing it. */
  accumulate?: boolean;
  /** Added to every row, `[n]`. */
  bias?: Tensor;
  /** Added to the result, `[m, n]`; must not share memory with C. */
  residual?: Matrix | Tensor;
  /** Leaves out tiles of C that lie wholly below the diagonal (they keep their content). */
  upperOnly?: boolean;
}

interface Placed {
  tensor: Tensor;
  start: number;
  stride: number;
}

function place(matrix: Matrix | Tensor): Placed {
  const { tensor, start = 0, stride } = "tensor" in matrix
    ? matrix
    : { tensor: matrix, start: 0, stride: undefined };
  return { tensor, start, stride: stride ?? tensor.shape[tensor.shape.length - 1] };
}

const LARGE: TileShape = { rows: 128, cols: 128, depth: 16 };
const SMALL: TileShape = { rows: 64, cols: 64, depth: 16 };

/**
 * Queues C = alpha · op(A) · op(B) (+ bias) (+ residual) (+ C), in f32.
 *
 * GPUs multiply tiles in workgroup memory; a driver that computes on the CPU, and has subgroups of
 * one size, passes values round between the lanes of a subgroup instead.
 */
export async function gemm(gpu: Gpu, options: Gemm): Promise<void> {
  const { m, n } = options;
  if (m === 0 || n === 0) return;
  const call: Call = {
    ...options,
    a: place(options.a),
    b: place(options.b),
    c: place(options.c),
    residual: options.residual ? place(options.residual) : undefined,
  };
  const { buffer } = call.c.tensor;
  if ([call.a, call.b, call.residual].some((operand) => operand?.tensor.buffer === buffer)) {
    throw new Error("A product cannot be written over what it is made of");
  }
  const lanes = gpu.subgroupSize;
  const { rows } = BROADCAST_TILE;
  if (gpu.software && lanes > 0 && rows % lanes === 0) await broadcastGemm(gpu, call);
  else await tileGemm(gpu, call);
}

type Call = Omit<Gemm, "a" | "b" | "c" | "residual"> & {
  a: Placed;
  b: Placed;
  c: Placed;
  residual?: Placed;
};

async function tileGemm(gpu: Gpu, call: Call): Promise<void> {
  const { layout, m, n, k, a, b, c, residual = c } = call;
  const tile = tileFor(gpu, m, n);
  // A vec4 may not run over the end of a row: not along n, nor along k where that is the fast one.
  const inner = layout === "NN" || layout === "NT" ? [k, n] : [n];
  const aligned = inner.concat([a, b, c, residual].flatMap(({ start, stride }) => [start, stride]))
    .every((value) => value % 4 === 0);
  const fit = aligned ? fitOf(gpu, layout, tile, m, n, k) : "any";
  const kernel = await gpu.kernel({
    name: `gemm_${layout}_${tile.rows}x${tile.cols}x${tile.depth}_${fit}`,
    source: () => tileKernel(layout, tile, fit),
  });
  kernel.dispatch({
    ...parameters(call),
    workgroups: [Math.ceil(n / tile.cols), Math.ceil(m / tile.rows)],
  });
}

function fitOf(
  gpu: Gpu,
  layout: GemmLayout,
  tile: TileShape,
  m: number,
  n: number,
  k: number,
): GemmFit {
  if (m % tile.rows || n % tile.cols || k % tile.depth) return "aligned";
  const { maxComputeWorkgroupStorageSize } = gpu.device.limits;
  const fits = tileKernelBytes(layout, tile, "paired") <= maxComputeWorkgroupStorageSize;
  return fits && k % (2 * tile.depth) === 0 ? "paired" : "whole";
}

function tileFor(gpu: Gpu, m: number, n: number): TileShape {
  const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } = gpu.device.limits;
  const fits = maxComputeInvocationsPerWorkgroup >= 256 &&
    tileKernelBytes("NT", LARGE, "any") <= maxComputeWorkgroupStorageSize;
  // Fewer large tiles than this leave multiprocessors idle.
  return fits && Math.ceil(m / LARGE.rows) * Math.ceil(n / LARGE.cols) >= 128 ? LARGE : SMALL;
}

async function broadcastGemm(gpu: Gpu, call: Call): Promise<void> {
  const { layout, m, n, k, c, bias, upperOnly } = call;
  const lanes = gpu.subgroupSize;
  const tile = { rows: BROADCAST_TILE.rows, cols: BROADCAST_TILE.colsPerLane * lanes };
  const temporary: Tensor[] = [];
  const prepare = async (matrix: Placed, rows: number, cols: number) => {
    if (matrix.start % 4 === 0 && matrix.stride % 4 === 0) return matrix;
    const stride = Math.ceil(cols / 4) * 4; // whole vec4s
    const tensor = gpu.empty([rows, stride]);
    temporary.push(tensor);
    await copyRegion(gpu, { ...matrix, rows, cols }, tensor, stride);
    return { tensor, start: 0, stride };
  };
  const a = layout === "TN" ? await prepare(call.a, k, m) : await prepare(call.a, m, k);
  const b = layout === "NT" ? await prepare(call.b, n, k) : await prepare(call.b, k, n);
  const grid: [number, number] = [Math.ceil(n / tile.cols), Math.ceil(m / tile.rows)];
  const whole = m % tile.rows === 0 && n % tile.cols === 0 &&
    c.start % 4 === 0 && c.stride % 4 === 0;
  const plain = (call.alpha ?? 1) === 1 && !call.residual && !call.accumulate;
  const inPlace = whole && plain;
  let product = c;
  if (!inPlace) {
    const stride = grid[0] * tile.cols;
    const tensor = gpu.empty([grid[1] * tile.rows, stride]);
    temporary.push(tensor);
    product = { tensor, start: 0, stride };
  }
  const kernel = await gpu.kernel({
    name: `gemm_broadcast_${layout}_${lanes}`,
    source: () => broadcastKernel(layout, lanes),
  });
  const fused = inPlace ? bias : undefined;
  const { params } = parameters({ layout, m, n, k, a, b, c: product, bias: fused, upperOnly });
  kernel.dispatch({
    params,
    tensors: [a.tensor, b.tensor, product.tensor, fused ?? a.tensor],
    workgroups: grid,
  });
  if (!inPlace) await finish(gpu, { ...call, a: product, b: product });
  gpu.free(...temporary);
}

/** Queues C = alpha · A (+ bias) (+ residual) (+ C) for a product A that is already there. */
async function finish(gpu: Gpu, call: Call): Promise<void> {
  const { m, n, a, c, residual = c } = call;
  const aligned = [a, c, residual].every(({ start, stride }) => start % 4 + stride % 4 === 0) &&
    n % 4 === 0;
  const flags = flagsOf(call) & ~GEMM_FLAGS.upper;
  const kernel = await gpu.kernel({
    name: `gemm_finish_${aligned ? "aligned" : "any"}_${flags}`,
    source: () => finishKernel(aligned ? "aligned" : "any", flags),
  });
  kernel.dispatch({ ...parameters(call), workgroups: [Math.ceil(n / 64), Math.ceil(m / 4)] });
}

function flagsOf({ bias, residual, accumulate, upperOnly }: Call): number {
  return (bias ? GEMM_FLAGS.bias : 0) |
    (residual ? GEMM_FLAGS.residual : 0) |
    (accumulate ? GEMM_FLAGS.accumulate : 0) |
    (upperOnly ? GEMM_FLAGS.upper : 0);
}

function parameters(call: Call): { params: Uint8Array; tensors: Tensor[] } {
  const { m, n, k, a, b, c, bias, residual, alpha = 1 } = call;
  const flags = flagsOf(call);
  const r = residual ?? { tensor: a.tensor, start: 0, stride: 0 };
  return {
    params: uniform(
      [m, n, k, flags, a.start, a.stride, b.start, b.stride, c.start, c.stride, r.start, r.stride],
      [alpha],
    ),
    tensors: [a.tensor, b.tensor, c.tensor, bias ?? a.tensor, r.tensor],
  };
}
