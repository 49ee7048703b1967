import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { UserError } from "~/base/errors.ts";
import { joinTexts, readText } from "~/data/texts.ts";
import { withFile } from "../temporary_folder.ts";

Deno.test("readText() gives a text as it is, without a byte order mark", () => {
	const text = "One\r\n \nTwo 中\n";
	withFile("a.txt", text, (path) => assert.equal(readText(path), text));
	withFile("a.txt", "\ufeff" + text, (path) => assert.equal(readText(path), text));
	withFile("a.txt", "", (path) => assert.equal(readText(path), ""));
});

Deno.test("readText() reads gzip", () => {
	const text = "One\nTwo 中\n".repeat(100);
	const packed = gzipSync(text);
	withFile("a.txt.gz", packed, (path) => assert.equal(readText(path), text));
	for (const damaged of [packed.subarray(0, 40), new TextEncoder().encode(text)]) {
		withFile("a.TXT.GZ", damaged, (path) => {
			const problem = "it is damaged, or not gzip, though its name ends in .gz";
			const message = `Cannot read the text "${path}": ${problem}`;
			assert.throws(() => readText(path), new UserError(message));
		});
	}
});

Deno.test("readText() joins the rows of a WikiText file as its perplexities want it", () => {
	const raw = " \n = Title = \n \n A line . \n";
	const joined = "\n\n = Title = \n\n\n\n\n A line . \n";
	withFile("wiki.test.raw", raw, (path) => assert.equal(readText(path), joined));
	withFile("x.raw", raw + "cut", (path) => assert.equal(readText(path), joined + "\n\ncut"));
	withFile("x.raw", "", (path) => assert.equal(readText(path), ""));
});

Deno.test("readText() refuses what is no text", () => {
	withFile("a.txt", new Uint8Array([0x41, 0xe9, 0x42]), (path, folder) => {
		const refused = (path: string, problem: string) =>
			assert.throws(
				() => readText(path),
				new UserError(`Cannot read the text "${path}": ${problem}`),
			);
		refused(path, "it is not UTF-8; convert it, for example with iconv");
		refused(path + "x", "there is no such file");
		refused(folder, "it is a folder");
	});
});

Deno.test("readText() refuses a file beyond the longest string", () => {
	withFile("a.txt", "", (path) => {
		Deno.truncateSync(path, 600e6); // takes no space on the disk
		assert.throws(
			() => readText(path),
			new UserError(
				`Cannot read the text "${path}": it has 600.0 MB, more than 536.9 MB; use a part of it`,
			),
		);
	});
});

Deno.test("joinTexts() joins texts, up to a length", async () => {
	const joined = (texts: string[], limit?: number) =>
		joinTexts(stream(texts), { separator: ", ", name: "c4", limit });
	assert.equal(await joined([]), "");
	assert.equal(await joined(["", "a", ""]), ", a, ");
	assert.equal(await joined(["abc", "def"], 8), "abc, def");
	await assert.rejects(
		joined(["abc", "def"], 7),
		new UserError(
			'The text "c4" is longer than 7 characters, too long to be tokenized in one piece; ' +
				"use a part of it",
		),
	);
});

async function* stream(texts: string[]): AsyncGenerator<string> {
	yield* texts;
}
