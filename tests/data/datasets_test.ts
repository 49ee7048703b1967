import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { fixtureFolder } from "../fixture.ts";
import { UserError } from "~/base/errors.ts";
import { PythonRandom } from "~/base/python_random.ts";
import { type DatasetUse, type FetchFiles, openDataset } from "~/data/datasets.ts";
import { readRows } from "~/data/rows.ts";
import { writeTokenIds } from "~/data/windows.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const PARQUET = fixtureFolder("parquet");

/** Gives one token a UTF-16 unit, so that windows can be read as text. */
const tokenizer = () => ({ encode: (text: string) => text.split("").map(codeOf) });
const codeOf = (unit: string) => unit.charCodeAt(0);

const noTokenizer = (): never => assert.fail("no tokenizer is needed");
const noFetch: FetchFiles = () => assert.fail("nothing is to be fetched");

function textOf(windows: Int32Array[]): string {
	return windows.map((window) => String.fromCharCode(...window)).join("");
}

/** The text that evaluation windows are cut from: windows of one token each, joined. */
async function evaluatedText(dataset: string, fetch = noFetch): Promise<string> {
	const opened = await openDataset(dataset, "evaluation", fetch);
	return textOf(await opened.evaluation(tokenizer, { length: 1 }));
}

function refused(promise: Promise<unknown>, message: string): Promise<void> {
	return assert.rejects(promise, new UserError(message));
}

/** The crops of a text that Python's generator gives. */
function cropsOf(text: string, samples: number, length: number, seed: number): string[] {
	const random = new PythonRandom(seed);
	return Array.from({ length: samples }, () => {
		const start = random.randint(0, text.length - length - 1);
		return text.slice(start, start + length);
	});
}

/** A hub that has one file, and notes what is asked of it. */
class FakeHub implements Disposable {
	readonly #folder = new TemporaryFolder();
	readonly asked: unknown[] = [];

