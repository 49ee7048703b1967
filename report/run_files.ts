import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJson } from "../models/json.ts";
import { writeFileAtomically } from "../pipeline/files.ts";
import type { RunRecord } from "../pipeline/record.ts";
import { readPipeline } from "./cells.ts";
import { chosenLayers, countWeights, type Histogram } from "./histograms.ts";
import { type FinishedRun, runReport } from "./run_report.ts";

/** What a report leaves in a run's folder. */
export const REPORT_FILES = ["histograms.json", "report.html"];

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
    ? (readJson(path) as { histograms: Histogram[] }).histograms
    : undefined;
  return { record, pipeline: readPipeline(folder), histograms };
}

/**
 * Writes report.html into the folder of a finished run.
 *
 * @throws {UserError} If it cannot be written.
 */
export function saveReport(folder: string, record: RunRecord): void {
  const content = runReport(finishedRun(folder, record));
  writeFileAtomically(join(folder, "report.html"), content);
}
