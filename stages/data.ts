import { UserError } from "../base/errors.ts";
import { DATASETS } from "../data/datasets.ts";
import type { ModelFiles } from "../models/model_files.ts";
import { pathOption, PATHS } from "../pipeline/config/json_schema.ts";
import type { ModelContext } from "../pipeline/stage.ts";
import { perRun } from "./per_run.ts";

const NAMES = Object.keys(DATASETS);

/** The option for data: the name of a hub data set, or a path (recognizable by a dot or slash). */
export const datasetOption = pathOption
	.refine(
		(dataset) => NAMES.includes(dataset) || /[./\\]/.test(dataset),
		`must be ${NAMES.join(", ")} or a path such as ./texts`,
	)
	.describe(
		`${
			NAMES.join(", ")
		} (downloaded from the hub); or a .txt, .txt.gz, .jsonl, .jsonl.gz or .parquet file ` +
			"(column text), a folder of these, a .raw file of WikiText, or a .safetensors file with token " +
			"ids [windows, length]",
	)
	.register(PATHS, { isPath: true, names: NAMES });

/** Checks the length of windows. @throws {UserError} If it exceeds the maximum of the model. */
function checkLength({ name, architecture: { maxLength } }: ModelFiles, length: number): void {
	if (length <= maxLength) return;
	throw new UserError(
		`Windows of sequence-length ${length} exceed the maximum length of the model "${name}" ` +
			`(${maxLength} tokens); use a smaller sequence-length`,
	);
}

const once = perRun<Int32Array[]>();

/**
 * Calibration windows, sampled with the run's seed.
 *
 * @throws {UserError} If there are not enough data.
 */
export async function calibrationWindows(
	context: ModelContext,
	dataset: string,
	samples: number,
	length: number,
): Promise<Int32Array[]> {
	const { seed, pause } = context;
	const model = context.get("model-files");
	checkLength(model, length);
	return await once(context, ["calibration", dataset, samples, length], async () => {
		const data = await context.dataset(dataset, "calibration");
		return await data.calibration(() => model.tokenizer, { samples, length, seed, pause });
	});
}

/**
 * Evaluation windows: consecutive ones; an incomplete last window is dropped.
 *
 * @param limit Maximum number of windows.
 * @throws {UserError} If the text has fewer tokens than one window.
 */
export async function evaluationWindows(
	context: ModelContext,
	dataset: string,
	length: number,
	limit: number | undefined,
): Promise<Int32Array[]> {
	// The original's tokenizer: the packed model has a copy of it.
	const model = context.get("model-files");
	checkLength(model, length);
	return await once(context, ["evaluation", dataset, length, limit], async () => {
		const data = await context.dataset(dataset, "evaluation");
		return await data.evaluation(() => model.tokenizer, { length, limit });
	});
}
