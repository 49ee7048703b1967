import assert from "node:assert/strict";
import { join } from "node:path";
import { fixtureFolder } from "../fixture.ts";
import { UserError } from "~/base/errors.ts";
import { QuestionRow } from "~/data/question_row.ts";
import {
	type Question,
	readQuestions,
	trailingSpace,
	ZERO_SHOT_TASKS,
	zeroShotTask,
} from "~/data/zero_shot_tasks.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const PARQUET = `${fixtureFolder("parquet")}/`;

function question(task: string, row: Record<string, unknown>): Question {
	return zeroShotTask(task).question(new QuestionRow(row, "x.jsonl", 7));
}

/** The choices after one context. */
function choices(context: string, continuations: string[], gold: number, lengths: number[]) {
	const requests = continuations.map((continuation) => ({ context, continuation }));
	return { requests, lengths, gold };
}

Deno.test("piqa asks for the two solutions of a goal", () => {
	const row = { goal: "dry a shirt", sol1: "hang it up", sol2: "fold it. ", label: 1 };
	const expected = choices(
		"Question: dry a shirt\nAnswer:",
		[" hang it up", " fold it. "],
		1,
		[10, 9],
	);
	assert.deepEqual(question("piqa", row), expected);
	assert.deepEqual(question("piqa", { ...row, label: 1n }), expected);
	assert.deepEqual(question("piqa", { ...row, label: "1" }), expected);
});

Deno.test("boolq asks for no and yes, whichever column holds the answer", () => {
	const row = { passage: "The sun -- It is hot.", question: "is the sun hot" };
	const context = "The sun -- It is hot.\nQuestion: is the sun hot?\nAnswer:";
	assert.deepEqual(
		question("boolq", { ...row, label: 1, idx: 4 }),
		choices(context, [" no", " yes"], 1, [2, 3]),
	);
	assert.equal(question("boolq", { ...row, label: 0 }).gold, 0);
	assert.equal(question("boolq", { ...row, answer: true }).gold, 1);
	assert.equal(question("boolq", { ...row, answer: false }).gold, 0);
});

Deno.test("openbookqa asks the bare question", () => {
	const row = {
		question_stem: "A plant grows towards",
		choices: { text: ["the light", "the wall", "its root", "🌙🌙"], label: ["A", "B", "C", "D"] },
		answerKey: " D",
	};
	assert.deepEqual(
		question("openbookqa", row),
		choices(
			"A plant grows towards",
			[" the light", " the wall", " its root", " 🌙🌙"],
			3,
			[9, 8, 8, 2], // characters, not UTF-16 units
		),
	);
});

Deno.test("winogrande asks for what follows the blank, after each option", () => {
	const row = { sentence: "Ann thanked Eve as _ had helped. ", option1: "Ann", option2: "Eve" };
	const continuation = " had helped.";
	assert.deepEqual(question("winogrande", { ...row, answer: "2" }), {
		requests: [
			{ context: "Ann thanked Eve as Ann", continuation },
			{ context: "Ann thanked Eve as Eve", continuation },
		],
		lengths: [22, 22],
		gold: 1,
	});
	const tight = { ...row, sentence: "It was _'s hat", answer: "1" };
	assert.equal(question("winogrande", tight).requests[0].continuation, " 's hat");
});

for (const name of ["arc-easy", "arc-challenge"]) {
	Deno.test(`${name} asks for choices with letters or numbers`, async () => {
		const { questions, prepared } = await readQuestions(
			zeroShotTask(name),
			join(PARQUET, "questions.parquet"),
		);
		assert.equal(prepared, false);
		assert.deepEqual(questions, [
			choices(
				"Question: What is wet?\nAnswer:",
				[" stone", " water", " sand", " ash"],
				1,
				[5, 5, 4, 3],
			),
			choices("Question: Who sings?\nAnswer:", [" a bird", " a box", " a wall"], 0, [6, 5, 6]),
			choices("Question: Which is ä?\nAnswer:", [" ä", " a", " o", " u"], 0, [1, 1, 1, 1]),
		]);
	});
}

Deno.test("hellaswag joins the parts of its contexts and drops what stands in brackets", () => {
	const row = {
		activity_label: "Baking",
		ctx_a: "[header] How to bake [title] Take flour. [step] Sift it.",
		ctx_b: "the BAKER",
		endings: [" stirs [substeps]  slowly.", "waits [title] Rest."],
		label: "0",
	};
	assert.deepEqual(
		question("hellaswag", row),
		choices(
			"Baking: How to bake. Take flour. Sift it. The baker",
			[" stirs  slowly.", " waits. Rest."], // three spaces become two
			0,
			[14, 12],
		),
	);
	const bare = { ...row, ctx_a: "A dog runs.", ctx_b: "" };
	assert.equal(question("hellaswag", bare).requests[0].context, "Baking: A dog runs.");
	const open = { ...row, ctx_a: "A [b", ctx_b: "" };
	assert.equal(question("hellaswag", open).requests[0].context, "Baking: A [b");
});

Deno.test("labels of 64 bits in parquet are read", async () => {
	const { questions } = await readQuestions(zeroShotTask("piqa"), join(PARQUET, "labels.parquet"));
	assert.deepEqual(questions.map(({ gold }) => gold), [0, 1]);
});

