import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { fixtureFolder } from "../fixture.ts";
import { UserError } from "~/base/errors.ts";
import { textOfLine } from "~/data/json_rows.ts";
import { hasRows, readRows } from "~/data/rows.ts";
import { joinTexts, readText } from "~/data/texts.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const PARQUET = fixtureFolder("parquet");

async function rowsOf(path: string, column?: string): Promise<string[]> {
	return await Array.fromAsync(readRows(path, column));
}

/** The rows of a file with that name and content. */
async function rowsWhere(name: string, content: string | Uint8Array): Promise<string[]> {
	using folder = new TemporaryFolder();
	const path = folder.file(name);
	writeFileSync(path, content);
	return await rowsOf(path);
}

async function refusesRows(
	name: string,
	content: string | Uint8Array,
	problem: string | RegExp,
): Promise<void> {
	await assert.rejects(rowsWhere(name, content), (error) => {
		assert.ok(error instanceof UserError, String(error));
		const message = error.message.replace(/"[^"]*\//, '"');
		if (typeof problem === "string") assert.equal(message, `Cannot read "${name}": ${problem}`);
		else assert.match(message, problem);
		return true;
	});
}

// --- JSON Lines ---------------------------------------------------------------------------------

const TEXTS = ["One", "", "Zwei\n\n", "\ufeff中 😀", "x".repeat(600_000), "the last"];
const LINES = TEXTS.map((text) => JSON.stringify({ url: "https://a.b", text }));

for (
	const [form, content] of Object.entries({
		"line feeds": LINES.join("\n") + "\n",
		"no line end at the end": LINES.join("\n"),
		"CRLF": LINES.join("\r\n") + "\r\n",
		"a byte order mark": "\ufeff" + LINES.join("\n"),
		"blank lines": "\n" + LINES.join("\n\n \t\r\n") + "\n\n",
	})
) {
	Deno.test(`JSON Lines with ${form}`, async () => {
		assert.deepEqual(await rowsWhere("a.jsonl", content), TEXTS);
		assert.deepEqual(await rowsWhere("a.jsonl.gz", gzipSync(content)), TEXTS);
		assert.deepEqual(await rowsWhere("a.json.gz", gzipSync(content)), TEXTS);
	});
}

Deno.test("gzip of several members, cut anywhere", async () => {
	const bytes = new TextEncoder().encode(LINES.join("\n"));
	const members = [0, 3, 50, 51, 300_000, bytes.length].flatMap((end, i, ends) =>
		i === 0 ? [] : [gzipSync(bytes.subarray(ends[i - 1], end))]
	);
	assert.deepEqual(await rowsWhere("A.JSON.GZ", Buffer.concat(members)), TEXTS);
});

Deno.test("files without rows", async () => {
	assert.deepEqual(await rowsWhere("a.jsonl", ""), []);
	assert.deepEqual(await rowsWhere("a.jsonl.gz", gzipSync("\n")), []);
});

Deno.test("reading ends where the reader stops", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("a.jsonl.gz");
	writeFileSync(path, gzipSync(LINES[0] + "\nno JSON\n"));
	for await (const text of readRows(path)) {
		assert.equal(text, "One");
		break;
	}
});

Deno.test("JSON Lines that are not in order are refused", async () => {
	const line = LINES[0] + "\n";
	await refusesRows(
		"a.jsonl",
		line + "\n{'text': 1}\n",
		"line 3 is not JSON; each line must be a JSON object",
	);
	await refusesRows("a.jsonl", '{"text":\n"a"}', /line 1 is not JSON/);
	await refusesRows("a.jsonl", '["a"]', "line 1 is a list, not a JSON object");
	await refusesRows("a.jsonl", "null", "line 1 is null, not a JSON object");
	await refusesRows("a.jsonl", "17", "line 1 is 17, not a JSON object");
	await refusesRows(
		"a.jsonl",
		line + '{"content":"a","id":1}',
		'line 2 has no column "text" (columns: content, id)',
	);
	await refusesRows("a.jsonl", "{}", 'line 1 has no column "text" (columns: none)');
	for (
		const [value, kind] of [["5", "5"], ["null", "null"], ["[]", "a list"], ["{}", "an object"]]
	) {
		const problem = `column "text" of line 2 is ${kind}, not a string`;
		await refusesRows("a.jsonl", `${line}{"text":${value}}`, problem);
	}
	await refusesRows("a.jsonl", new Uint8Array([0x22, 0xe9, 0x22]), "line 1 is not UTF-8");
	await refusesRows(
		"a.jsonl",
		"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
		"it is a Git LFS pointer, not the file itself; run `git lfs pull`",
	);
});

