import { UserError } from "../../base/errors.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Perplexity } from "./figures.ts";
import { Activations } from "../activations.ts";
import { batchWindows, paceBatches } from "../calibration.ts";
import { Decoder } from "../decoder.ts";
import { activationBytes, streamWidth } from "../memory_plan.ts";
import type { ModelFiles } from "../model_files.ts";
import { runLayers } from "./layer_pass.ts";

/** The options of {@link perplexity}. */
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
 * The perplexity over windows: exp of the mean cross-entropy of all tokens but the first of each window.
 * Runs layer by layer, so that one layer's weights are on the GPU at a time.
 *
 * @throws {UserError} If the model cannot be read or the result is NaN or infinite.
 */
export async function perplexity(
  gpu: Gpu,
  model: ModelFiles,
  { windows, dataset, batchTokens = 8192, onProgress }: PerplexityOptions,
): Promise<Perplexity> {
  using decoder = new Decoder(gpu, model);
  const length = windows[0].length;
  const batches = batchWindows(windows, batchTokens);
  const total = batches.length * (model.architecture.layers + decoder.head.parts);
  let done = 0;
  const progress = async () => {
    await paceBatches(gpu, ++done);
    await onProgress?.(done, total);
  };
  const work = { batchTokens: batches[0].length * length };
  const gpuBytes = await activationBytes(gpu, model, windows.length * length, work);
  using activations = new Activations(gpu, {
    tokens: batches.map((windows) => windows.length * length),
    width: streamWidth(model),
    gpuBytes,
  });
  await decoder.embedding.embedInto(activations, batches);
  const finish = async (batch: number) => {
    using last = (await activations.load(batch)).get("hidden")!;
    return await decoder.head.finish(last);
  };
  const contexts = batches.map(() => length);
  const finished = await runLayers(decoder, activations, contexts, finish, progress);
  const losses = await decoder.head.losses(finished, batches, progress);
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