	constructor(path: string, write: (file: string) => void) {
		const file = join(this.#folder.path, path);
		mkdirSync(dirname(file), { recursive: true });
		write(file);
	}

	get path(): string {
		return this.#folder.path;
	}

	readonly fetch: FetchFiles = async (repository, paths) => {
		this.asked.push([repository, paths]);
		return this.#folder.path;
	};

	[Symbol.dispose](): void {
		this.#folder[Symbol.dispose]();
	}
}

// --- Named --------------------------------------------------------------------------------------

const WIKITEXT = { type: "dataset", id: "Salesforce/wikitext", revision: "main" };
const PTB = {
	type: "dataset",
	id: "ptb-text-only/ptb_text_only",
	revision: "refs/convert/parquet",
};

for (
	const [name, use, repository, path, source, column, separator] of [
		[
			"wikitext2",
			"calibration",
			WIKITEXT,
			"wikitext-2-raw-v1/train-00000-of-00001.parquet",
			"snappy",
			"text",
			" ",
		],
		[
			"wikitext2",
			"evaluation",
			WIKITEXT,
			"wikitext-2-raw-v1/test-00000-of-00001.parquet",
			"dictionary",
			"text",
			"\n\n",
		],
		["ptb", "calibration", PTB, "penn_treebank/train/0000.parquet", "sentences", "sentence", " "],
		["ptb", "evaluation", PTB, "penn_treebank/test/0000.parquet", "sentences", "sentence", " "],
	] as const
) {
	Deno.test(`${name} for ${use}`, async () => {
		const parquet = join(PARQUET, `${source}.parquet`);
		const text = (await Array.fromAsync(readRows(parquet, column))).join(separator);
		using hub = new FakeHub(path, (file) => copyFileSync(parquet, file));
		const data = await openDataset(name, use, hub.fetch);
		assert.deepEqual(hub.asked, [[repository, [path]]]);
		assert.equal(data.name, name);
		assert.deepEqual(data.files, [join(hub.path, path)]);
		if (use === "evaluation") {
			assert.equal(textOf(await data.evaluation(tokenizer, { length: 1 })), text);
			const windows = await data.evaluation(tokenizer, { length: 9, limit: 3 });
			assert.deepEqual(windows.map((window) => window.length), [9, 9, 9]);
			assert.equal(textOf(windows), text.slice(0, 27));
		} else {
			const options = { samples: 20, length: 7, seed: 3 };
			const windows = await data.calibration(tokenizer, options);
			assert.deepEqual(windows.map((window) => textOf([window])), cropsOf(text, 20, 7, 3));
			const fewer = await data.calibration(tokenizer, { ...options, samples: 5 });
			assert.deepEqual(fewer, windows.slice(0, 5));
		}
		const length = text.length + 1;
		await refused(
			use === "evaluation"
				? data.evaluation(tokenizer, { length })
				: data.calibration(tokenizer, { samples: 1, length, seed: 0 }),
			`The text "${name}" has ${text.length} tokens, fewer than one window of ${length}; ` +
				"use a longer text or a smaller sequence-length",
		);
	});
}

const C4 = { type: "dataset", id: "allenai/c4", revision: "main" };

Deno.test("c4 for calibration", async () => {
	const documents = ["too short", "0123456789", "abcdefghijklm", "short", "ABCDEFGHIJ"];
	const path = "en/c4-train.00000-of-01024.json.gz";
	const json = documents.map((text) => JSON.stringify({ text })).join("\n");
	using hub = new FakeHub(path, (file) => writeFileSync(file, gzipSync(json)));
	const data = await openDataset("c4", "calibration", hub.fetch);
	assert.deepEqual(hub.asked, [[C4, [path]]]);
	assert.deepEqual(data.files, [join(hub.path, path)]);

	let pauses = 0;
	const pause = async () => void pauses++;
	const windows = await data.calibration(tokenizer, { samples: 10, length: 9, seed: 1, pause });
	assert.ok(pauses >= 10);
	const random = new PythonRandom(1);
	const expected = windows.map(() => {
		let text = "";
		while (text.length <= 9) text = documents[random.randint(0, 4)];
		const start = random.randint(0, text.length - 9 - 1);
		return text.slice(start, start + 9);
	});
	assert.deepEqual(windows.map((window) => textOf([window])), expected);
});

Deno.test("c4 for evaluation: 1100 documents, 256 windows", async () => {
	const documents = Array.from({ length: 1200 }, (_, i) => `document ${i}`);
	const path = "en/c4-validation.00000-of-00008.json.gz";
	const json = documents.map((text) => JSON.stringify({ text })).join("\n") + "\nunread";
	using hub = new FakeHub(path, (file) => writeFileSync(file, gzipSync(json)));
	const data = await openDataset("c4", "evaluation", hub.fetch);
	assert.deepEqual(hub.asked, [[C4, [path]]]);
	const text = documents.slice(0, 1100).join(" ");
	const windows = await data.evaluation(tokenizer, { length: 20 });
	assert.equal(windows.length, 256);
	assert.equal(textOf(windows), text.slice(0, 256 * 20));
	assert.equal((await data.evaluation(tokenizer, { length: 20, limit: 300 })).length, 256);
	assert.equal((await data.evaluation(tokenizer, { length: 20, limit: 3 })).length, 3);
	const [whole] = await data.evaluation(tokenizer, { length: text.length });
	assert.equal(whole.length, text.length);
	await assert.rejects(data.evaluation(tokenizer, { length: text.length + 1 }), UserError);
});

for (const name of ["wikitext2", "ptb", "c4"]) {
	Deno.test(`${name} for one use is not taken for the other`, async () => {
		using hub = new FakeHub("any", () => {});
		const of = (use: DatasetUse) => openDataset(name, use, hub.fetch);
		await assert.rejects(
			(await of("evaluation")).calibration(tokenizer, { samples: 1, length: 1, seed: 0 }),
			new Error(`"${name}" was opened for evaluation, not for calibration`),
		);
		await assert.rejects(
			(await of("calibration")).evaluation(tokenizer, { length: 1 }),
			new Error(`"${name}" was opened for calibration, not for evaluation`),
		);
	});
}

Deno.test("an unknown name is refused", async () => {
	const known = "known are wikitext2, ptb, c4, and paths of files and folders";
	const open = (name: string) => openDataset(name, "evaluation", noFetch);
	await refused(
		open("wikitext-2"),
		`Unknown dataset "wikitext-2", did you mean "wikitext2"; ${known}`,
	);
	await refused(open("C4"), `Unknown dataset "C4", did you mean "c4"; ${known}`);
	await refused(open("imagenet"), `Unknown dataset "imagenet"; ${known}`);
	await refused(open("constructor"), `Unknown dataset "constructor"; ${known}`);
	const missing = (path: string) => `Cannot read "${path}": no such file or folder`;
	await refused(open("c4.txt"), missing("c4.txt"));
	await refused(open("allenai/c4"), missing("allenai/c4"));
	await refused(open("./c4"), missing("./c4"));
});

// --- The user's own -----------------------------------------------------------------------------

Deno.test("files of every kind", async () => {
	using folder = new TemporaryFolder();
	const rows = '{"text":"One"}\n{"text":"two"}';
	const contents: Record<string, string | Uint8Array> = {
		"a.txt": "One\n\ntwo",
		"a.raw": "One\n \ntwo",
		"a.jsonl": rows,
		"a.jsonl.gz": gzipSync(rows),
		"a.json.gz": gzipSync(rows),
	};
	for (const [name, content] of Object.entries(contents)) {
		const path = folder.file(name);
		writeFileSync(path, content);
		const data = await openDataset(path, "evaluation", noFetch);
		assert.deepEqual([data.name, data.files], [name, [path]]);
		const text = name === "a.raw" ? "One\n\n\n\n\ntwo" : "One\n\ntwo";
		assert.equal(await evaluatedText(path), text);
	}
	const parquet = join(PARQUET, "snappy.parquet");
	const text = (await Array.fromAsync(readRows(parquet))).join("\n\n");
	assert.equal(await evaluatedText(parquet), text);
});

Deno.test("a text of one's own serves both uses", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("a.txt");
	const text = "It is a truth universally acknowledged";
	writeFileSync(path, text);
	const data = await openDataset(path, "calibration", noFetch);
	const windows = await data.calibration(tokenizer, { samples: 9, length: 5, seed: 8 });
	assert.deepEqual(windows.map((window) => textOf([window])), cropsOf(text, 9, 5, 8));
	assert.equal(textOf(await data.evaluation(tokenizer, { length: 5, limit: 2 })), "It is a tr");
	const { length } = text;
	const whole = await data.calibration(tokenizer, { samples: 2, length, seed: 8 });
	assert.equal(textOf(whole), text + text);
	await refused(
		data.calibration(tokenizer, { samples: 1, length: 50, seed: 0 }),
		'The text "a.txt" has 38 tokens, fewer than one window of 50; ' +
			"use a longer text or a smaller sequence-length",
	);
});

