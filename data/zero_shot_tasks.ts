import { didYouMean } from "../base/did_you_mean.ts";
import { UserError } from "../base/errors.ts";
import { QuestionRow } from "./question_row.ts";
import { readObjects } from "./rows.ts";

/**
 * A request for the log-likelihood of a continuation after a context.
 *
 * @internal
 */
export interface ScoreRequest {
	context: string;
	continuation: string;
}

/** A multiple-choice question. */
export interface Question {
	/** One request per choice. */
	requests: ScoreRequest[];
	/** Length of each choice in code points, as in Python. */
	lengths: number[];
	/** Index of the right choice, from 0. */
	gold: number;
}

/** A zero-shot task of lm-evaluation-harness. */
export interface ZeroShotTask {
	/** Its name in pipeline files. */
	name: string;
	/** Version of the task in the harness; figures of different versions are not comparable. */
	version: string;
	/** File of the questions on the hub. */
	hub: { id: string; revision: string; file: string };
	/** Whether the task has acc_norm, from log-likelihoods divided by the lengths of the choices. */
	isNormalized: boolean;
	/** The question of a row of the data set. */
	question(row: QuestionRow): Question;
}

/** The questions of a task, and the kind of their rows. */
export interface Questions {
	/** The questions, in the order of the file. */
	questions: Question[];
	/** Whether the rows contain prepared contexts and choices instead of the columns of the data set. */
	prepared: boolean;
}

/**
 * The tasks by name, with the contexts and choices of lm-evaluation-harness 0.4.
 *
 * @see https://github.com/EleutherAI/lm-evaluation-harness
 */
export const ZERO_SHOT_TASKS: Readonly<Record<string, ZeroShotTask>> = byName([
	{
		name: "piqa",
		version: "1.0",
		hub: {
			id: "ybisk/piqa",
			revision: "refs/convert/parquet", // the main branch has only a script
			file: "plain_text/validation/0000.parquet",
		},
		isNormalized: true,
		question: (row) =>
			choose(
				row,
				`Question: ${row.text("goal")}\nAnswer:`,
				[row.text("sol1"), row.text("sol2")],
				row.index("label"),
			),
	},
	{
		name: "boolq",
		version: "2.0",
		hub: {
			id: "aps/super_glue",
			revision: "refs/convert/parquet",
			file: "boolq/validation/0000.parquet",
		},
		isNormalized: false,
		question: (row) =>
			choose(
				row,
				`${row.text("passage")}\nQuestion: ${row.text("question")}?\nAnswer:`,
				["no", "yes"],
				row.index(row.has("answer") ? "answer" : "label"),
			),
	},
	{
		name: "openbookqa",
		version: "1.0",
		hub: { id: "allenai/openbookqa", revision: "main", file: "main/test-00000-of-00001.parquet" },
		isNormalized: true,
		question: (row) => chooseLabelled(row, row.text("question_stem")),
	},
	{
		name: "winogrande",
		version: "1.0",
		hub: {
			id: "allenai/winogrande",
			revision: "main",
			file: "winogrande_xl/validation-00000-of-00001.parquet",
		},
		isNormalized: false,
		question(row) {
			const sentence = row.text("sentence");
			const blank = sentence.indexOf("_");
			if (blank < 0) throw row.refuse(`"sentence" has no blank "_"`);
			const contexts = ["option1", "option2"].map((column) =>
				sentence.slice(0, blank) + row.text(column)
			);
			const answer = row.index("answer");
			if (answer === 0) throw row.refuse(`"answer" is 0, not 1 or 2`);
			return complete(row, contexts, ` ${strip(sentence.slice(blank + 1))}`, answer - 1);
		},
	},
	arc("arc-easy", "ARC-Easy"),
	arc("arc-challenge", "ARC-Challenge"),
	{
		name: "hellaswag",
		version: "1.0",
		hub: {
			id: "Rowan/hellaswag",
			revision: "main",
			file: "data/validation-00000-of-00001.parquet",
		},
		isNormalized: true,
		question(row) {
			const context = `${row.text("ctx_a")} ${capitalized(row.text("ctx_b"))}`;
			const query = withoutBrackets(`${row.text("activity_label")}: ${context}`);
			return choose(row, query, row.texts("endings").map(withoutBrackets), row.index("label"));
		},
	},
]);

function arc(name: string, part: string): ZeroShotTask {
	return {
		name,
		version: "1.0",
		hub: { id: "allenai/ai2_arc", revision: "main", file: `${part}/test-00000-of-00001.parquet` },
		isNormalized: true,
		question: (row) => chooseLabelled(row, `Question: ${row.text("question")}\nAnswer:`),
	};
}

