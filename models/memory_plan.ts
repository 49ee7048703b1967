import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Architecture } from "./architectures/architecture.ts";
import { LayerPlan, totalWidth } from "./layer_plan.ts";
import { PART_BYTES } from "./lookup_matrix.ts";
import type { ModelFiles } from "./model_files.ts";

/** What takes GPU memory besides the activations that are kept. */
export interface Work {
  /** Tokens that go through a layer together. */
  batchTokens: number;
  /** How the layers are quantized; only run if absent. */
  order?: "layer" | "module";
}

/**
 * GPU memory that running a decoder layer, and quantizing it, takes besides the activations that are
 * kept: the weights of this layer and the next, what a group of linear layers is quantized with, and
 * a batch on its way through the layer. From above: not all of it is needed at once.
 *
 * @returns Bytes.
 */
export function workingBytes({ architecture }: ModelFiles, work: Work): number {
  return Math.max(...plansOf(architecture).map((plan) => layerBytes(architecture, plan, work)));
}

function plansOf(architecture: Architecture): LayerPlan[] {
  return Array.from({ length: architecture.layers }, (_, i) => new LayerPlan(architecture, i));
}

function layerBytes(
  architecture: Architecture,
  plan: LayerPlan,
  { batchTokens, order }: Work,
): number {
  const groups = plan.groups.map(({ cols, linears }) => (
    { weights: linears.reduce((sum, { rows }) => sum + rows * cols, 0), cols }
  ));
  const weights = groups.reduce((sum, group) => sum + group.weights, 0);
  const widths = plan.live.map(totalWidth);
  // What an operation reads and what it writes are there at the same time.
  const batch = 4 * batchTokens * Math.max(...widths.slice(1).map((width, i) => width + widths[i]));
  // In f32, and the next layer's as stored.
  const layers = (4 + 2) * weights;
  if (!order) return layers + Math.max(batch, 3 * tableBytes(architecture));
  const hessians = groups.map(({ cols }) => 4 * cols ** 2);
  const widest = Math.max(...hessians);
  const kept = order === "layer" ? hessians.reduce((a, b) => a + b, 0) : widest;
  // A group's weights as compensated so far and as quantized, and what they are packed into; the
  // factor is made in place, beside the Hessian.
  const inWork = Math.max(...groups.map((group) => 8.5 * group.weights));
  return layers + inWork + kept + Math.max(batch, 1.1 * widest);
}

/** A part of the embedding or head in f32; the logits that it gives take as much, at most. */
function tableBytes({ vocabularySize, embeddingSize }: Architecture): number {
  return Math.min(PART_BYTES, 4 * vocabularySize * embeddingSize);
}

/** The most elements that are kept for each token between two groups of linear layers. */
export function nearWidth({ architecture }: ModelFiles): number {
  const widths = plansOf(architecture).flatMap((plan) =>
    plan.groups.map(({ at }) => totalWidth(plan.live[plan.restartsOf(at).near]))
  );
  return Math.max(...widths);
}

/**
 * GPU memory that the activations of `tokens` tokens may be kept in.
 *
 * @returns Bytes.
 * @throws {UserError} If the GPU's memory, or as much of it as may be used, is too little to quantize.
 */
export async function activationBytes(
  gpu: Gpu,
  model: ModelFiles,
  tokens: number,
  work: Work,
): Promise<number> {
  const working = workingBytes(model, work);
  const { hiddenSize, embeddingSize } = model.architecture;
  const width = work.order === "module" ? nearWidth(model) : Math.max(hiddenSize, embeddingSize);
  const wanted = working + 4 * tokens * width;
  const memory = await gpu.memoryFor(wanted);
  // What running a layer takes is small beside what quantizing it took.
  if (memory >= working || !work.order) return Math.max(0, memory - working);
  throw new UserError(
    `${bytesText(memory)} of GPU memory are too little for "${model.name}": ` +
      `a decoder layer takes ${bytesText(working)}; ` +
      `use a smaller batch-tokens, or give more memory`,
  );
}