Deno.test("a line beyond the longest string is refused", () => {
	const line = { bytes: new Uint8Array(600e6), number: 4 };
	assert.throws(
		() => textOfLine("a.jsonl", line, "text"),
		new UserError('Cannot read "a.jsonl": line 4 has 600.0 MB, more than 67.1 MB'),
	);
});

Deno.test("lines without end, and those nested too deep, are refused", async () => {
	const long = "line 1 has more than 67.1 MB; no text of a data set is that long";
	const member = gzipSync(Buffer.alloc(25e6, "A"), { level: 1 });
	await refusesRows("a.jsonl.gz", Buffer.concat([member, member, member]), long);
	await refusesRows("a.jsonl", Buffer.alloc(68e6, "A"), long);
	const second = Buffer.concat([gzipSync(LINES[0] + "\n"), member, member, member]);
	await refusesRows("a.jsonl.gz", second, long.replace("1", "2"));
	const deep = `{"text": "a", "more": ${"[".repeat(1000)}${"]".repeat(1000)}}`;
	const problem =
		"line 1: it is nested too deep: more than 200 lists and objects within each other";
	await refusesRows("a.jsonl", deep, problem);
});

Deno.test("cut or damaged gzip is refused", async () => {
	const bytes = gzipSync(LINES.join("\n"));
	const early = "its compressed data end too early; download it again";
	await refusesRows("a.json.gz", bytes.subarray(0, 5), early);
	await refusesRows("a.json.gz", bytes.subarray(0, bytes.length / 2), early);
	await refusesRows("a.json.gz", bytes.subarray(0, -4), early);
	await refusesRows("a.json.gz", new Uint8Array(), early);
	const first = gzipSync(LINES[0] + "\n");
	await refusesRows("a.json.gz", Buffer.concat([first, bytes.subarray(0, 12)]), early);
	const damaged = "its compressed data are damaged; download it again";
	const checksum = bytes.length - 6;
	await refusesRows("a.json.gz", new Uint8Array(bytes).with(checksum, 0x55), damaged);
	const second = Buffer.concat([first, gzipSync("x".repeat(2 ** 20)), Buffer.from("garbage")]);
	await refusesRows("a.json.gz", second, damaged);
	await refusesRows("a.json.gz", LINES[0], "it is not gzip, though its name ends in .gz");
	await refusesRows(
		"a.json.gz",
		"<!DOCTYPE html><html>",
		"it is an HTML page, perhaps an error message; download it again",
	);
});

// --- Parquet ------------------------------------------------------------------------------------

const WIKI_ROWS = Array(5).fill([
	"",
	" = Robert = \n",
	"",
	` He is a ${"long ".repeat(60)}one . \n`,
	"\ufeffÄ 中 😀 \n",
	"",
]).flat();

for (const name of ["none", "snappy", "gzip", "zstd", "dictionary", "version2"]) {
	Deno.test(`parquet: ${name}`, async () => {
		assert.deepEqual(await rowsOf(join(PARQUET, `${name}.parquet`)), WIKI_ROWS);
	});
}

Deno.test("parquet: other columns, and no rows", async () => {
	const sentences = ["no it was n't", "<unk> said", "N million"];
	const expected = [...sentences, ...sentences, ...sentences];
	assert.deepEqual(await rowsOf(join(PARQUET, "sentences.parquet"), "sentence"), expected);
	assert.deepEqual(await rowsOf(join(PARQUET, "empty.parquet")), []);
});

