import { didYouMean } from "../base/did_you_mean.ts";
import { UserError } from "../base/errors.ts";
import { QuestionRow } from "./question_row.ts";
import { readObjects } from "./rows.ts";

/** What a model is asked for: the log-likelihood of a text after another one. */
export interface ScoreRequest {
  context: string;
  continuation: string;
}

/** A question with several choices, one of which is right. */
export interface Question {
  /** One for each choice. */
  requests: ScoreRequest[];
  /** Characters of each choice, as Python counts them. */
  lengths: number[];
  /** The right choice, from 0. */
  gold: number;
}

/** A task of lm-evaluation-harness, with no example before the question. */
export interface ZeroShotTask {
  name: string;
  /** Of the task there; it changes whenever its figures can no longer be compared. */
  version: string;
  /** Where its questions are on the hub. */
  hub: { id: string; revision: string; file: string };
  /** Whether accuracies are also told of log-likelihoods divided by the lengths of the choices. */
  isNormalized: boolean;
  /** Makes the question of a row that has the columns of the data set. */
  question(row: QuestionRow): Question;
}

/** All questions of a task, and what they were made of. */
export interface Questions {
  questions: Question[];
  /** Whether the rows hold contexts and choices instead of the columns of the data set. */
  prepared: boolean;
}

/**
 * The tasks by name, with contexts and choices as lm-evaluation-harness 0.4 makes them.
 *
 * @see https://github.com/EleutherAI/lm-evaluation-harness
 */
export const ZERO_SHOT_TASKS: Readonly<Record<string, ZeroShotTask>> = byName([
  {
    name: "piqa",
    version: "1.0",
    hub: {
      id: "ybisk/piqa",
      revision: "refs/convert/parquet", // the main branch has a script instead of data
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

/** @throws {UserError} If there is no such task. */
export function zeroShotTask(name: string): ZeroShotTask {
  const task = Object.hasOwn(ZERO_SHOT_TASKS, name) ? ZERO_SHOT_TASKS[name] : undefined;
  if (task) return task;
  const names = Object.keys(ZERO_SHOT_TASKS);
  const guess = didYouMean(name, names);
  const meant = guess === undefined ? "" : `, did you mean "${guess}"`;
  throw new UserError(`Unknown task "${name}"${meant}; known are ${names.join(", ")}`);
}

/**
 * Reads the questions of a task from a file: JSON Lines or parquet, with the columns of the task's data
 * set on the hub, or with `query`, `choices` and `gold` (or `contexts`, `continuation` and `gold`),
 * which are taken as they stand.
 *
 * @param limit The greatest number of questions: the first ones.
 * @throws {UserError} If the file cannot be read, a row is no question, or there is none.
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

/** One context, and a continuation for each choice. */
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

/** A context for each choice, and one continuation. */
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

/** What Python's `str.isspace` holds for white space; JavaScript's `\s` differs in six characters. */
const SPACE =
  "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const LEADING = new RegExp(`^${SPACE}+`);
const TRAILING = new RegExp(`${SPACE}+$`);

/** Python's `str.strip()`. */
function strip(text: string): string {
  return text.replace(LEADING, "").replace(TRAILING, "");
}

/** White space at the end of a text, as Python's `str.rstrip()` takes it away. */
export function trailingSpace(text: string): string {
  return TRAILING.exec(text)?.[0] ?? "";
}

/** Python's `str.capitalize()`. */
function capitalized(text: string): string {
  const [first = ""] = text;
  return first.toUpperCase() + text.slice(first.length).toLowerCase();
}

/** Takes away what WikiHow's articles have in brackets. */
function withoutBrackets(text: string): string {
  return strip(text)
    .replaceAll(" [title]", ". ")
    .replace(/\[[^\n]*?\]/g, "")
    .replaceAll("  ", " ");
}