Deno.test("a folder is its files in the order of their names", async () => {
	using folder = new TemporaryFolder();
	const at = (name: string) => folder.file(name);
	mkdirSync(at("texts/more"), { recursive: true });
	const open = () => openDataset(at("texts"), "evaluation", noFetch);
	const none = `Cannot read "${at("texts")}": the folder has no file that ends in ` +
		".txt, .txt.gz, .raw, .jsonl, .jsonl.gz, .json.gz, .parquet; its subfolders are not searched";
	await refused(open(), none);
	for (const name of ["more/a.txt", "model.safetensors", "README.md", ".hidden.txt"]) {
		writeFileSync(at(`texts/${name}`), name);
	}
	mkdirSync(at("texts/folder.txt"));
	await refused(open(), none);
	writeFileSync(at("texts/b.txt"), "B");
	writeFileSync(at("texts/a10.jsonl"), '{"text":"A10"}\n{"text":"A11"}');
	writeFileSync(at("texts/a2.jsonl.gz"), gzipSync('{"text":"A2"}'));
	writeFileSync(at("elsewhere"), "C");
	symlinkSync(at("elsewhere"), at("texts/c.TXT"));
	const names = ["a10.jsonl", "a2.jsonl.gz", "b.txt", "c.TXT"];
	const { name, files } = await open();
	assert.equal(name, "texts");
	assert.deepEqual(files, names.map((name) => at(`texts/${name}`)));
	assert.equal(await evaluatedText(at("texts/")), "A10\n\nA11\n\nA2\n\nB\n\nC");
});

Deno.test("a file of an unknown kind is refused", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("notes.md");
	writeFileSync(path, "Notes");
	await refused(
		openDataset(path, "evaluation", noFetch),
		`Cannot read "${path}": its name ends in none of .txt, .txt.gz, .raw, .jsonl, .jsonl.gz, .json.gz, ` +
			".parquet and .safetensors; let the name of a plain text end in .txt",
	);
});

Deno.test("a name means the data set, ./ the file of that name", async () => {
	using folder = new TemporaryFolder();
	using hub = new FakeHub("any", () => {});
	const before = Deno.cwd();
	Deno.chdir(folder.path);
	try {
		for (const name of ["c4", "mine"]) {
			mkdirSync(name);
			writeFileSync(join(name, "a.txt"), name);
		}
		const opened = await openDataset("c4", "calibration", hub.fetch);
		assert.deepEqual(opened.files, [join(hub.path, "en/c4-train.00000-of-01024.json.gz")]);
		assert.equal(await evaluatedText("./c4"), "c4");
		assert.equal(await evaluatedText("mine"), "mine");
	} finally {
		Deno.chdir(before);
	}
});

Deno.test("token ids need no tokenizer", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("ids.safetensors");
	const windows = [Int32Array.of(1, 2, 3), Int32Array.of(4, 5, 6)];
	writeTokenIds(path, windows);
	const data = await openDataset(path, "calibration", noFetch);
	assert.deepEqual([data.name, data.files], ["ids.safetensors", [path]]);
	const options = { samples: 2, length: 3, seed: 1 };
	assert.deepEqual(await data.calibration(noTokenizer, options), windows);
	const first = await data.calibration(noTokenizer, { ...options, samples: 1, length: 2 });
	assert.deepEqual(first, [Int32Array.of(1, 2)]);
	assert.deepEqual(await data.evaluation(noTokenizer, { length: 3 }), windows);
	const one = await data.evaluation(noTokenizer, { length: 2, limit: 1 });
	assert.deepEqual(one, [Int32Array.of(1, 2)]);
	await refused(
		data.calibration(noTokenizer, { ...options, samples: 3 }),
		'"ids.safetensors" holds 2 windows, fewer than samples 3; use a smaller number of samples',
	);
	const shorter = 'The token windows of "ids.safetensors" have 3 tokens, fewer than ' +
		"sequence-length 4; use a smaller sequence-length";
	await refused(data.calibration(noTokenizer, { ...options, length: 4 }), shorter);
	await refused(data.evaluation(noTokenizer, { length: 4 }), shorter);
});
