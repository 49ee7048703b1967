// Requests of the zero-shot tasks against those of another harness, OLMES, for the same questions, and
// with real vocabularies. They lie outside the project; the test says so where they are missing.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { QuestionRow } from "~/data/question_row.ts";
import { readQuestions, type ScoreRequest, zeroShotTask } from "~/data/zero_shot_tasks.ts";
import { RequestEncoder } from "~/models/metrics/zero_shot.ts";
import { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";
import { denoFolder } from "~/storage/deno_folder.ts";

const FOLDER = "../shared/data/zeroshot";
const TOKENIZERS = "../shared/data/tokenizers";

/** Files by task: a sample of exact requests, and all questions with the contexts of OLMES. */
const FILES: [task: string, sample: string, all: string, questions: number][] = [
	["piqa", "piqa_rc_0shot", "piqa.valid", 1838],
	["boolq", "boolq_rc_0shot", "boolq.dev", 3270],
	["openbookqa", "openbookqa_test_rc_5shot", "openbookqa.test", 500],
	["winogrande", "winogrande_rc_0shot", "winogrande.dev", 1267],
	["arc-easy", "arc_easy_test_rc_5shot", "arc_easy.test", 2376],
	["arc-challenge", "arc_challenge_test_rc_5shot", "arc_challenge.test", 1172],
	["hellaswag", "hellaswag_rc_5shot", "hellaswag.val.1000", 1000],
];

interface Sampled {
	doc: Record<string, unknown>;
	request: ScoreRequest;
	doc_id: number;
	idx: number;
	label: number;
}

function test(name: string, folder: string, fn: () => void | Promise<void>) {
	const there = existsSync(folder);
	const what = there ? name : `${name} (skipped: no "${folder}")`;
	Deno.test({ name: what, ignore: !there, fn });
}

function sampleOf(name: string): Sampled[] {
	const text = readFileSync(`${FOLDER}/olmes-requests-sample/${name}.head80.jsonl`, "utf8");
	return text.trim().split("\n").map((line) => JSON.parse(line));
}

/** The questions of a sample: their columns, requests in order, and the right choice. */
function questionsOf(sample: Sampled[]) {
	const byQuestion = Map.groupBy(sample, ({ doc_id }) => doc_id);
	return [...byQuestion.values()].map((requests) => ({
		doc: requests[0].doc,
		requests: requests.toSorted((a, b) => a.idx - b.idx).map(({ request }) => request),
		label: requests[0].label,
	}));
}

/** Leaves out the examples before the question, which the harness has none of without shots. */
function withoutExamples({ context, continuation }: ScoreRequest): ScoreRequest {
	return { context: context.slice(context.lastIndexOf("\n\n") + 1).trimStart(), continuation };
}

for (const [task, sample, all, count] of FILES) {
	test(
		`${task}: prepared questions give the requests of OLMES but for its examples`,
		FOLDER,
		async () => {
			const theirs = questionsOf(sampleOf(sample));
			assert(theirs.length >= 20);
			const { questions, prepared } = await readQuestions(
				zeroShotTask(task),
				`${FOLDER}/unified/${all}.jsonl`,
			);
			assert(prepared);
			assert.equal(questions.length, count);
			for (const [i, { requests, label }] of theirs.entries()) {
				const wanted = sample.endsWith("5shot") ? requests.map(withoutExamples) : requests;
				const { requests: ours, gold } = questions[i];
				// The sample has "Goal:" before PIQA's questions, the file "Question:" as the harness has.
				const same = task === "piqa"
					? wanted.map(({ context, continuation }) => ({
						context: context.replace(/^Goal: /, "Question: "),
						continuation,
					}))
					: wanted;
				assert.deepEqual(ours, same);
				assert.equal(gold, label);
			}
		},
	);
}

test(
	"piqa and winogrande make the requests of OLMES from the data sets' own columns",
	FOLDER,
	() => {
		for (const [task, sample] of FILES.filter(([task]) => /piqa|winogrande/.test(task))) {
			for (const { doc, requests, label } of questionsOf(sampleOf(sample))) {
				const ours = zeroShotTask(task).question(new QuestionRow(doc, sample, 1));
				const wanted = requests.map(({ context, continuation }) => ({
					context: context.replace(/^Goal: /, "Question: "),
					continuation,
				}));
				assert.deepEqual(ours.requests, wanted);
				assert.equal(ours.gold, label);
			}
		}
	},
);

for (const name of ["llama2", "llama3", "qwen3", "gpt2"]) {
	test(
		`${name}: the continuation of each sampled request begins where its text does`,
		TOKENIZERS,
		() => {
			const tokenizer = TextTokenizer.load(denoFolder(`${TOKENIZERS}/${name}`));
			const encoder = new RequestEncoder(tokenizer, { specialTokens: false, maxLength: 4096 });
			for (const [, sample] of FILES) {
				for (const { request } of sampleOf(sample)) {
					const { tokens, scored, isTruncated } = encoder.encode(request);
					assert(!isTruncated);
					const start = tokens.length - scored;
					const { context, continuation } = request;
					assert.equal(tokenizer.decode(tokens), context + continuation);
					assert.equal(tokenizer.decode(tokens.subarray(0, start)), context);
					const alone = tokenizer.encode(context, { specialTokens: false });
					assert.deepEqual([...tokens.subarray(0, start)], alone);
				}
			}
		},
	);
}
