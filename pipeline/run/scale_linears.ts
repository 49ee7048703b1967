import { EXPONENTS } from "../../codecs/exponent.ts";
import type { Gpu } from "../../gpu/device.ts";
import { largestMagnitude } from "../../gpu/kernels/reduce/largest.ts";
import { transformRows } from "../../gpu/kernels/rotation/rotate.ts";
import type { LinearLayer } from "../stage.ts";

/** Elements between two results, for the alignment of bindings. */
const STRIDE = 64;

/** The weights up to 2^8 and from 2^-8 on, as the largest one of a linear layer, stay as they are. */
const USUAL = 8;

/**
 * Divides the weights of linear layers whose scales might leave the range of f16 by a power of two, which
 * changes no other bit of them. The factor becomes a part of the transform of their input.
 */
export async function scaleLinears(gpu: Gpu, linears: readonly LinearLayer[]): Promise<void> {
  const size = linears.length * STRIDE;
  // Memory that nothing uses yet, so that no run needs more of it.
  const room = linears.find(({ quantized }) => quantized.size >= size)?.quantized;
  using tops = room ? room.view(0, [size]) : gpu.empty([size]);
  gpu.clear(tops);
  for (const [i, { weight }] of linears.entries()) {
    await largestMagnitude(gpu, weight, tops.view(i * STRIDE, [1]));
  }
  const found = await gpu.read(tops);
  for (const [i, linear] of linears.entries()) {
    const exponent = exponentFor(found[i * STRIDE]);
    if (exponent === 0) continue;
    for (const matrix of [linear.original, linear.weight]) {
      await transformRows(gpu, matrix, { exponent: -exponent });
    }
    linear.transform = { ...linear.transform, exponent };
  }
}

/**
 * The exponent that brings the largest magnitude of a linear layer to 1 .. 2; 0 if it is usual, or if all
 * weights are 0.
 */
export function exponentFor(largest: number): number {
  if (largest === 0 || largest >= 2 ** -USUAL && largest <= 2 ** USUAL) return 0;
  const bits = new Uint32Array(Float32Array.of(largest).buffer)[0];
  return Math.max(EXPONENTS.least, Math.min(EXPONENTS.most, (bits >>> 23) - 127));
}
