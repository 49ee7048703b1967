import { statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { hasObjects, OBJECT_EXTENSIONS } from "../../data/rows.ts";
import { readQuestions, ZERO_SHOT_TASKS, zeroShotTask } from "../../data/zero_shot_tasks.ts";
import { type PreparedTask, prepareTask } from "../../models/metrics/zero_shot.ts";
import { pathOption } from "../../pipeline/config/json_schema.ts";
import type { ModelContext } from "../../pipeline/stage.ts";
import { reasonOf } from "../../storage/folder.ts";
import { perRun } from "../per_run.ts";

const taskName = z.enum(Object.keys(ZERO_SHOT_TASKS));

/** Schema of an entry of the option for tasks. */
export const taskOption = z.union([
	taskName,
	z.strictObject({
		"task": taskName.describe("The task"),
		"dataset": pathOption
			.refine((dataset) => /[./\\]/.test(dataset), "must be a path such as ./questions.jsonl")
			.optional()
			.describe(
				"A .jsonl, .jsonl.gz or .parquet file with the columns of the task's data set, or with " +
					"query, choices and gold; default the task's data set on the hub",
			),
		"limit": z.int().min(1).optional().describe("Maximum number of questions; default all"),
		"special-tokens": z.boolean().default(false).describe(
			"Prepend the tokenizer's special tokens, such as BOS, to each context",
		),
	}),
]);

export type TaskOption = z.output<typeof taskOption>;

/** An entry in its long form. */
interface Entry {
	task: string;
	dataset?: string;
	limit?: number;
	specialTokens: boolean;
}

function entryOf(option: TaskOption): Entry {
	if (typeof option === "string") return { task: option, specialTokens: false };
	const { task, dataset, limit, "special-tokens": specialTokens } = option;
	return { task, dataset, limit, specialTokens };
}

/** The name of the data of a task, for the record. */
export function datasetOf(option: TaskOption): string {
	const { task, dataset } = entryOf(option);
	return dataset ?? zeroShotTask(task).hub.id;
}

/**
 * The file with the questions of a task, on this machine.
 *
 * @throws {UserError} If it cannot be found or fetched.
 */
export async function questionFile(context: ModelContext, option: TaskOption): Promise<string> {
	const { task, dataset } = entryOf(option);
	if (dataset === undefined) {
		const { id, revision, file } = zeroShotTask(task).hub;
		const folder = await context.hub.dataset({ type: "dataset", id, revision }, [file]);
		return join(folder, file);
	}
	try {
		if (statSync(dataset).isDirectory()) throw new UserError(`Cannot read "${dataset}": a folder`);
	} catch (error) {
		if (error instanceof UserError) throw error;
		throw new UserError(`Cannot read "${dataset}": ${reasonOf(error)}`);
	}
	if (hasObjects(dataset)) return dataset;
	throw new UserError(
		`Cannot read the questions "${dataset}": its name ends in none of ` +
			OBJECT_EXTENSIONS.join(", "),
	);
}

const once = perRun<PreparedTask>();

/**
 * The questions of a task, encoded with the original's tokenizer once per run.
 *
 * @throws {UserError} If the data are damaged or cannot be encoded.
 */
export function preparedTask(context: ModelContext, option: TaskOption): Promise<PreparedTask> {
	return once(context, option, () => prepare(context, option));
}

async function prepare(context: ModelContext, option: TaskOption): Promise<PreparedTask> {
	const { limit, specialTokens, ...entry } = entryOf(option);
	const task = zeroShotTask(entry.task);
	const { tokenizer, architecture: { maxLength } } = context.get("model-files");
	const questions = await readQuestions(task, await questionFile(context, option), limit);
	return await prepareTask(tokenizer, questions, {
		task,
		dataset: datasetOf(option),
		limit,
		specialTokens,
		maxLength,
		pause: () => context.pause(),
	});
}