function byName(tasks: ZeroShotTask[]): Record<string, ZeroShotTask> {
	return Object.fromEntries(tasks.map((task) => [task.name, task]));
}

/** The task of a name. @throws {UserError} If the name is unknown. */
export function zeroShotTask(name: string): ZeroShotTask {
	const task = Object.hasOwn(ZERO_SHOT_TASKS, name) ? ZERO_SHOT_TASKS[name] : undefined;
	if (task) return task;
	const names = Object.keys(ZERO_SHOT_TASKS);
	const guess = didYouMean(name, names);
	const meant = guess === undefined ? "" : `, did you mean "${guess}"`;
	throw new UserError(`Unknown task "${name}"${meant}; known are ${names.join(", ")}`);
}

/**
 * The questions of a task from a JSON Lines or parquet file, with the columns of the task's data set on the
 * hub, or with `query`, `choices` and `gold` (or `contexts`, `continuation` and `gold`), which are used
 * unchanged.
 *
 * @param limit Maximum number of questions.
 * @throws {UserError} If the file cannot be read, a row is invalid, or there is no row.
 */
export async function readQuestions(
	task: ZeroShotTask,
	path: string,
	limit = Infinity,
): Promise<Questions> {
	const questions: Question[] = [];
	let prepared = false;
	for await (const values of readObjects(path)) {
		const row = new QuestionRow(values, path, questions.length + 1);
		prepared = row.has("gold");
		questions.push(prepared ? preparedQuestion(row) : task.question(row));
		if (questions.length >= limit) break;
	}
	if (questions.length > 0) return { questions, prepared };
	throw new UserError(`Cannot read "${path}": it holds no question`);
}

function preparedQuestion(row: QuestionRow): Question {
	const gold = row.index("gold");
	if (row.has("contexts")) {
		return complete(row, row.texts("contexts"), row.text("continuation"), gold);
	}
	return choose(row, row.text("query"), row.texts("choices"), gold);
}

/** A question with one context, and a continuation for each choice. */
function choose(row: QuestionRow, context: string, choices: string[], gold: number): Question {
	const requests = choices.map((choice) => ({ context, continuation: ` ${choice}` }));
	return questionOf(row, requests, choices, gold);
}

function chooseLabelled(row: QuestionRow, context: string): Question {
	const { labels, texts } = row.labelled("choices");
	const answer = row.text("answerKey").trimStart();
	const gold = labels.indexOf(answer);
	if (gold >= 0) return choose(row, context, texts, gold);
	throw row.refuse(`"answerKey" is "${answer}", not one of ${labels.join(", ")}`);
}

/** A question with a context for each choice, and one continuation. */
function complete(
	row: QuestionRow,
	contexts: string[],
	continuation: string,
	gold: number,
): Question {
	const requests = contexts.map((context) => ({ context, continuation }));
	return questionOf(row, requests, contexts, gold);
}

function questionOf(
	row: QuestionRow,
	requests: ScoreRequest[],
	choices: string[],
	gold: number,
): Question {
	if (requests.length < 2) throw row.refuse("there is one choice; at least two are needed");
	if (gold >= requests.length) {
		throw row.refuse(`the right choice is ${gold}, counted from 0, of ${requests.length}`);
	}
	return { requests, lengths: choices.map((choice) => [...choice].length), gold };
}

/** White space of Python's `str.isspace`; JavaScript's `\s` differs in six characters. */
const SPACE =
	"[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const LEADING = new RegExp(`^${SPACE}+`);
const TRAILING = new RegExp(`${SPACE}+$`);

/** Python's `str.strip()`. */
function strip(text: string): string {
	return text.replace(LEADING, "").replace(TRAILING, "");
}

/** Trailing white space, as removed by Python's `str.rstrip()`. */
export function trailingSpace(text: string): string {
	return TRAILING.exec(text)?.[0] ?? "";
}

/** Python's `str.capitalize()`. */
function capitalized(text: string): string {
	const [first = ""] = text;
	return first.toUpperCase() + text.slice(first.length).toLowerCase();
}

/** A text without the bracketed tags of WikiHow articles. */
function withoutBrackets(text: string): string {
	return strip(text)
		.replaceAll(" [title]", ". ")
		.replace(/\[[^\n]*?\]/g, "")
		.replaceAll("  ", " ");
}
