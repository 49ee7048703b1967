// The tokenizers of Llama-2, Llama-3, Qwen3 and GPT-2 against ids that others computed. Their files
// are not ours to give away and lie outside the project; the tests say so where they are missing.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readText } from "~/data/texts.ts";
import { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";

const DATA = "../shared/data";
const TOKENIZERS = `${DATA}/tokenizers`;
const there = existsSync(TOKENIZERS);
const where = there ? "" : " (needs ../shared)";

/** The tokenizers, the files that each is made of, and the name of its texts in llama.cpp. */
const SOURCES: [name: string, files: string[], texts: string][] = [
	["llama2", ["tokenizer.json"], "llama-spm"],
	["llama2", ["tokenizer.model"], "llama-spm"],
	["llama3", ["tokenizer.json"], "llama-bpe"],
	["qwen3", ["tokenizer.json"], "qwen2"],
	["qwen3", ["vocab.json", "merges.txt"], "qwen2"],
	["gpt2", ["tokenizer.json"], "gpt-2"],
	["gpt2", ["vocab.json", "merges.txt"], "gpt-2"],
];

const loaded = new Map<string, TextTokenizer>();

/** A tokenizer from these files alone. */
function load(name: string, files: string[]): TextTokenizer {
	const key = [name, ...files].join();
	let tokenizer = loaded.get(key);
	if (!tokenizer) loaded.set(key, tokenizer = loadAnew(name, files));
	return tokenizer;
}

function loadAnew(name: string, files: string[]): TextTokenizer {
	using folder = new TemporaryFolder();
	for (const file of [...files, "tokenizer_config.json"]) {
		const source = join(TOKENIZERS, name, file);
		if (existsSync(source)) copyFileSync(source, folder.file(file));
	}
	if (name === "qwen3" && files.includes("vocab.json")) { // has only the one file
		const { model } = JSON.parse(readFileSync(join(TOKENIZERS, name, "tokenizer.json"), "utf8"));
		const merges = model.merges.map((merge: [string, string]) => merge.join(" "));
		writeFileSync(folder.file("vocab.json"), JSON.stringify(model.vocab));
		writeFileSync(folder.file("merges.txt"), merges.join("\n"));
	}
	return TextTokenizer.load(denoFolder(folder.path));
}

for (const [name, files, texts] of SOURCES) {
	Deno.test({
		name: `${name} from ${files.join(" and ")} gives the ids of llama.cpp's tests${where}`,
		ignore: !there,
		fn() {
			const tokenizer = load(name, files);
			const golden = `${TOKENIZERS}/goldens/ggml-vocab-${texts}.gguf`;
			const inputs = readFileSync(`${golden}.inp`, "utf8").split("\n__ggml_vocab_test__\n")
				.slice(0, -1); // each ends so
			const outputs = readFileSync(`${golden}.out`, "utf8").split("\n").slice(0, -1);
			assert.equal(inputs.length, outputs.length);
			inputs.forEach((input, i) => {
				const ids = outputs[i].split(" ").filter((id) => id !== "").map(Number);
				assert.deepEqual(tokenizer.encode(input, { specialTokens: false }), ids, `"${input}"`);
			});
		},
	});
}

/** Texts of many tokens, by their names among the counts. */
const TEXTS: Record<string, () => string> = {
	'wikitext2.test "\\n\\n".join(HF rows)': () => readText(`${DATA}/wikitext2/wiki.test.raw`),
	"wikitext2 wiki.test.raw whole file": () =>
		readFileSync(`${DATA}/wikitext2/wiki.test.raw`, "utf8"),
	'wt103-v1 valid near-raw "\\n\\n".join(HF rows)': () => {
		using folder = new TemporaryFolder();
		const raw = folder.file("valid.raw"); // a name that makes rows of its lines
		copyFileSync(`${DATA}/wikitext2/wiki.valid.near-raw.txt`, raw);
		return readText(raw);
	},
	'c4-fragments-300tok.1480 "\\n\\n".join(text)': () =>
		readFileSync(`${DATA}/c4/c4-fragments-300tok.1480.jsonl`, "utf8").trimEnd().split("\n")
			.map((line) => JSON.parse(line).text).join("\n\n"),
};

/** Of Python's `tokenizers` 0.22.2 and 0.23.3; the recorded ids of this text take U+FEFF for a space. */
const GPT2_C4 = { gpt2: 392357, gpt2_sha256_le32: "4016bae45c43ef52" };

for (const [name, files] of SOURCES) {
	for (const [text, read] of Object.entries(TEXTS)) {
		Deno.test({
			name: `${name} from ${files.join(" and ")} gives the ids of ${text}${where}`,
			ignore: !there,
			fn() {
				const path = `${TOKENIZERS}/goldens/dataset-token-counts.json`;
				const golden = JSON.parse(readFileSync(path, "utf8"))[text];
				if (text.startsWith("c4")) Object.assign(golden, GPT2_C4);
				const content = read();
				assert.equal(content.length, golden.chars);
				const tokenizer = load(name, files);
				const start = performance.now();
				const ids = tokenizer.encode(content, { specialTokens: false });
				const seconds = (performance.now() - start) / 1000;
				assert.equal(ids.length, golden[name]);
				assert.equal(ids.slice(0, 8).join(" "), golden[`${name}_first8`]);
				const bytes = new Uint8Array(Uint32Array.from(ids).buffer);
				const sha256 = createHash("sha256").update(bytes).digest("hex");
				assert.equal(sha256.slice(0, 16), golden[`${name}_sha256_le32`]);
				assert.ok(seconds < 10, `took ${seconds} s`);
			},
		});
	}
}
