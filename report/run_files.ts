import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ModelFiles } from "../models/model_files.ts";
import type { RunRecord } from "../pipeline/run/record.ts";
import type { WriteReport } from "../pipeline/run/run.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { writeFileAtomically } from "../storage/files.ts";
import { readJson } from "../storage/json.ts";
import { readPipeline } from "./cells.ts";
import { chosenLayers, countWeights, type Histogram } from "./histograms.ts";
import { type FinishedRun, runReport } from "./run_report.ts";

/** Options of {@link saveHistograms}. */
export interface CountOptions {
  /** Indices of decoder layers, from 0; default the first, the middle and the last. */
  layers?: readonly number[];
  /** Called periodically; may throw to abort. */
  pause?: () => Promise<void>;
}

/**
 * Saves the weight histograms of a finished run in its folder, because the original model may be absent
 * when the report is rewritten.
 *
 * @param original The original model, or its folder.
 * @throws {UserError} If a model cannot be read or the file cannot be written.
 */
export async function saveHistograms(
  folder: string,
  record: RunRecord,
  original: ModelFiles | string,
  { layers: chosen, pause }: CountOptions = {},
): Promise<void> {
  const { layers = [] } = record;
  const model = join(folder, "model");
  const wanted = chosen ?? chosenLayers(layers.length);
  const histograms = await countWeights(original, model, layers, wanted, pause);
  const path = join(folder, "histograms.json");
  writeFileAtomically(path, JSON.stringify({ histograms }) + "\n");
}

/** The files of a finished run. */
export function finishedRun(folder: string, record: RunRecord): FinishedRun {
  const path = join(folder, "histograms.json");
  const histograms = existsSync(path)
    ? (readJson(denoFile(path)) as { histograms: Histogram[] }).histograms
    : undefined;
  return { record, pipeline: readPipeline(folder), histograms };
}

/**
 * Writes report.html into the folder of a finished run.
 *
 * @throws {UserError} If it cannot be written.
 */
function saveReport(folder: string, record: RunRecord): void {
  const content = runReport(finishedRun(folder, record));
  writeFileAtomically(join(folder, "report.html"), content);
}

/** Saves the histograms of a finished run, if it packed a model, and writes its report. */
export const writeRunReport: WriteReport = async (folder, record, original, pause) => {
  if (original !== undefined && record.packed) {
    await saveHistograms(folder, record, original, { pause });
  }
  saveReport(folder, record);
};
