import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { assertGolden, assertHashes } from "./golden.ts";

Deno.test("assertHashes() and assertGolden() find any text that differs", () => {
	const texts = Array.from({ length: 20 }, (_, i) => `text ${i}`);
	const hash = (texts: unknown) => createHash("sha256").update(String(texts)).digest("hex");
	const of = (first: number, end: number) => hash(texts.slice(first, end).join(""));
	const hashes = of(0, 8).slice(0, 2) + of(8, 16).slice(0, 2) + of(16, 20).slice(0, 2) +
		of(0, 20).slice(0, 16);
	const about = (first: number, end: number) => `${first} to ${end}`;
	assertHashes(texts, hashes, 8, about);
	const golden = { first: texts.slice(0, 3), sha256: hash(JSON.stringify(texts)) };
	assertGolden(texts, golden);
	texts.forEach((text, i) => {
		const others = texts.with(i, `${text}.`);
		assert.throws(() => assertHashes(others, hashes, 8, about), /^AssertionError.*: \d+ to \d+$/);
		assert.throws(() => assertGolden(others, golden));
	});
	assert.throws(() => assertHashes(texts.slice(1), hashes, 8, about));
});
