import { Tokenizer } from "@huggingface/tokenizers";
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import { readText } from "~/data/texts.ts";
import { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";
import { denoFolder } from "~/storage/deno_folder.ts";

const ROOT = join(import.meta.dirname!, "../../..");
const MODELS = join(ROOT, "examples/models");
const SHARED = join(ROOT, "../shared");
const noShared = !exists(SHARED);

/** Ids after the first token, from Python's `tokenizers` 0.23.3. */
const GOLDEN: [text: string, ids: number[]][] = [
	["", []],
	["Once upon a time", [50, 1437, 576, 262, 593]],
	[
		"  Two  spaces,\n\na blank line\t.",
		[224, 350, 2875, 224, 524, 1321, 15, 202, 202, 68, 601, 987, 2301, 201, 17],
	],
	[
		"Überraschung: 中文 😀 e\u0301",
		[
			...[131, 254, 730, 85, 293, 374, 1164, 29, 224, 164, 120, 259, 166, 248, 233],
			...[224, 176, 257, 250, 226, 309, 140, 227],
		],
	],
	[
		"It's 1895; they'll see “Holmes”.",
		[864, 380, 2963, 28, 24, 30, 419, 897, 597, 224, 732, 254, 43, 465, 3759, 732, 255, 17],
	],
	["a<s>b</s>", [68, 3, 69, 2]],
	["Wait , he 's here .", [58, 68, 276, 2384, 294, 615, 86, 765, 1461]],
	// U+FEFF is a space to JavaScript only, U+0085 to Unicode only.
	["  \ufeffbom  \u0085", [224, 224, 175, 123, 127, 69, 301, 1413, 130, 231]],
];

const MODEL_TOKENS = [
	{
		model: "tiny-llama",
		bosId: 3,
		bos: "<s>",
		sha256: "1f554e265c72a7c6c596c4ee957f6bdabc5e4a588234e575ff87654fb23226cf",
	},
	{
		model: "tiny-opt",
		bosId: 2,
		bos: "</s>",
		sha256: "61f7707b252a85abd7c776585bc9327b7ca8ac40afb321610b4c6bd18546ec8f",
	},
];

for (const { model, bosId, bos, sha256 } of MODEL_TOKENS) {
	const tokenizer = TextTokenizer.load(denoFolder(join(MODELS, model)));

	Deno.test(`the tokenizer of ${model} knows its special tokens`, () => {
		assert.equal(tokenizer.bosId, bosId);
		assert.equal(tokenizer.eosId, 2);
		assert.equal(tokenizer.vocabularySize, 4096);
		assert.deepEqual(tokenizer.files, ["tokenizer.json", "tokenizer_config.json"]);
	});

	for (const [text, ids] of GOLDEN) {
		Deno.test(`the tokenizer of ${model} encodes and decodes ${JSON.stringify(text)}`, () => {
			assert.deepEqual(tokenizer.encode(text), [bosId, ...ids]);
			assert.deepEqual(tokenizer.encode(text, { specialTokens: false }), ids);
			assert.equal(tokenizer.decode([bosId, ...ids], { specialTokens: true }), bos + text);
			assert.equal(tokenizer.decode([bosId, ...ids]), text.replace(/<.*?>/g, ""));
		});
	}

	Deno.test(`the tokenizer of ${model} gives the golden ids of a whole book`, () => {
		const ids = tokenizer.encode(readText(join(ROOT, "examples/text/evaluation.txt.gz")));
		assert.equal(ids.length, 25996);
		assert.equal(sha256Of(ids), sha256);
	});
}

Deno.test("decode() passes over ids without a token", () => {
	const tokenizer = TextTokenizer.load(denoFolder(join(MODELS, "tiny-llama")));
	assert.equal(tokenizer.decode([50, 4096, 1437]), tokenizer.decode([50, 1437]));
	assert.equal(tokenizer.decode(new Int32Array([9999])), "");
	assert.equal(tokenizer.decode([]), "");
});

for (const joining of [[], [["b", "▁a"]], [["a", "▁"]]]) {
	Deno.test(`SentencePiece merges with ${JSON.stringify(joining)} are not cut apart`, () => {
		const merges = [["▁", "▁"], ["▁", "a"], ["a", "b"], ["▁a", "b"], ["▁▁", "ab"], ...joining];
		const tokens = ["<unk>", "▁", "a", "b", ...merges.map((merge) => merge.join(""))];
		const json = {
			added_tokens: [],
			normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" },
			pre_tokenizer: null,
			post_processor: null,
			decoder: null,
			model: {
				type: "BPE",
				vocab: Object.fromEntries([...new Set(tokens)].map((token, id) => [token, id])),
				merges,
				unk_token: "<unk>",
				fuse_unk: true,
			},
		};
		const uncut = new Tokenizer(json, {});
		inFolder((folder) => {
			Deno.writeTextFileSync(join(folder, "tokenizer.json"), JSON.stringify(json));
			const tokenizer = TextTokenizer.load(denoFolder(folder));
			for (let n = 0; n < 5 ** 5; n++) { // all texts of five of these characters
				const text = n.toString(5).padStart(5, "0").replace(/./g, (digit) => " abc▁"[+digit]);
				assert.deepEqual(tokenizer.encode(text), uncut.encode(text).ids, JSON.stringify(text));
			}
			assert.equal(tokenizer.decode([1, 99, 2]), "▁ a"); // 99 is no token
		});
	});
}

Deno.test("a tokenizer.json that is damaged or of an unknown kind is named", () => {
	inFolder((folder) => {
		const refused = (message: string) =>
			assert.throws(() => TextTokenizer.load(denoFolder(folder)), new UserError(message));
		const path = join(folder, "tokenizer.json");
		Deno.writeTextFileSync(path, "{");
		refused(`Cannot read "${path}": it is not JSON; download it again`);
		Deno.writeTextFileSync(path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
		refused(
			`Cannot read "${path}": it is a Git LFS pointer, not the file itself; run \`git lfs pull\``,
		);
		Deno.writeTextFileSync(path, '{ "model": { "type": "Sudoku" } }');
		refused(
			`Cannot open the tokenizer of "${folder}": "model" is "Sudoku", which is not supported`,
		);
	});
});

/** Token counts and hashes from Python's `tokenizers` 0.23.3, special tokens included. */
const WIKITEXT: [folder: string, tokens: number, sha256: string][] = [
	["models/tiny-llama", 442593, "9791614b9e60a10643cac9b3078d7b5bc995dc72ca13d1cde38148a1485a38c6"],
	["models/tiny-opt", 442593, "4f690c4b6210acc5e49985bdc660bb792dc08c10cd775e20776e5c67fc70368e"],
	[
		"models/stories260K-hf",
		815070,
		"95472f82ba94a1eebf705af5578e41b34f679e3e1e742a13749a902903fdbd94",
	],
	[
		"data/tokenizers/llama2",
		341469,
		"9b69cd50dbe9e29f2d40f999f103fbe4b0ff014ec4f9fdae094c687ca1af6f92",
	],
	[
		"data/tokenizers/gpt2",
		287644,
		"ef6af648320b73e3cb62461c48c8e4539aec4d10c751005e32d690977f0b9ccf",
	],
	[
		"data/tokenizers/llama3",
		289076,
		"92fdd16607cadc6468f3ff10f614f1e56f11c06e804f7bc23df1a2da221984b0",
	],
	[
		"data/tokenizers/qwen3",
		299078,
		"b44603066a92719a20e2dc18d6c5f7f5342b1877c20c1e2bdd92deca662d3d56",
	],
];

for (const [folder, tokens, sha256] of WIKITEXT) {
	Deno.test({
		name: `the ids of WikiText-2 test are those of Python for ${folder} (needs ../shared)`,
		ignore: noShared,
		fn() {
			const tokenizer = TextTokenizer.load(denoFolder(join(SHARED, folder)));
			const ids = tokenizer.encode(readText(join(SHARED, "data/wikitext2/wiki.test.raw")));
			assert.equal(ids.length, tokens);
			assert.equal(sha256Of(ids), sha256);
		},
	});
}

Deno.test({
	name: "stories260K encodes its golden prompt and texts (needs ../shared)",
	ignore: noShared,
	fn() {
		const tokenizer = TextTokenizer.load(denoFolder(join(SHARED, "models/stories260K-hf")));
		const golden = Deno.readTextFileSync(join(SHARED, "models/stories260K-golden.json"));
		const { prompt, prompt_ids } = JSON.parse(golden)["stories260K-hf"];
		assert.deepEqual(tokenizer.encode(prompt), prompt_ids);
		assert.equal(tokenizer.decode(prompt_ids), prompt);
		const count = (path: string) =>
			tokenizer.encode(Deno.readTextFileSync(join(SHARED, path))).length;
		assert.equal(count("data/tinystories/tinystories_val_1k.txt"), 393019);
		assert.equal(count("data/wikitext2/wiki.test.raw"), 809290);
	},
});

/** Of the ids as little-endian 32-bit numbers. */
function sha256Of(ids: number[]): string {
	return createHash("sha256").update(new Uint8Array(Int32Array.from(ids).buffer)).digest("hex");
}

/** Runs a test in a fresh folder. */
function inFolder(test: (folder: string) => void): void {
	const folder = Deno.makeTempDirSync();
	try {
		test(folder);
	} finally {
		Deno.removeSync(folder, { recursive: true });
	}
}

function exists(path: string): boolean {
	try {
		return Boolean(Deno.statSync(path));
	} catch {
		return false;
	}
}
