// Folders without tokenizer.json, and what the small files beside the vocabulary do, against
// transformers 4.57.6. Version 5 gives other ids for Llama.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readText } from "~/data/texts.ts";
import { fixture, fixtureBytes } from "../../fixture.ts";
import { UserError } from "~/base/errors.ts";
import { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";

const ROOT = join(import.meta.dirname!, "../../..");
const TINY_OPT = join(ROOT, "examples/models/tiny-opt/tokenizer.json");

interface Golden {
	source: "model" | "gemma" | "pairs" | "json";
	/** Small files, and members to replace in tokenizer.json. */
	files: Record<string, Record<string, unknown>>;
	size: number;
	bos: number | null;
	eos: number | null;
	ids: number[][];
	decoded: string[];
	without_special: string[];
}

const { texts, gemma, cases }: {
	texts: string[];
	/** A tokenizer.model like Gemma's, in base64. */
	gemma: string;
	cases: Record<string, Golden>;
} = fixture("tokenizers/goldens");

/** Puts a tokenizer in a folder, with small files and without tokenizer_config.json of its own. */
function write(folder: string, { source, files }: Pick<Golden, "source" | "files">): void {
	const content: Record<string, Record<string, unknown>> = {};
	if (source === "model") {
		writeFileSync(join(folder, "tokenizer.model"), fixtureBytes("tokenizers/tokenizer.model"));
	} else if (source === "gemma") {
		writeFileSync(join(folder, "tokenizer.model"), Uint8Array.fromBase64(gemma));
	} else {
		content["tokenizer.json"] = JSON.parse(readFileSync(TINY_OPT, "utf8"));
	}
	if (source === "pairs") {
		const { vocab, merges } = content["tokenizer.json"].model as {
			vocab: Record<string, number>;
			merges: (string | string[])[];
		};
		delete content["tokenizer.json"];
		content["vocab.json"] = vocab;
		const lines = merges.map((merge) => [merge].flat().join(" "));
		writeFileSync(join(folder, "merges.txt"), ["#version: 0.2", ...lines, ""].join("\n"));
	}
	for (const name of Object.keys({ ...content, ...files })) {
		writeFileSync(join(folder, name), JSON.stringify({ ...content[name], ...files[name] }));
	}
}

for (const [name, golden] of Object.entries(cases)) {
	Deno.test(`the ids are those of transformers: ${name}`, () => {
		using folder = new TemporaryFolder();
		write(folder.path, golden);
		const tokenizer = TextTokenizer.load(denoFolder(folder.path));
		assert.equal(tokenizer.bosId ?? null, golden.bos);
		assert.equal(tokenizer.eosId ?? null, golden.eos);
		assert.equal(tokenizer.vocabularySize, golden.size);
		texts.forEach((text, i) => {
			assert.deepEqual(tokenizer.encode(text), golden.ids[i], JSON.stringify(text));
			const decoded = tokenizer.decode(golden.ids[i], { specialTokens: true });
			assert.equal(decoded, golden.decoded[i], JSON.stringify(text));
			assert.equal(tokenizer.decode(golden.ids[i]), golden.without_special[i]);
		});
	});
}

Deno.test("the goldens hold what they are for", () => {
	const idsOf = (name: string, text: string) => cases[name].ids[texts.indexOf(text)];
	const words = idsOf("legacy", "Hello").slice(1);
	assert.notDeepEqual(idsOf("legacy", " Hello"), [1, ...words]);
	assert.deepEqual(idsOf("not legacy", " Hello"), [1, ...words]);
	assert.deepEqual(idsOf("end without begin", "Hello"), [...words, 2]);
	assert.equal(idsOf("as OPT", "Hello")[0], 2);
	assert.equal(cases["added tokens"].size, 704);
});

Deno.test("the first conversions of Llama, which transformers no longer reads, are like later ones", () => {
	using folder = new TemporaryFolder();
	const config = { tokenizer_class: "LLaMATokenizer", bos_token: "", eos_token: "", unk_token: "" };
	write(folder.path, { source: "model", files: { "tokenizer_config.json": config } });
	const tokenizer = TextTokenizer.load(denoFolder(folder.path));
	assert.deepEqual(texts.map((text) => tokenizer.encode(text)), cases.legacy.ids);
	assert.deepEqual([tokenizer.bosId, tokenizer.eosId], [1, 2]);
});

Deno.test("where there is tokenizer.json, what a class has by itself adds nothing", () => {
	// Unlike in transformers, where a first token of the class could have no row in the embedding.
	using folder = new TemporaryFolder();
	write(folder.path, { source: "json", files: { "config.json": { model_type: "llama" } } });
	const tokenizer = TextTokenizer.load(denoFolder(folder.path));
	assert.deepEqual(tokenizer.encode("Hello")[0], 2); // the template has "</s>"
	assert.equal(tokenizer.bosId, 3);
	const gpt2 = { "config.json": { model_type: "gpt2" } };
	write(folder.path, { source: "json", files: gpt2 });
	const { bosId, vocabularySize } = TextTokenizer.load(denoFolder(folder.path));
	assert.deepEqual([bosId, vocabularySize], [undefined, 4096]);
});

Deno.test("a model that puts a space before texts, or does not, belongs to one class", () => {
	const mixed = [["model", "GemmaTokenizer", "a"], ["gemma", "LlamaTokenizer", "no"]] as const;
	for (const [source, tokenizer_class, what] of mixed) {
		using folder = new TemporaryFolder();
		write(folder.path, { source, files: { "tokenizer_config.json": { tokenizer_class } } });
		assert.throws(() => TextTokenizer.load(denoFolder(folder.path)), {
			name: "UserError",
			message: `Cannot read "${folder.file("tokenizer.model")}": it puts ${what} space ` +
				`before the text, unlike the models of ${tokenizer_class}; add the model's "tokenizer.json"`,
		});
	}
});

Deno.test("a text is encoded as fast without tokenizer.json", () => {
	const text = readText(join(ROOT, "examples/text/calibration.txt.gz"));
	for (const name of ["legacy", "not legacy", "as Gemma", "as OPT", "as Qwen2"]) {
		using folder = new TemporaryFolder();
		write(folder.path, cases[name]);
		const tokenizer = TextTokenizer.load(denoFolder(folder.path));
		const start = performance.now();
		const ids = tokenizer.encode(text);
		const seconds = (performance.now() - start) / 1000;
		assert.ok(seconds < 10, `${name}: ${ids.length} tokens took ${seconds} s`);
	}
});

const ADVICE = "make one in Python with AutoTokenizer.from_pretrained(...).save_pretrained(...)";

/** Files to write, from none, and what is then wrong; FOLDER stands for the folder. */
const REFUSED: [name: string, files: Record<string, unknown>, message: string][] = [
	[
		"nothing",
		{},
		'Cannot open the tokenizer of "FOLDER": it needs "tokenizer.json", as neither ' +
		`tokenizer_config.json nor config.json tells its class (found nothing); ${ADVICE}`,
	],
	[
		"Llama without a vocabulary",
		{ "config.json": { model_type: "llama" }, "merges.txt": "" },
		'Cannot open the tokenizer of "FOLDER": it needs "tokenizer.json", or "tokenizer.model" for ' +
		`its class LlamaTokenizer (found only "merges.txt"); ${ADVICE}`,
	],
	[
		"GPT-2 without merges",
		{ "tokenizer_config.json": { tokenizer_class: "GPT2TokenizerFast" }, "vocab.json": {} },
		'Cannot open the tokenizer of "FOLDER": it needs "tokenizer.json", or "vocab.json" and ' +
		`"merges.txt" for its class GPT2Tokenizer (found only "tokenizer_config.json", "vocab.json"); ` +
		ADVICE,
	],
	[
		"another class",
		{ "tokenizer_config.json": { tokenizer_class: "T5Tokenizer" }, "tokenizer.model": "" },
		'Cannot open the tokenizer of "FOLDER": it needs "tokenizer.json" for its class T5Tokenizer ' +
		`(found only "tokenizer_config.json", "tokenizer.model"); ${ADVICE}`,
	],
	[
		"a vocabulary that is not JSON",
		{ "config.json": { model_type: "opt" }, "vocab.json": "<html>", "merges.txt": "" },
		'Cannot read "FOLDER/vocab.json": it is an HTML page, perhaps an error message; ' +
		"download it again",
	],
	[
		"a vocabulary with other than integers",
		{ "config.json": { model_type: "opt" }, "vocab.json": { a: 0, b: 1.5 }, "merges.txt": "" },
		'Cannot read "FOLDER/vocab.json": "b" is 1.5, not a token id',
	],
	[
		"a vocabulary with a negative id",
		{ "config.json": { model_type: "opt" }, "vocab.json": { a: -1 }, "merges.txt": "" },
		'Cannot read "FOLDER/vocab.json": "a" is -1, not a token id',
	],
	[
		"a line of merges of one word",
		{
			"config.json": { model_type: "opt" },
			"vocab.json": { a: 0, b: 1, ab: 2 },
			"merges.txt": "#version: 0.2\r\na b\r\nab\r\n",
		},
		'Cannot read "FOLDER/merges.txt": line 3, "ab", is not two words with a space between',
	],
	[
		"a line of merges of three words",
		{ "config.json": { model_type: "qwen2" }, "vocab.json": { a: 0 }, "merges.txt": "a a a" },
		'Cannot read "FOLDER/merges.txt": line 1, "a a a", is not two words with a space between',
	],
	[
		"merges of another vocabulary",
		{ "config.json": { model_type: "gpt2" }, "vocab.json": { a: 0, b: 1 }, "merges.txt": "a b\n" },
		'Cannot read "FOLDER/merges.txt": line 1, "a b", needs "ab", which "vocab.json" lacks',
	],
	[
		"a special token that is none",
		{ "tokenizer_config.json": { bos_token: { text: "<s>" } } },
		'Cannot read "FOLDER/tokenizer_config.json": "bos_token" is {"text":"<s>"}, not a token',
	],
	[
		"special tokens that are no list",
		{ "special_tokens_map.json": { additional_special_tokens: 1 } },
		'Cannot read "FOLDER/special_tokens_map.json": "additional_special_tokens" is 1, not a list ' +
		"of tokens",
	],
	[
		"added tokens that are no object",
		{ "tokenizer_config.json": { added_tokens_decoder: "0" } },
		'Cannot read "FOLDER/tokenizer_config.json": "added_tokens_decoder" is "0", not an object ' +
		"of tokens",
	],
	[
		"added tokens with other than ids",
		{ "tokenizer_config.json": { added_tokens_decoder: { one: { content: "<s>" } } } },
		'Cannot read "FOLDER/tokenizer_config.json": "added_tokens_decoder" is "one", not a token id',
	],
	[
		"an added token without an id",
		{ "added_tokens.json": { "[PAD]": "32000" } },
		'Cannot read "FOLDER/added_tokens.json": "[PAD]" is "32000", not a token id',
	],
	[
		"a flag of another kind",
		{ "tokenizer_config.json": { add_bos_token: "yes" } },
		'Cannot read "FOLDER/tokenizer_config.json": "add_bos_token" is "yes", not true or false',
	],
	[
		"a class of another kind",
		{ "tokenizer_config.json": { tokenizer_class: 7 } },
		'Cannot read "FOLDER/tokenizer_config.json": "tokenizer_class" is 7, not a text',
	],
	[
		"a first token that has no name",
		{
			"tokenizer_config.json": {
				tokenizer_class: "Qwen2Tokenizer",
				add_bos_token: true,
				bos_token: null,
			},
			"vocab.json": { a: 0 },
			"merges.txt": "",
		},
		'Cannot open the tokenizer of "FOLDER": it has no "bos_token", but is to add one',
	],
];

for (const [name, files, message] of REFUSED) {
	Deno.test(`a tokenizer is refused: ${name}`, () => {
		using folder = new TemporaryFolder();
		for (const [file, content] of Object.entries(files)) {
			const text = typeof content === "string" ? content : JSON.stringify(content);
			writeFileSync(folder.file(file), text);
		}
		assert.throws(
			() => TextTokenizer.load(denoFolder(folder.path)),
			new UserError(message.replace("FOLDER", folder.path)),
		);
	});
}
