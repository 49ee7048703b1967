import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import { type ScoreRequest, zeroShotTask } from "~/data/zero_shot_tasks.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { logLikelihoods } from "~/models/metrics/log_likelihoods.ts";
import {
	type PreparedTask,
	prepareTask,
	RequestEncoder,
	type RequestTokenizer,
	scoreTask,
	zeroShot,
} from "~/models/metrics/zero_shot.ts";
import { assertClose } from "../../assert_close.ts";
import { fixture } from "../../fixture.ts";
import { openModel } from "../../open.ts";

/** As in zero_shot.py; what each model makes of the requests of each group. */
interface Golden {
	groups: ScoreRequest[][];
	models: Record<
		"tiny-llama" | "tiny-opt",
		{ ids: number[]; start: number; logLikelihood: number }[][]
	>;
}

const golden = fixture<Golden>("zero_shot");
const gpu = await openGpu({ poison: true });
const MODELS = new URL("../../../examples/models/", import.meta.url);

for (const name of ["tiny-llama", "tiny-opt"] as const) {
	Deno.test(`log-likelihoods of ${name} are those of transformers, tokens and boundaries too`, async () => {
		using model = openModel(new URL(name, MODELS).pathname);
		const { tokenizer, architecture: { maxLength } } = model;
		const encoder = new RequestEncoder(tokenizer, { specialTokens: false, maxLength });
		const expected = golden.models[name];
		const prompts = golden.groups.map((group) => group.map((request) => encoder.encode(request)));
		assert.equal(prompts.flat().length, 50);
		for (const [i, group] of prompts.entries()) {
			for (const [j, { tokens, scored, isTruncated }] of group.entries()) {
				const { ids, start } = expected[i][j];
				assert.deepEqual([...tokens], ids, JSON.stringify(golden.groups[i][j]));
				assert.equal(tokens.length - scored, start);
				assert.equal(isTruncated, false);
			}
		}
		const wanted = expected.flat().map(({ logLikelihood }) => logLikelihood);
		const shared = (await logLikelihoods(gpu, model, prompts, { batchTokens: 2048 })).flat();
		assertClose(shared, wanted, { abs: 1e-3, what: "beside transformers" });
		const groups = prompts.slice(0, 7);
		const separate = (await logLikelihoods(gpu, model, groups, { shares: false })).flat();
		const same = shared.slice(0, separate.length);
		assertClose(separate, same, { abs: 1e-4, what: "without shared contexts" });
	});
}

const PAIR = 1 << 21; // beyond all characters

/** A tokenizer whose tokens are characters, or pairs of equal ones; with a first token 1 if asked. */
const CHARACTERS: RequestTokenizer = {
	bosId: 1,
	eosId: 2,
	encode: (text, { specialTokens = true } = {}) => [
		...(specialTokens ? [1] : []),
		...(text.match(/(.)\1|./gsu) ?? []).map((token) =>
			[...token].length * PAIR + token.codePointAt(0)!
		),
	],
};

function encode(
	context: string,
	continuation: string,
	{ tokenizer = CHARACTERS, specialTokens = false, maxLength = 100 } = {},
) {
	const encoder = new RequestEncoder(tokenizer, { specialTokens, maxLength });
	const { tokens, scored, isTruncated } = encoder.encode({ context, continuation });
	const text = (ids: Int32Array) =>
		[...ids].map((id) => {
			if (id < PAIR) return `<${id}>`;
			const count = Math.floor(id / PAIR);
			return String.fromCodePoint(id % PAIR).repeat(count);
		});
	const start = tokens.length - scored;
	return [text(tokens.subarray(0, start)), text(tokens.subarray(start)), isTruncated];
}

Deno.test("RequestEncoder lets white space at the end of a context count to the continuation", () => {
	assert.deepEqual(encode("ab", " c"), [["a", "b"], [" ", "c"], false]);
	assert.deepEqual(encode("ab ", "c"), [["a", "b"], [" ", "c"], false]);
	assert.deepEqual(encode("ab\n\u3000", " c"), [["a", "b"], ["\n", "\u3000", " ", "c"], false]);
	assert.deepEqual(encode("ab\x1f\x85", "c"), [["a", "b"], ["\x1f", "\x85", "c"], false]);
	assert.deepEqual(encode("ab\ufeff", "c"), [["a", "b", "\ufeff"], ["c"], false]); // no space in Python
});

Deno.test("RequestEncoder takes the tokens of the whole text beyond as many as the context has", () => {
	assert.deepEqual(encode("ab", "bcd"), [["a", "bb"], ["c", "d"], false]);
	assert.deepEqual(encode("a", "bb"), [["a"], ["bb"], false]);
});

