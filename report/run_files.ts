import { existsSync } from "node:fs";
import { join } from "node:path";
import type { RunRecord } from "../pipeline/run/record.ts";
import type { WriteReport } from "../pipeline/run/run.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { writeFileAtomically } from "../storage/files.ts";
import { readJson } from "../storage/json.ts";
import { readPipeline } from "./cells.ts";
import { chosenLayers, countWeights, type Histogram } from "./histograms.ts";
import { type FinishedRun, runReport } from "./run_report.ts";

/** Where the weights of a run are counted, and which. */
export interface CountOptions {
  /** Numbers of decoder layers, from 0; the first, the middle and the last if absent. */
  layers?: readonly number[];
  /** Called now and then; may throw to end the work. */
  pause?: () => Promise<void>;
}

/**
 * Counts the weights of a finished run and keeps the counts in its folder: the original model may not
 * be at hand when a report is written anew.
 *
 * @param original The folder of the original model.
 * @throws {UserError} If a model cannot be read or the file cannot be written.
 */
export async function saveHistograms(
  folder: string,
  record: RunRecord,
  original: string,
  { layers: chosen, pause }: CountOptions = {},
): Promise<void> {
  const { layers = [] } = record;
  const model = join(folder, "model");
  const wanted = chosen ?? chosenLayers(layers.length);
  const histograms = await countWeights(original, model, layers, wanted, pause);
  const path = join(folder, "histograms.json");
  writeFileAtomically(path, JSON.stringify({ histograms }) + "\n");
}

/** What a finished run has left in its folder. */
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

/** Counts the weights of a finished run, if it has packed any, and writes its report. */
export const writeRunReport: WriteReport = async (folder, record, original, pause) => {
  if (original !== undefined && record.packed) {
    await saveHistograms(folder, record, original, { pause });
  }
  saveReport(folder, record);
};