Deno.test("rows of parquet joined are what the .raw file of the same rows gives", async () => {
	using folder = new TemporaryFolder();
	const raw = folder.file("wiki.raw");
	writeFileSync(raw, WIKI_ROWS.map((row) => row === "" ? " \n" : row).join(""));
	const rows = readRows(join(PARQUET, "snappy.parquet"));
	assert.equal(await joinTexts(rows, { separator: "\n\n", name: "a" }), readText(raw));
});

Deno.test("parquet that is not in order is refused", async () => {
	const refused = async (name: string, problem: string, column?: string) => {
		const path = join(PARQUET, name);
		const error = new UserError(`Cannot read "${path}": ${problem}`);
		await assert.rejects(rowsOf(path, column), error);
	};
	await refused("sentences.parquet", 'it has no column "text" (columns: sentence)');
	await refused("none.parquet", 'it has no column "id" (columns: other, text)', "id");
	await refused("null.parquet", 'column "text" of row 3 is null, not a string');
	await refused("number.parquet", 'column "text" of row 1 is 1, not a string');
	await refused("number.parquet", 'column "list" of row 1 is a list, not a string', "list");
	await refused("none.parquet", 'column "other" of row 1 is an object, not a string', "other");
	await refused("bytes.parquet", 'column "text" of row 2 is not UTF-8');
});

Deno.test("damaged parquet is refused", async () => {
	const bytes = readFileSync(join(PARQUET, "zstd.parquet"));
	const damaged = /^Cannot read "a.parquet": it is not parquet, or damaged \(.+\)$/s;
	await refusesRows("a.parquet", bytes.subarray(0, -100), damaged);
	await refusesRows("a.parquet", bytes.subarray(200), damaged);
	await refusesRows("a.parquet", "", damaged);
	await refusesRows("a.parquet", "text", damaged);
	await refusesRows("a.parquet", "<html>", /an HTML page/);
	const flipped = new Uint8Array(bytes);
	flipped.fill(0xff, 20, 200);
	await refusesRows("a.parquet", flipped, damaged);
});

Deno.test("no damage to a parquet file is a crash", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("a.parquet");
	for (const name of readdirSync(PARQUET).filter((name) => name.endsWith(".parquet"))) {
		const bytes = readFileSync(join(PARQUET, name));
		for (let i = 0; i < bytes.length; i += 1 + Math.floor(bytes.length / 60)) {
			writeFileSync(path, bytes.with(i, bytes[i] ^ 0x55));
			await rowsOf(path).catch((error) => assert.ok(error instanceof UserError, error.stack));
		}
	}
});

// --- Files --------------------------------------------------------------------------------------

Deno.test("a text is one row", async () => {
	assert.deepEqual(await rowsWhere("a.txt", "\ufeffOne\n\ntwo\n"), ["One\n\ntwo\n"]);
	assert.deepEqual(await rowsWhere("a.raw", "One\n \n"), ["One\n\n\n"]);
});

Deno.test("hasRows() goes by the end of the name", () => {
	const names = ["a.txt", "wiki.test.raw", "a.JSONL", "a.json.gz", "a.parquet", "jsonl", "a.json"];
	assert.deepEqual(names.map(hasRows), [true, true, true, true, true, false, false]);
	assert.throws(
		() => readRows("a.csv"),
		new UserError(
			'Cannot read "a.csv": its name ends in none of ' +
				".txt, .txt.gz, .raw, .jsonl, .jsonl.gz, .json.gz, .parquet",
		),
	);
});

for (const name of ["a.jsonl", "a.json.gz", "a.parquet"]) {
	Deno.test(`${name} that is missing, or a folder, is refused`, async () => {
		using folder = new TemporaryFolder();
		const path = folder.file(name);
		const refused = (problem: string) =>
			assert.rejects(rowsOf(path), new UserError(`Cannot read "${path}": ${problem}`));
		await refused("no such file or folder");
		mkdirSync(path);
		await refused("it is a folder");
	});
}
