import assert from "node:assert/strict";
import { cpSync, existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { TextStream } from "~/models/tokenizers/text_stream.ts";
import { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";

/** Bytes of UTF-8 as GPT-2's vocabulary writes them. */
const BYTE_NAMES = (() => {
	const plain = [[33, 126], [161, 172], [174, 255]];
	const isPlain = (byte: number) => plain.some(([first, last]) => byte >= first && byte <= last);
	let next = 256;
	return Array.from(
		{ length: 256 },
		(_, byte) => String.fromCharCode(isPlain(byte) ? byte : next++),
	);
})();

/** A tokenizer that has a token for each byte and, of several bytes, only " you". */
function byteLevelTokenizer(): TextTokenizer {
	const names = [...BYTE_NAMES, "Ġy", "ou", "Ġyou"];
	return load({
		model: {
			type: "BPE",
			vocab: Object.fromEntries(names.map((name, id) => [name, id])),
			merges: [["Ġ", "y"], ["o", "u"], ["Ġy", "ou"]],
		},
		pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
		decoder: { type: "ByteLevel" },
	});
}

/** A tokenizer like Llama's: "▁" for spaces, bytes for what has no token. */
function sentencePieceTokenizer(): TextTokenizer {
	const names = ["<unk>", "<s>", "</s>"];
	for (let byte = 0; byte < 256; byte++) {
		names.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
	}
	names.push("▁", "a", "b", "▁a", "▁b", "é");
	return load({
		model: {
			type: "BPE",
			vocab: Object.fromEntries(names.map((name, id) => [name, id])),
			merges: [["▁", "a"], ["▁", "b"]],
			unk_token: "<unk>",
			fuse_unk: true,
			byte_fallback: true,
		},
		added_tokens: [0, 1, 2].map((id) => ({ id, content: names[id], special: true })),
		normalizer: {
			type: "Sequence",
			normalizers: [
				{ type: "Prepend", prepend: "▁" },
				{ type: "Replace", pattern: { String: " " }, content: "▁" },
			],
		},
		decoder: {
			type: "Sequence",
			decoders: [
				{ type: "Replace", pattern: { String: "▁" }, content: " " },
				{ type: "ByteFallback" },
				{ type: "Fuse" },
				{ type: "Strip", content: " ", start: 1, stop: 0 },
			],
		},
	});
}

function load(json: Record<string, unknown>): TextTokenizer {
	using folder = new TemporaryFolder();
	writeFileSync(folder.file("tokenizer.json"), JSON.stringify(json));
	return TextTokenizer.load(denoFolder(folder.path));
}

/** What comes for each token, and at the end. */
function pieces(tokenizer: TextTokenizer, ids: number[], before: number[] = []): string[] {
	const stream = new TextStream(tokenizer, before);
	return [...ids.map((id) => stream.push(id)), stream.end()];
}

const TEXT = " you é€ 你好 👩‍🚀 z";

Deno.test("a character of several tokens comes with the last of them", () => {
	const tokenizer = byteLevelTokenizer();
	const ids = tokenizer.encode(TEXT);
	const found = pieces(tokenizer, ids);
	assert.equal(found.join(""), TEXT);
	assert.deepEqual(found.slice(0, 8), [" you", " ", "", "é", "", "", "€", " "]);
	assert(!found.join("").includes("\ufffd"));
	for (const piece of found) assert(piece.isWellFormed(), "no half of a surrogate pair");
});

Deno.test("a space at the start of a token stays, but for the first of a text", () => {
	const tokenizer = sentencePieceTokenizer();
	const [a, b, spaceA, spaceB] = ["a", "b", "▁a", "▁b"].map((_, i) => 260 + i);
	assert.deepEqual(tokenizer.encode("a b"), [spaceA, spaceB]);
	assert.deepEqual(pieces(tokenizer, [spaceB, a, spaceA], [spaceA]), [" b", "a", " a", ""]);
	assert.deepEqual(pieces(tokenizer, [spaceB, a, spaceA]), ["b", "a", " a", ""]);
	assert.deepEqual(pieces(tokenizer, [spaceB, b], [1]), ["b", "b", ""], "after a special token");
	const ids = tokenizer.encode("a b é 你 b 👩");
	assert.deepEqual(pieces(tokenizer, ids).join(""), "a b é 你 b 👩");
});

Deno.test("special tokens give no text", () => {
	const tokenizer = sentencePieceTokenizer();
	assert.deepEqual(pieces(tokenizer, [262, 2, 263, 1], [262]), [" a", "", " b", "", ""]);
});

Deno.test("what is no character comes when it cannot become one any more, or at the end", () => {
	const tokenizer = byteLevelTokenizer();
	const [z, lead, follower] = [0x7a, 0xf0, 0x9f]; // a token's id is its byte
	assert.deepEqual(pieces(tokenizer, [z, lead, z]), ["z", "", "\ufffdz", ""]);
	assert.deepEqual(pieces(tokenizer, [z, lead, follower]), ["z", "", "", "\ufffd"]);
	const many = pieces(tokenizer, [z, ...new Array(9).fill(0xff)]);
	assert.equal(many.join(""), "z" + "\ufffd".repeat(9));
	assert(many.slice(0, 7).join("").length > 1, "does not wait for ever");
	assert.deepEqual(pieces(tokenizer, []), [""]);
});

Deno.test("a long text comes whole, whatever the tokens before", () => {
	for (const tokenizer of [byteLevelTokenizer(), sentencePieceTokenizer()]) {
		const text = `a b ${TEXT}`.repeat(30).replaceAll("you", "a");
		const ids = tokenizer.encode(text);
		for (const start of [0, 1, 5, 50]) {
			const expected = tokenizer.decode(ids).slice(tokenizer.decode(ids.slice(0, start)).length);
			const found = pieces(tokenizer, ids.slice(start), ids.slice(0, start)).join("");
			assert.equal(found.replaceAll("\ufffd", ""), expected.replaceAll("\ufffd", ""));
		}
	}
});

for (
	const model of [
		"examples/models/tiny-llama",
		"examples/models/tiny-opt",
		"../shared/models/stories260K-hf",
	]
) {
	const there = existsSync(model);
	Deno.test({
		name: `the texts of ${model} come whole${there ? "" : " (needs ../shared)"}`,
		ignore: !there,
		fn() {
			using folder = new TemporaryFolder();
			for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
				cpSync(join(model, name), folder.file(name));
			}
			const tokenizer = TextTokenizer.load(denoFolder(folder.path));
			const text =
				"Once upon a time, there was a girl – Zoë – who said: “こんにちは 🚀”.  Then  two\n\nlines.";
			const ids = tokenizer.encode(text);
			for (const start of [1, 4, 9]) {
				const before = tokenizer.decode(ids.slice(0, start));
				const found = pieces(tokenizer, ids.slice(start), ids.slice(0, start));
				assert.equal(before + found.join(""), tokenizer.decode(ids));
			}
		},
	});
}
