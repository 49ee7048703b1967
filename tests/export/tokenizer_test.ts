import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { isByteLevel, preTokenizerName } from "../../export/gguf/pre_tokenizers.ts";
import { hasSpacePrefix, pieceScores } from "../../export/gguf/sentencepiece.ts";
import { tokenizerMetadata } from "../../export/gguf/tokenizer.ts";
import { ModelFiles } from "../../models/model_files.ts";
import type { Step, TokenizerJson } from "../../models/tokenizers/tokenizer_sources.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { MemoryFolder } from "../../storage/memory_folder.ts";
import { Workplace } from "../micro_model.ts";

const BYTES: Step = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
const GPT2: Step = { ...BYTES, use_regex: true };

function words(digits: string): Step {
	const Regex = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" + digits +
		"| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
	return { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false };
}

function steps(...pretokenizers: Step[]): TokenizerJson {
	return { pre_tokenizer: { type: "Sequence", pretokenizers }, model: {} };
}

Deno.test("pre-tokenizers are known by what they do", () => {
	const digits = { type: "Digits", individual_digits: true };
	assert.equal(preTokenizerName({ pre_tokenizer: GPT2 }), "gpt-2");
	assert.equal(preTokenizerName(steps(digits, GPT2)), "smollm");
	assert.equal(preTokenizerName(steps(words("\\p{N}"), BYTES)), "qwen2");
	const three = steps(words("\\p{N}{1,3}"), BYTES);
	assert.equal(preTokenizerName(three), "smaug-bpe");
	assert.equal(preTokenizerName({ ...three, model: { ignore_merges: true } }), "llama-bpe");
	assert.ok(isByteLevel(three));
	assert.ok(!isByteLevel({ pre_tokenizer: { type: "Metaspace" } }));
});

Deno.test("pre-tokenizers that llama.cpp lacks are refused by name", () => {
	const refuses = (json: TokenizerJson, what: RegExp) =>
		assert.throws(() => preTokenizerName(json), what);
	refuses(steps({ type: "Punctuation" }, GPT2), /the same as Punctuation \{\}, GPT-2's words/);
	refuses(steps(words("\\p{N}{1,2}"), BYTES), /\\p\{N\}\{1,2\}/);
	refuses(
		{ pre_tokenizer: { ...GPT2, add_prefix_space: true } },
		/ByteLevel .*"add_prefix_space":true/,
	);
	const ignoring = { ...steps(words("\\p{N}"), BYTES), model: { ignore_merges: true } };
	refuses(ignoring, /"qwen2"\) only with ignore_merges: false/);
});

Deno.test("scores of SentencePiece are ranks of merges, if these are all merges of the tokens", () => {
	const ids = new Map(["<unk>", "a", "b", "c", "ab", "bc", "abc"].map((token, id) => [token, id]));
	const folder = new MemoryFolder(new Map());
	const scores = (merges: [string, string][]) => pieceScores(folder, { model: { merges } }, ids);
	const all: [string, string][] = [["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"]];
	const found = scores(all);
	assert.deepEqual(["ab", "bc", "abc"].map((token) => found.get(ids.get(token)!)), [-0, -1, -2]);
	assert.ok(found.get(1)! < -1e5, "made by no merge");
	assert.throws(() => scores(all.slice(0, 3)), /not all merges that make "abc" are listed/);
	const mixed: [string, string][] = [["a", "b"], ["ab", "c"], ["b", "c"], ["a", "bc"]];
	assert.throws(() => scores(mixed), /"abc" is merged at two ranks/);
});

Deno.test("steps of SentencePiece say whether a space is put before a text", () => {
	const replace = { type: "Replace", pattern: { String: " " }, content: "▁" };
	const prepend = { type: "Prepend", prepend: "▁" };
	const normalizer = { type: "Sequence", normalizers: [prepend, replace] };
	assert.ok(hasSpacePrefix({ normalizer }));
	assert.ok(!hasSpacePrefix({ normalizer: replace }));
	const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false };
	assert.ok(hasSpacePrefix({ pre_tokenizer: metaspace }));
	assert.ok(!hasSpacePrefix({ pre_tokenizer: { ...metaspace, prepend_scheme: "never" } }));
	assert.throws(() => hasSpacePrefix({ normalizer: { type: "Lowercase" } }), /no step .*Lowercase/);
});

Deno.test("types of tokens, missing ids, the end of an answer and the chat template", () => {
	using place = new Workplace({ layers: 1, vocabulary: 4100 });
	writeFileSync(join(place.model, "chat_template.jinja"), "{{ messages }}");
	writeFileSync(join(place.model, "generation_config.json"), '{ "eos_token_id": [2, 7] }');
	using model = ModelFiles.open(denoFolder(place.model));
	const { values, notes } = tokenizerMetadata(model);
	const value = (key: string) => values[`tokenizer.${key}`]?.value;
	const types = value("ggml.token_type") as Int32Array;
	assert.deepEqual([...types.slice(0, 4), types[300], types[4097]], [3, 3, 3, 3, 1, 5]);
	assert.equal((value("ggml.tokens") as string[])[4097], "[PAD4097]");
	assert.deepEqual([value("ggml.eos_token_id"), value("ggml.eot_token_id")], [2, 7]);
	assert.equal(value("chat_template"), "{{ messages }}");
	assert.deepEqual(notes, []);
});
