import { z } from "zod";
import { counted, decimal, isNumber, NONE, percent, plural, sum } from "../../base/figures.ts";
import { percentText } from "../../base/units.ts";
import type { ZeroShot } from "../../models/metrics/figures.ts";
import { type PreparedTask, zeroShot as measure } from "../../models/metrics/zero_shot.ts";
import { type Column, figureForm, figuresOf, lastOf, type Metric, type Pair } from "./metric.ts";
import {
	datasetOf,
	preparedTask,
	questionFile,
	type TaskOption,
	taskOption,
} from "./zero_shot_data.ts";

const accuracy = z.number().min(0).max(1);

const figure = figureForm.extend({
	task: z.string(),
	version: z.string().optional(),
	specialTokens: z.boolean().optional(),
	questions: z.int().min(1),
	truncated: z.int().min(0).optional(),
	acc: accuracy,
	accStderr: accuracy.optional(),
	accNorm: accuracy.optional(),
	accNormStderr: accuracy.optional(),
});

const namesOf = (tasks: readonly PreparedTask[]) => tasks.map(({ task }) => task.name).join(", ");

/** Zero-shot accuracy on multiple-choice tasks of lm-evaluation-harness. */
export const zeroShot: Metric<TaskOption, ZeroShot> = {
	option: "zero-shot",
	description: "Tasks of lm-evaluation-harness: a name, or a map with task, dataset, limit",
	entry: taskOption,
	figure,
	noun: "zero-shot accuracy",
	recordKey: "zeroShot",

	inputs: async (context, option) => [await questionFile(context, option)],

	async check(context, option) {
		await preparedTask(context, option);
	},

	dataset: datasetOf,

	async key(context, option, data) {
		const { task, limit = null, specialTokens } = await preparedTask(context, option);
		return { task: task.name, version: task.version, data, limit, specialTokens };
	},

	together: true,
	async parts(context, options) {
		const tasks = await Promise.all(options.map((option) => preparedTask(context, option)));
		// The choices of a question share its context.
		const tokens = tasks.flatMap(({ prompts }) => prompts).map((prompts) =>
			Math.max(...prompts.map(({ tokens, scored }) => tokens.length - scored)) +
			sum(prompts.map(({ scored }) => scored))
		);
		return [{ what: namesOf(tasks), tokens: sum(tokens) }];
	},
	async measure({ context, model, batchTokens, progress }, options) {
		const tasks = [];
		for (const option of options) tasks.push(await preparedTask(context, option));
		const onProgress = progress(namesOf(tasks));
		return await measure(context.gpu, model, tasks, { batchTokens, onProgress });
	},

	subject: ({ task, dataset, questions, specialTokens }) =>
		JSON.stringify([task, dataset, questions, specialTokens]),

	values({ acc, accStderr, accNorm, accNormStderr, task, questions, truncated }) {
		const rest = `on ${task}, ${questions} ${plural(questions, "question")}` +
			(truncated > 0
				? `, ${truncated} ${plural(truncated, "request")} truncated to the maximum length`
				: "");
		const told = (name: string, value: number, error: number) => ({
			name,
			value,
			text: `${percentText(value, 2)} ± ${percentText(error, 2)} ${rest}`,
		});
		const plain = told("acc", acc, accStderr);
		return accNorm === undefined ? [plain] : [plain, told("acc_norm", accNorm, accNormStderr!)];
	},

	terminal: {
		name: "Zero-shot",
		/** Accuracies before and after, with the standard error of the last figure. */
		line(pair) {
			const last = lastOf(pair);
			const text = (name: string, key: "acc" | "accNorm", error = 0) => {
				const values = figuresOf(pair).map((result) => (100 * result[key]!).toFixed(2));
				return `${name} ${values.join(" -> ")} ± ${percentText(error, 2)}`;
			};
			const norm = last.accNorm === undefined
				? ""
				: `, ${text("acc_norm", "accNorm", last.accNormStderr)}`;
			return `${last.task.padEnd(13)} ${text("acc", "acc", last.accStderr)}${norm}`;
		},
	},

	tile(pairs) {
		const means = [pairs.map(({ before }) => before), pairs.map(({ after }) => after)]
			.map((results) => meanOf(results, mainAccuracy)).filter((mean) => mean !== undefined);
		return {
			value: means.map((mean) => percent(mean)).join(" → "),
			note: `mean of ${counted(pairs.length, "task")}`,
		};
	},

	table(pairs) {
		const [before, after] = [pairs.map((pair) => pair.before), pairs.map((pair) => pair.after)];
		return {
			caption: "Zero-shot accuracy in percent, with standard errors",
			head: [
				"Task (version)",
				"Questions",
				"acc original",
				"acc packed",
				"acc_norm original",
				"acc_norm packed",
			],
			rows: [
				...pairs.map((pair) => {
					const { before, after } = pair;
					const { task, version, questions } = lastOf(pair);
					return [
						version === undefined ? task : `${task} (${version})`,
						decimal(questions, 0),
						accuracyText(before?.acc, before?.accStderr),
						accuracyText(after?.acc, after?.accStderr),
						accuracyText(before?.accNorm, before?.accNormStderr),
						accuracyText(after?.accNorm, after?.accNormStderr),
					];
				}),
				[
					"mean (normalized where there is one)",
					"",
					accuracyText(meanOf(before, ({ acc }) => acc)),
					accuracyText(meanOf(after, ({ acc }) => acc)),
					accuracyText(meanOf(before, mainAccuracy)),
					accuracyText(meanOf(after, mainAccuracy)),
				],
			],
			total: true,
		};
	},

	columns(pairs) {
		const tasks = [...new Set(pairs.map((pair) => lastOf(pair).task))];
		const resultsOf = (pairs: readonly Pair<ZeroShot>[]) =>
			tasks.map((task) => pairs.find(({ after }) => after?.task === task)?.after);
		return [
			...tasks.map((task, i): Column<ZeroShot> => ({
				head: task,
				text: (pairs) => accuracyText(meanOf([resultsOf(pairs)[i]], mainAccuracy)),
			})),
			{ head: "mean", text: (pairs) => accuracyText(meanOf(resultsOf(pairs), mainAccuracy)) },
		];
	},

	published(pairs) {
		const mean = zeroShot.columns(pairs).at(-1)!;
		return [{ head: "Zero-shot mean, %", text: mean.text }];
	},

	section: {
		heading: "Zero-shot tasks",
		text: "Accuracy in percent with its standard error. acc_norm divides log-likelihoods by the " +
			"length of a choice.",
		caption: "Zero-shot accuracy in percent, normalized where there is one",
	},
};

/** The accuracy that papers report: acc_norm if the task has it, otherwise acc. */
function mainAccuracy({ acc, accNorm }: ZeroShot): number {
	return accNorm ?? acc;
}

/** The mean of a model's accuracies over tasks; undefined if it lacks one. */
function meanOf(
	results: readonly (ZeroShot | undefined)[],
	accuracyOf: (result: ZeroShot) => number,
): number | undefined {
	const known = results.filter((result) => result !== undefined);
	if (known.length === 0 || known.length < results.length) return undefined;
	return sum(known.map(accuracyOf)) / known.length;
}

/** An accuracy in percent, with its standard error if it has one. */
function accuracyText(value: number | undefined, error?: number): string {
	if (!isNumber(value)) return NONE;
	const text = decimal(100 * value, 1);
	return isNumber(error) ? `${text} ± ${decimal(100 * error, 1)}` : text;
}
