import assert from "node:assert/strict";
import { createHash } from "node:crypto";

/** Values of another program: the first of them, and the SHA-256 of the JSON of all. */
export interface Golden<Value> {
	first: Value[];
	sha256: string;
}

export function assertGolden<Value>(
	found: readonly Value[],
	{ first, sha256 }: Golden<Value>,
): void {
	assert.deepEqual(found.slice(0, first.length), first);
	assert.equal(
		hashOf(JSON.stringify(found)),
		sha256,
		`the values after these differ: ${JSON.stringify(found).slice(0, 2000)}`,
	);
}

/**
 * Checks texts against hashes of them: two hexadecimal digits for each group of so many, one after the other,
 * and 16 digits for all.
 *
 * @param about What is said of a group that differs.
 */
export function assertHashes(
	texts: readonly string[],
	hashes: string,
	size: number,
	about: (first: number, end: number) => string,
): void {
	const groups = Math.ceil(texts.length / size);
	assert.equal(hashes.length, 2 * groups + 16);
	const matches = (first: number, end: number, wanted: string) =>
		assert.ok(hashOf(texts.slice(first, end).join("")).startsWith(wanted), about(first, end));
	for (let i = 0; i < groups; i++) {
		matches(i * size, (i + 1) * size, hashes.slice(2 * i, 2 * i + 2));
	}
	matches(0, texts.length, hashes.slice(2 * groups));
}

function hashOf(text: string): string {
	return createHash("sha256").update(text).digest("hex");
}