Deno.test("RequestEncoder begins with a special token where the context is empty, or if asked", () => {
	assert.deepEqual(encode("", "ab"), [["<1>"], ["a", "b"], false]);
	assert.deepEqual(encode("  ", "ab"), [["<1>"], ["  ", "a", "b"], false]);
	assert.deepEqual(encode("", "ab", { specialTokens: true }), [["<1>"], ["a", "b"], false]);
	assert.deepEqual(encode("x", "ab", { specialTokens: true }), [["<1>", "x"], ["a", "b"], false]);
	const tokenizer = { ...CHARACTERS, bosId: undefined };
	assert.deepEqual(encode("", "ab", { tokenizer }), [["<2>"], ["a", "b"], false]);
	assert.throws(
		() => encode("", "ab", { tokenizer: { ...tokenizer, eosId: undefined } }),
		new UserError("A context is empty, and the tokenizer has no token to begin a text with"),
	);
});

Deno.test("RequestEncoder cuts the beginning of what is longer than the model takes", () => {
	// The last token is predicted, not read.
	assert.deepEqual(encode("abcde", "fg", { maxLength: 6 }), [[..."abcde"], ["f", "g"], false]);
	assert.deepEqual(encode("abcde", "fg", { maxLength: 5 }), [[..."bcde"], ["f", "g"], true]);
	assert.deepEqual(encode("abcde", "fg", { maxLength: 2 }), [["e"], ["f", "g"], true]);
	assert.throws(
		() => encode("abcde", "fg", { maxLength: 1 }),
		new UserError("A continuation has 2 tokens, but the model takes at most 1"),
	);
});

Deno.test("RequestEncoder refuses a continuation without a token", () => {
	assert.throws(
		() => encode("ab", ""),
		new UserError('The tokenizer gives the continuation "" no token'),
	);
	assert.throws(() => encode("ab", "b"), /gives the continuation "b" no token/);
});

function prepared(
	name: string,
	questions: { gold: number; lengths: number[] }[],
	about: Partial<PreparedTask> = {},
): PreparedTask {
	return {
		task: zeroShotTask(name),
		dataset: "x.jsonl",
		specialTokens: false,
		prepared: false,
		questions: questions.map((question) => ({ ...question, requests: [] })),
		prompts: [],
		truncated: 0,
		...about,
	};
}

Deno.test("scoreTask() counts the right choices, also by character, with standard errors", () => {
	const task = prepared("piqa", [
		{ gold: 0, lengths: [4, 2] }, // right, and right by character
		{ gold: 0, lengths: [4, 8] }, // right, and wrong by character: -2 / 4 < -3 / 8
		{ gold: 1, lengths: [4, 8] }, // wrong, and right by character
		{ gold: 1, lengths: [1, 1] }, // equal: the first one counts
	], { limit: 4, truncated: 3, specialTokens: true });
	const found = scoreTask(task, [[-1, -2], [-2, -3], [-2, -3], [-5, -5]]);
	const { accStderr, accNormStderr, ...rest } = found;
	assert.deepEqual(rest, {
		task: "piqa",
		version: "1.0",
		dataset: "x.jsonl",
		prepared: false,
		specialTokens: true,
		questions: 4,
		limit: 4,
		truncated: 3,
		acc: 0.5,
		accNorm: 0.5,
	});
	// The deviation of 1, 1, 0, 0 is √(4 · 0.25 / 3); its mean's error is half of that.
	assertClose([accStderr, accNormStderr!], new Array(2).fill(Math.sqrt(1 / 3) / 2), { abs: 1e-15 });
});

Deno.test("scoreTask() tells no accuracy by character where the harness has none", () => {
	const found = scoreTask(prepared("boolq", [{ gold: 1, lengths: [2, 3] }]), [[-2, -1]]);
	assert.deepEqual(found, {
		task: "boolq",
		version: "2.0",
		dataset: "x.jsonl",
		prepared: false,
		specialTokens: false,
		questions: 1,
		truncated: 0,
		acc: 1,
		accStderr: 0,
	});
});

Deno.test("zeroShot() measures several tasks together, each as if it were alone", async () => {
	using model = openModel(new URL("tiny-llama", MODELS).pathname);
	const { tokenizer, architecture: { maxLength } } = model;
	// Of each group of the golden requests the likeliest one is called right; of the last it is not.
	const all = golden.groups.slice(0, 7).map((requests, i) => {
		const sums = golden.models["tiny-llama"][i].map(({ logLikelihood }) => logLikelihood);
		const best = sums.indexOf(Math.max(...sums));
		const lengths = requests.map(() => 1);
		return { requests, lengths, gold: i === 6 ? (best + 1) % requests.length : best };
	});
	const task = (name: string, from: number, to: number) =>
		prepareTask(tokenizer, { questions: all.slice(from, to), prepared: true }, {
			task: zeroShotTask(name),
			dataset: name,
			specialTokens: false,
			maxLength,
		});
	const tasks = [await task("piqa", 0, 3), await task("winogrande", 3, 7)];
	const found = await zeroShot(gpu, model, tasks);
	assert.deepEqual(found.map(({ task, questions, acc }) => [task, questions, acc]), [
		["piqa", 3, 1],
		["winogrande", 4, 0.75],
	]);
});
