import type { Gpu } from "../gpu/device.ts";
import { UserError } from "../pipeline/errors.ts";
import type { Perplexity } from "../pipeline/record.ts";
import { batchWindows } from "./calibration.ts";
import { Decoder, type Registers } from "./decoder.ts";
import type { ModelFiles } from "./model_files.ts";

export interface PerplexityOptions {
  /** Windows of one length, at least two tokens each. */
  windows: Int32Array[];
  /** Name of the data, for the record. */
  dataset: string;
  /** Tokens that go through a layer together. */
  batchTokens?: number;
  /** Called after each batch of each layer. */
  onProgress?(done: number, total: number): Promise<void>;
}

/**
 * Perplexity over windows: the mean over the windows of the mean cross-entropy of their tokens but
 * the first, exponentiated. Layer by layer, so that one layer's weights are on the GPU at a time.
 *
 * @throws {UserError} If the model cannot be read or the result is not a number.
 */
export async function perplexity(
  gpu: Gpu,
  model: ModelFiles,
  { windows, dataset, batchTokens = 8192, onProgress }: PerplexityOptions,
): Promise<Perplexity> {
  using decoder = new Decoder(gpu, model);
  const { layers } = model.architecture;
  const length = windows[0].length;
  const batches = batchWindows(windows, batchTokens);
  const total = batches.length * (layers + decoder.headParts);
  let done = 0;
  const hidden = await decoder.embed(batches);
  for (let layer = 0; layer < layers; layer++) {
    const weights = await decoder.loadLayer(layer);
    for (let i = 0; i < batches.length; i++) {
      const registers: Registers = new Map([["hidden", hidden[i]]]);
      await decoder.run(weights, registers, length);
      hidden[i] = registers.get("hidden")!;
      await onProgress?.(++done, total);
    }
    decoder.freeLayer(weights);
  }
  for (const [i, last] of hidden.entries()) {
    hidden[i] = await decoder.finish(last);
    gpu.free(last);
  }
  const losses = await decoder.losses(hidden, batches, async () => onProgress?.(++done, total));
  gpu.free(...hidden);
  let sum = 0;
  for (const [i, batch] of batches.entries()) {
    for (let window = 0; window < batch.length; window++) {
      const first = window * length;
      const inWindow = losses[i].subarray(first, first + length - 1);
      sum += inWindow.reduce((total, loss) => total + loss, 0) / (length - 1);
    }
  }
  const loss = sum / windows.length;
  if (!Number.isFinite(loss)) {
    throw new UserError(
      `The perplexity of "${model.name}" on "${dataset}" is not a number: ` +
        `activations exceed what f32 holds`,
    );
  }
  return {
    dataset,
    sequenceLength: length,
    windows: windows.length,
    loss,
    perplexity: Math.exp(loss),
  };
}
