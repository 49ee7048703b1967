import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { UserError } from "~/base/errors.ts";
import { cropDocuments } from "~/data/document_crops.ts";
import { fixture } from "../fixture.ts";
import { assertGolden, type Golden } from "../golden.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const lists = fixture<{
	crops: { documents: number; length: number; seed: number; crops: Golden<[number, number]> }[];
}>("python_random");

/** As in python_random.py. */
function documentTokens(i: number): number {
	return i * 7919 % 40 === 3 ? 50 + i % 61 : i * 31 % 47;
}

/** Gives one token a word: the number that the word is. */
const tokenizer = { encode: (text: string) => text === "" ? [] : text.split(" ").map(Number) };

/** Documents whose words tell where they stand: word j of document i is 1000 i + j. */
function writeDocuments(path: string, count: number, tokens = documentTokens): void {
	let json = "";
	for (let i = 0; i < count; i++) {
		const text = Array.from({ length: tokens(i) }, (_, j) => 1000 * i + j).join(" ");
		json += JSON.stringify({ text, timestamp: "2019-04-25T12:57:54Z", url: `https://a.b/${i}` }) +
			"\n";
	}
	writeFileSync(path, gzipSync(json));
}

for (const { documents, length, seed, crops } of lists.crops) {
	// The file is read again and again where one reading serves few draws.
	for (const lookahead of documents > 5000 ? [undefined, 4000] : [undefined, 1, 300]) {
		const ahead = lookahead === undefined ? "" : `, ${lookahead} at a time`;
		Deno.test(
			`cropDocuments() draws what CPython does: ${documents} documents, seed ${seed}${ahead}`,
			async () => {
				using folder = new TemporaryFolder();
				const path = folder.file("shard.json.gz");
				writeDocuments(path, documents);
				const samples = lookahead === 1 ? 8 : 128; // each takes dozens of readings
				const windows = await cropDocuments(path, tokenizer, { samples, length, seed, lookahead });
				const drawn = windows.map(([first]) => [Math.floor(first / 1000), first % 1000]);
				if (samples === 128) assertGolden(drawn, crops);
				else assert.deepEqual(drawn, crops.first);
				for (const window of windows) {
					assert.deepEqual(window, Int32Array.from({ length }, (_, i) => window[0] + i));
				}
			},
		);
	}
}

Deno.test("cropDocuments() reads other columns, and pauses", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("a.jsonl");
	writeFileSync(path, '{"sentence":"5 6 7"}\n\n{"sentence":"5 6 7"}');
	let pauses = 0;
	const options = { samples: 2, length: 2, seed: 0, column: "sentence" };
	const pause = async () => void pauses++;
	const windows = await cropDocuments(path, tokenizer, { ...options, pause });
	assert.deepEqual(windows, [Int32Array.of(5, 6), Int32Array.of(5, 6)]);
	assert.equal(pauses, 2);
	const stop = async () => {
		throw new Error("stopped");
	};
	await assert.rejects(
		cropDocuments(path, tokenizer, { ...options, pause: stop }),
		new Error("stopped"),
	);
});

Deno.test("cropDocuments() ends when no document is long enough", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("shard.json.gz");
	writeDocuments(path, 41);
	await assert.rejects(
		cropDocuments(path, tokenizer, { samples: 1, length: 87, seed: 0 }),
		new UserError(
			'None of 41 documents drawn from "shard.json.gz" has more than 87 tokens, ' +
				"the longest has 87; use a smaller sequence-length",
		),
	);
	writeDocuments(path, 100_000, (i) => i === 99_000 ? 3 : 1); // not drawn in 20,000
	await assert.rejects(
		cropDocuments(path, tokenizer, { samples: 1, length: 2, seed: 0 }),
		/^UserError: None of 18\d\d\d documents drawn from "shard.json.gz" has more than 2 tokens/,
	);
	writeFileSync(path, gzipSync("\n \r\n"));
	await assert.rejects(
		cropDocuments(path, tokenizer, { samples: 1, length: 2, seed: 0 }),
		new UserError('"shard.json.gz" has no documents'),
	);
});

Deno.test("cropDocuments() refuses a document without text", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("a.jsonl");
	writeFileSync(path, '\n{"title":"a","url":"b"}\n');
	await assert.rejects(
		cropDocuments(path, tokenizer, { samples: 1, length: 1, seed: 0 }),
		new UserError(`Cannot read "${path}": line 2 has no column "text" (columns: title, url)`),
	);
});
