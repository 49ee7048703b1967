/**
 * Codes on grids in f64, one weight after the other.
 *
 * @see GPTQ, https://arxiv.org/abs/2210.17323
 */

import type { GridKind } from "../../codecs/grid/grid.ts";

/** The values that codes stand for: scale · (code - offset), or offset ± scale. */
export interface Grid {
  scale: number;
  /** Zero of "range", mean of "mean", 0 of "sign". */
  offset: number;
}

/** The nearest f16 that is finite. */
function half(value: number): number {
  return Math.f16round(Math.min(Math.max(value, -65504), 65504));
}

/** Rounds like IEEE 754: halves to the even neighbour. */
function roundEven(value: number): number {
  const below = Math.floor(value);
  const off = value - below;
  if (off !== 0.5) return off < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

/** The grid of some weights, with numbers as they are stored. */
export function fitGridReference(kind: GridKind, bits: number, weights: readonly number[]): Grid {
  if (kind === "range") {
    let [least, most] = [Math.min(0, ...weights), Math.max(0, ...weights)];
    if (least === 0 && most === 0) [least, most] = [-1, 1];
    const top = 2 ** bits - 1;
    const scale = Math.max(half((most - least) / top), 2 ** -24);
    return { scale, offset: Math.min(Math.max(roundEven(-least / scale), 0), top) };
  }
  const n = Math.max(weights.length, 1);
  const mean = kind === "mean" ? weights.reduce((sum, w) => sum + w, 0) / n : 0;
  const spread = weights.reduce((sum, w) => sum + Math.abs(w - mean), 0) / n;
  return { scale: half(spread), offset: half(mean) };
}

/** All values of a grid, by their codes. */
export function gridValues(kind: GridKind, bits: number, { scale, offset }: Grid): number[] {
  if (kind !== "range") return [offset - scale, offset + scale];
  return Array.from({ length: 2 ** bits }, (_, code) => scale * (code - offset));
}

/** The code of the nearest value. */
export function nearestCode(weight: number, values: readonly number[]): number {
  let best = 0;
  values.forEach((value, code) => {
    if (Math.abs(weight - value) < Math.abs(weight - values[best])) best = code;
  });
  return best;
}
