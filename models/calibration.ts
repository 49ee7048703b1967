import type { Gpu } from "../gpu/device.ts";
import type { Activations } from "./activations.ts";

/** The calibration data and where they are in the model. */
export interface Calibration {
  /** Windows that go through the model together. */
  batches: Int32Array[][];
  /** Of the batches, on their way through the decoder layers. */
  activations: Activations;
  /** Tokens of a window. */
  length: number;
  /** Windows in all batches. */
  sequences: number;
  /**
   * "layer": all Hessians of a decoder layer from its original weights, then a second pass through
   * the quantized ones. "module": one pass, each group of linear layers sees the quantized ones
   * before it.
   */
  order: "layer" | "module";
}

/** Batches that are queued on a GPU before the host waits for them. */
const BATCHES_AHEAD = 32;

/**
 * Lets the host run ahead of a GPU, but not too far; a driver on the CPU gains nothing by it.
 *
 * @param done Batches that have been queued.
 */
export async function paceBatches(gpu: Gpu, done: number): Promise<void> {
  if (gpu.software || done % BATCHES_AHEAD === 0) await gpu.idle();
}

/** Groups windows so that a batch has about `tokens` tokens. */
export function batchWindows(windows: Int32Array[], tokens: number): Int32Array[][] {
  const perBatch = Math.max(1, Math.floor(tokens / windows[0].length));
  const batches: Int32Array[][] = [];
  for (let i = 0; i < windows.length; i += perBatch) batches.push(windows.slice(i, i + perBatch));
  return batches;
}
