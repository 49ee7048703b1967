import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import type { ModelFiles } from "../models/model_files.ts";
import { checkValue } from "../pipeline/config/values.ts";
import { RUN_RECORD, type RunRecord } from "../pipeline/run/record.ts";
import type { HasReport, WriteReport } from "../pipeline/run/run.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { isFilledFile, writeFileAtomically } from "../storage/files.ts";
import { readJson } from "../storage/json.ts";
import { readPipeline } from "./cells.ts";
import { checkFigures } from "../stages/metrics/mod.ts";
import { chosenLayers, countWeights, type Histogram, histogramsForm } from "./histograms.ts";
import { type FinishedRun, runReport } from "./run_report.ts";

const HISTOGRAMS = "histograms.json";

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
	const path = join(folder, HISTOGRAMS);
	writeFileAtomically(path, JSON.stringify({ histograms }) + "\n");
}

/** The files of a finished run. @throws {UserError} If one of them is damaged. */
export function finishedRun(folder: string, record: RunRecord): FinishedRun {
	return { record, pipeline: readPipeline(folder), histograms: readHistograms(folder) };
}

/** The histograms of a run; undefined if there are none. @throws {UserError} If they are damaged. */
function readHistograms(folder: string): Histogram[] | undefined {
	const path = join(folder, HISTOGRAMS);
	if (!existsSync(path)) return undefined;
	const value = readJson(denoFile(path));
	const [issue] = checkValue(histogramsForm, value, HISTOGRAMS).issues;
	if (issue) {
		throw new UserError(
			`"${path}" is damaged: ${issue.message}; remove it, and count the weights again with ` +
				`deno task report ${folder} --model FOLDER`,
		);
	}
	return value.histograms as Histogram[];
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

/**
 * Whether the report of a finished run is there, with histograms that are whole if it packed a model.
 *
 * @throws {UserError} If its record has figures that a report cannot show.
 */
export const hasRunReport: HasReport = (folder, record) => {
	checkFigures(record, join(folder, RUN_RECORD));
	if (!isFilledFile(join(folder, "report.html"))) return false;
	if (!record.packed) return true;
	try {
		return readHistograms(folder) !== undefined;
	} catch (error) {
		if (error instanceof UserError) return false;
		throw error;
	}
};

/** Saves the histograms of a finished run, if it packed a model, and writes its report. */
export const writeRunReport: WriteReport = async (folder, record, original, pause) => {
	if (original !== undefined && record.packed) {
		await saveHistograms(folder, record, original, { pause });
	}
	saveReport(folder, record);
};
