import type { Gpu } from "../gpu/device.ts";
import { UserError } from "../pipeline/errors.ts";
import { bytesText } from "../pipeline/units.ts";
import type { Activations } from "./activations.ts";
import { linearGroups } from "./architecture.ts";
import { liveRegisters, totalWidth } from "./layer_plan.ts";
import type { ModelFiles } from "./model_files.ts";

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

/** Groups windows so that a batch has about `tokens` tokens. */
export function batchWindows(windows: Int32Array[], tokens: number): Int32Array[][] {
  const perBatch = Math.max(1, Math.floor(tokens / windows[0].length));
  const batches: Int32Array[][] = [];
  for (let i = 0; i < windows.length; i += perBatch) batches.push(windows.slice(i, i + perBatch));
  return batches;
}

/** What decides how much GPU memory quantizing takes. */
export interface MemoryNeeds {
  batchTokens: number;
  order: "layer" | "module";
}

/**
 * GPU memory that quantizing a decoder layer takes besides the activations that are kept, in bytes:
 * weights of this layer and the next, what a group of linear layers is quantized with, and a batch on
 * its way through the layer. From above: not all of it is needed at once.
 */
export function workingBytes(model: ModelFiles, { batchTokens, order }: MemoryNeeds): number {
  const { architecture, checkpoint } = model;
  const stored = (module: string) =>
    checkpoint.get(`${architecture.names.layer(0)}${module}.weight`);
  const weightsOf = (modules: string[]) =>
    modules.reduce((sum, module) => sum + stored(module).shape.reduce((a, b) => a * b), 0);
  const groups = linearGroups(architecture).map(({ modules }) => {
    const [, cols] = stored(modules[0]).shape;
    return { weights: weightsOf(modules), cols, stored: modules.map(stored) };
  });
  const weights = groups.reduce((sum, group) => sum + group.weights, 0);
  const nextLayer = groups.flatMap((group) => group.stored).reduce((sum, t) => sum + t.bytes, 0);
  const hessians = groups.map(({ cols }) => 4 * cols ** 2);
  const widest = Math.max(...hessians);
  const allHessians = order === "layer" ? hessians.reduce((a, b) => a + b, 0) : widest;
  // A group's weights as compensated so far and as quantized, and what they are packed into.
  const inWork = Math.max(...groups.map((group) => 8.5 * group.weights));
  const widths = liveRegisters(architecture, (module) => stored(module).shape[0]).map(totalWidth);
  // What an operation reads and what it writes are there at the same time.
  const batch = 4 * batchTokens * Math.max(...widths.slice(1).map((width, i) => width + widths[i]));
  return 4 * weights + nextLayer + inWork + allHessians + Math.max(batch, 2 * widest);
}

/**
 * GPU memory that the activations of all tokens may be kept in.
 *
 * @returns Bytes.
 * @throws {UserError} If the GPU's memory, or as much of it as may be used, is too little.
 */
export async function activationBytes(
  gpu: Gpu,
  model: ModelFiles,
  tokens: number,
  needs: MemoryNeeds,
): Promise<number> {
  const { architecture, checkpoint } = model;
  const rowsOf = (module: string) =>
    checkpoint.get(`${architecture.names.layer(0)}${module}.weight`).shape[0];
  const widest = Math.max(...liveRegisters(architecture, rowsOf).map(totalWidth));
  const working = workingBytes(model, needs);
  const memory = await gpu.memoryFor(working + 4 * tokens * widest);
  if (memory < working) {
    throw new UserError(
      `${bytesText(memory)} of GPU memory are too little for "${model.name}": ` +
        `a decoder layer takes ${bytesText(working)}; ` +
        `use a smaller calibrate.batch-tokens, or give more memory`,
    );
  }
  return memory - working;
}
