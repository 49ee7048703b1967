// Words of any length, and work that never ends: encoding is near linear, and all of it that follows a
// file's patterns has a limit of time.

import assert from "node:assert/strict";
import { watchTime, withTimeLimit } from "~/base/time_limit.ts";
import { renderChat } from "~/models/tokenizers/chat_template.ts";
import { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";
import { MemoryFolder } from "~/storage/memory_folder.ts";

/** Milliseconds: many times what encoding takes, but little of what it would take in quadratic time. */
const SOON = 30_000;
const LENGTH = 60_000;

// deno-lint-ignore no-explicit-any -- JSON of many forms
type Json = any;

function folder(json: Json, template = ""): MemoryFolder {
	const files = { "tokenizer.json": JSON.stringify(json), "chat_template.jinja": template };
	const encoder = new TextEncoder();
	return new MemoryFolder(
		new Map(Object.entries(files).map(([name, text]) => [name, encoder.encode(text)])),
	);
}

const LETTERS = [
	"<unk>",
	..."abcdefghij",
	"ab",
	"abab",
	"cd",
	"abcd",
	"##a",
	"##b",
	"##ab",
	"▁a",
	"aa",
];
const IDS = Object.fromEntries(LETTERS.map((token, id) => [token, id]));
const BYTES = Array.from({ length: 256 }, (_, byte) => {
	return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
});

const MODELS: Record<string, Json> = {
	BPE: {
		type: "BPE",
		vocab: IDS,
		merges: ["a b", "ab ab", "c d", "ab cd", "a a"],
		unk_token: "<unk>",
	},
	"BPE of bytes": {
		type: "BPE",
		vocab: Object.fromEntries([...LETTERS, ...BYTES].map((token, id) => [token, id])),
		merges: ["a b", "ab ab"],
		unk_token: "<unk>",
		byte_fallback: true,
	},
	Unigram: { type: "Unigram", vocab: LETTERS.map((token, i) => [token, -i]), unk_id: 0 },
	"Unigram of bytes": {
		type: "Unigram",
		vocab: [...LETTERS, ...BYTES].map((token, i) => [token, -i]),
		unk_id: 0,
		byte_fallback: true,
	},
	WordPiece: { type: "WordPiece", vocab: IDS, unk_token: "<unk>", max_input_chars_per_word: 1e9 },
	WordLevel: { type: "WordLevel", vocab: IDS, unk_token: "<unk>" },
};
const PRE_TOKENIZERS: Json[] = [
	null,
	{ type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
	{ type: "BertPreTokenizer" },
	{ type: "Punctuation", behavior: "MergedWithNext" },
	{
		type: "Split",
		pattern: { Regex: "\\p{L}+|\\s+" },
		behavior: "MergedWithPrevious",
		invert: true,
	},
];
const WORDS = ["a", "ab", "abcd", "zy", "😀", "\n", " ", ".a"];

for (const [name, model] of Object.entries(MODELS)) {
	Deno.test(`${name} encodes and decodes long words in near linear time`, () => {
		for (const pre_tokenizer of PRE_TOKENIZERS) {
			const added_tokens = [{ id: 500, content: "<|a|>", lstrip: true, rstrip: true }];
			const json = { model, pre_tokenizer, added_tokens };
			const tokenizer = TextTokenizer.load(folder(json));
			for (const word of WORDS) {
				const start = performance.now();
				const ids = tokenizer.encode(word.repeat(LENGTH / word.length));
				assert.ok((ids.length > 0 || word.trim() === "") && ids.every((id) => id >= 0));
				tokenizer.decode(ids);
				const message = `${JSON.stringify(pre_tokenizer)} of ${JSON.stringify(word)}`;
				assert.ok(performance.now() - start < SOON, message);
			}
		}
	});
}

Deno.test("what follows patterns and templates of files has a limit of time", () => {
	const begun: [what: string, seconds: number][] = [];
	let running = 0;
	watchTime({
		begin(what, seconds) {
			begun.push([what, seconds]);
			assert.equal(++running, 1);
		},
		end: () => void running--,
	});
	const files = folder({ model: MODELS.BPE }, "{{ messages[0].content }}");
	const tokenizer = TextTokenizer.load(files);
	const ids = tokenizer.encode("a".repeat(100_000));
	tokenizer.decode(ids.slice(0, 5));
	renderChat(files, [{ role: "user", content: "Hi" }]);
	assert.equal(running, 0);
	assert.deepEqual(begun, [
		['opening the tokenizer of "memory"', 60],
		['encoding 100\u202f000 characters with the tokenizer of "memory"', 62],
		['decoding 5 tokens with the tokenizer of "memory"', 61],
		['reading the chat template of "memory"', 60],
		['rendering the chat template of "memory"', 60],
	]);
	assert.throws(() =>
		withTimeLimit("x", 0, () => {
			throw new Error("no");
		}), /no/);
	assert.equal(running, 0);
	assert.equal(withTimeLimit("x", 0, () => withTimeLimit("y", 0, () => 5)), 5);
	assert.equal(begun.at(-1)![0], "x");
});