Deno.test("readQuestions() takes contexts and choices as they stand where the rows have them", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("questions.jsonl");
	const rows = [
		{ id: 0, query: "Question: Why?\nAnswer:", choices: ["so", " thus", "[x]"], gold: 2 },
		{ id: 1, query: null, contexts: ["A", "B"], continuation: " went.", gold: 0 },
		{ id: 2, query: "Last", choices: ["a", "b"], gold: 1 },
	];
	Deno.writeTextFileSync(path, rows.map((row) => JSON.stringify(row) + "\n\n").join(""));
	const task = zeroShotTask("hellaswag");
	const { questions, prepared } = await readQuestions(task, path);
	assert.equal(prepared, true);
	assert.deepEqual(questions, [
		choices("Question: Why?\nAnswer:", [" so", "  thus", " [x]"], 2, [2, 5, 3]),
		{
			requests: [{ context: "A", continuation: " went." }, {
				context: "B",
				continuation: " went.",
			}],
			lengths: [1, 1],
			gold: 0,
		},
		choices("Last", [" a", " b"], 1, [1, 1]),
	]);
	const first = await readQuestions(task, path, 2);
	assert.deepEqual(first.questions, questions.slice(0, 2));
	assert.equal((await readQuestions(task, path, 99)).questions.length, 3);
});

const PIQA = { goal: "g", sol1: "a", sol2: "b", label: 0 };
const ARC = { question: "q", choices: { text: ["a", "b"], label: ["A", "B"] }, answerKey: "A" };
const BAD: [task: string, row: Record<string, unknown>, problem: string][] = [
	["piqa", { goal: "g" }, 'there is no column "sol1" (columns: goal)'],
	["piqa", {}, 'there is no column "goal" (columns: none)'],
	["piqa", { ...PIQA, sol2: 3 }, '"sol2" is 3, not a string'],
	["piqa", { ...PIQA, goal: Uint8Array.of(255) }, '"goal" is not UTF-8'],
	["piqa", { ...PIQA, label: -1 }, '"label" is -1, not the number of a choice'],
	["piqa", { ...PIQA, label: "" }, '"label" is "", not the number of a choice'],
	["piqa", { ...PIQA, label: null }, '"label" is null, not the number of a choice'],
	["piqa", { ...PIQA, label: 2 }, "the right choice is 2, counted from 0, of 2"],
	["winogrande", { sentence: "no blank" }, '"sentence" has no blank "_"'],
	[
		"winogrande",
		{ sentence: "a _ c", option1: "x", option2: "y", answer: "0" },
		'"answer" is 0, not 1 or 2',
	],
	["arc-easy", { ...ARC, answerKey: "C" }, '"answerKey" is "C", not one of A, B'],
	[
		"arc-easy",
		{ ...ARC, choices: ["a"] },
		'"choices" is a list, not a map with "text" and "label"',
	],
	[
		"arc-easy",
		{ ...ARC, choices: { text: ["a", "b"], label: ["A"] } },
		'"choices" has 2 texts and 1 labels',
	],
	[
		"arc-easy",
		{ ...ARC, choices: { text: ["a", 1], label: ["A", "B"] } },
		'entry 2 of "text" of "choices" is 1, not a string',
	],
	[
		"arc-easy",
		{ ...ARC, choices: { text: ["a"], label: ["A"] } },
		"there is one choice; at least two are needed",
	],
	[
		"hellaswag",
		{ activity_label: "a", ctx_a: "b", ctx_b: "c", endings: [], label: "0" },
		'"endings" is an empty list, not a list of strings',
	],
];

for (const [task, row, problem] of BAD) {
	Deno.test(`${task} refuses a row: ${problem}`, () => {
		assert.throws(
			() => question(task, row),
			new UserError(`Cannot read "x.jsonl": row 7: ${problem}`),
		);
	});
}

Deno.test("readQuestions() refuses files without questions, and rows with their numbers", async () => {
	using folder = new TemporaryFolder();
	const task = zeroShotTask("piqa");
	const refused = (name: string, text: string, problem: string) => {
		const path = folder.file(name);
		Deno.writeTextFileSync(path, text);
		return assert.rejects(
			() => readQuestions(task, path),
			new UserError(`Cannot read "${path}": ${problem}`),
		);
	};
	await refused("empty.jsonl", "\n", "it holds no question");
	await refused("list.jsonl", "[1]\n", "line 1 is a list, not a JSON object");
	const line = JSON.stringify({ query: "q", choices: ["a", "b"], gold: 0 });
	const bad = JSON.stringify({ query: null, choices: ["a", "b"], gold: 0 });
	await refused("bad.jsonl", `${line}\n${bad}\n`, 'row 2: "query" is null, not a string');
	const kinds = ".jsonl, .jsonl.gz, .json.gz, .parquet";
	await refused("questions.txt", line, `its name ends in none of ${kinds}`);
});

Deno.test("zeroShotTask() knows the seven tasks and guesses what was meant", () => {
	assert.deepEqual(Object.keys(ZERO_SHOT_TASKS), [
		"piqa",
		"boolq",
		"openbookqa",
		"winogrande",
		"arc-easy",
		"arc-challenge",
		"hellaswag",
	]);
	const known = "known are piqa, boolq, openbookqa, winogrande, arc-easy, arc-challenge, hellaswag";
	assert.throws(
		() => zeroShotTask("arc_easy"),
		new UserError(`Unknown task "arc_easy", did you mean "arc-easy"; ${known}`),
	);
	assert.throws(() => zeroShotTask("toString"), new UserError(`Unknown task "toString"; ${known}`));
});

Deno.test("trailingSpace() finds what Python takes for white space", () => {
	for (
		const space of ["\t", "\n", "\v", "\f", "\r", "\x1c", "\x1f", " ", "\x85", "\xa0", "\u2003"]
	) {
		assert.equal(trailingSpace(`a${space}b${space}`), space);
	}
	for (const text of ["", "a", " a", "a\u200b", "a\ufeff", "a\x1b"]) {
		assert.equal(trailingSpace(text), "");
	}
	assert.equal(trailingSpace(" \n"), " \n");
});
