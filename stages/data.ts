import { basename } from "node:path";
import type { ModelFiles } from "../models/model_files.ts";
import { consecutiveWindows, randomWindows, readText, readTokenIds } from "../models/windows.ts";
import { UserError } from "../pipeline/errors.ts";

/** Help text of every option that names data. */
export const DATASET_HELP =
  "A UTF-8 text, WikiText's .raw form, or a .safetensors file with token ids [windows, length]";

/** @throws {UserError} If windows are longer than the model takes. */
function checkLength({ folder, architecture: { maxLength } }: ModelFiles, length: number): void {
  if (length <= maxLength) return;
  throw new UserError(
    `Windows of sequence-length ${length} are longer than the model "${folder}" takes ` +
      `(${maxLength} tokens); use a smaller sequence-length`,
  );
}

/** A file of token ids instead of text. */
function holdsIds(dataset: string): boolean {
  return dataset.endsWith(".safetensors");
}

function readIds(dataset: string, length: number): Int32Array[] {
  const windows = readTokenIds(dataset);
  if (windows[0].length < length) {
    throw new UserError(
      `The token windows of "${basename(dataset)}" have ${windows[0].length} tokens, fewer than ` +
        `sequence-length ${length}; use a smaller sequence-length`,
    );
  }
  return windows.map((window) => window.subarray(0, length));
}

/**
 * Windows for calibration: random crops of a text, or the first windows of a file of ids.
 *
 * @throws {UserError} If the data hold less than is asked for.
 */
export function calibrationWindows(
  model: ModelFiles,
  dataset: string,
  samples: number,
  length: number,
  seed: number,
): Int32Array[] {
  checkLength(model, length);
  if (!holdsIds(dataset)) {
    const ids = model.tokenizer.encode(readText(dataset));
    return randomWindows(ids, length, samples, seed, { name: basename(dataset) });
  }
  const windows = readIds(dataset, length);
  if (windows.length < samples) {
    throw new UserError(
      `"${basename(dataset)}" holds ${windows.length} windows, fewer than samples ${samples}; ` +
        `use a smaller number of samples`,
    );
  }
  return windows.slice(0, samples);
}

/** Windows for evaluation: one after the other, the rest of the text dropped. */
export function evaluationWindows(
  model: ModelFiles,
  dataset: string,
  length: number,
  limit: number | undefined,
): Int32Array[] {
  checkLength(model, length);
  if (holdsIds(dataset)) return readIds(dataset, length).slice(0, limit);
  const ids = model.tokenizer.encode(readText(dataset));
  return consecutiveWindows(ids, length, { limit, name: basename(dataset) });
}
