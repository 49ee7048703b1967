// What may have become of a file: values of JSON of another kind or range at any place, and flipped bytes.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { UserError } from "../base/errors.ts";
import { seededRandom } from "./reference/random.ts";

// deno-lint-ignore no-explicit-any -- JSON of any form
export type Json = any;

/** A value nested more deeply than a recursive function can follow. */
const DEEP = "[".repeat(20_000) + "]".repeat(20_000);

/** Stands for {@link DEEP} until the text is made, since JSON.stringify is recursive too. */
const DEEP_MARK = "\u0001deep";

/** What takes the place of a value; undefined removes it. */
const REPLACEMENTS: Json[] = [
	undefined,
	null,
	true,
	false,
	0,
	-1,
	0.5,
	1,
	7,
	2 ** 31,
	2 ** 32,
	2 ** 53,
	1e300,
	-1e300,
	1e-300,
	"",
	"x",
	"constructor",
	"../../x",
	"5",
	[],
	[null],
	[[[]]],
	{},
	{ constructor: 1, x: {} },
	DEEP_MARK,
];

/** The paths of all values within a value. */
export function placesIn(value: Json, path: (string | number)[] = []): (string | number)[][] {
	const inner = typeof value !== "object" || value === null
		? []
		: Object.keys(value).flatMap((key) =>
			placesIn(value[key], [...path, Array.isArray(value) ? Number(key) : key])
		);
	return path.length === 0 ? inner : [path, ...inner];
}

/** The text of a value with another one at a place. */
export function replaced(value: Json, path: readonly (string | number)[], by: Json): string {
	const copy = structuredClone(value);
	let parent = copy;
	for (const key of path.slice(0, -1)) parent = parent[key];
	const key = path.at(-1)!;
	if (by !== undefined) parent[key] = by;
	else if (Array.isArray(parent)) parent.splice(Number(key), 1);
	else delete parent[key];
	return JSON.stringify(copy).replaceAll(JSON.stringify(DEEP_MARK), DEEP);
}

/** A mutated text, and what was done to it. */
export interface Mutation {
	what: string;
	text: string;
}

/**
 * Mutations of a JSON value: at places of each kind, that is of each path but for the indices in lists, one
 * after another with all replacements in turn.
 */
export function* mutationsOf(value: Json, count: number, seed = 1): Generator<Mutation> {
	const random = seededRandom(seed);
	const pick = <T>(list: readonly T[]) => list[Math.floor(list.length * random())];
	const kindOf = (path: (string | number)[]) =>
		path.map((key) => typeof key === "number" ? "*" : key).join(".");
	const kinds = [...Map.groupBy(placesIn(value), kindOf).values()];
	const offset = Math.floor(REPLACEMENTS.length * random());
	for (let i = 0; i < count; i++) {
		// Each kind of place in turn; the replacement moves on by one more with each round.
		const place = pick(kinds[i % kinds.length]);
		const by = REPLACEMENTS[
			(offset + i + Math.floor(i / kinds.length)) % REPLACEMENTS.length
		];
		yield {
			what: `${place.join(".")} = ${by === undefined ? "nothing" : JSON.stringify(by)}`,
			text: replaced(value, place, by),
		};
	}
}

/** Some bytes with flipped bits, a part left out, or a part twice. */
export function* damaged(
	bytes: Uint8Array<ArrayBuffer>,
	count: number,
	seed = 1,
): Generator<{ what: string; bytes: Uint8Array<ArrayBuffer> }> {
	const random = seededRandom(seed);
	const below = (end: number) => Math.floor(end * random());
	for (let i = 0; i < count; i++) {
		const at = below(bytes.length);
		const end = Math.min(bytes.length, at + 1 + below(64));
		if (i % 4 < 2) {
			const bit = 1 << below(8);
			const copy = bytes.slice();
			copy[at] ^= bit;
			yield { what: `byte ${at} ^ ${bit}`, bytes: copy };
		} else {
			const isTwice = i % 4 === 3;
			const parts = [bytes.subarray(0, isTwice ? end : at), bytes.subarray(isTwice ? at : end)];
			yield {
				what: `bytes ${at} to ${end} ${isTwice ? "twice" : "left out"}`,
				bytes: new Uint8Array(Buffer.concat(parts)),
			};
		}
	}
}

/**
 * Checks that work ends well or with an error for the user, of a few lines, and soon.
 *
 * @returns The result; undefined if it was refused.
 */
export async function endsWell<T>(
	what: string,
	work: () => T | Promise<T>,
): Promise<T | undefined> {
	const start = performance.now();
	try {
		return await work();
	} catch (error) {
		if (!(error instanceof UserError)) {
			throw new Error(`after ${what}: ${(error as Error).stack}`, { cause: error });
		}
		assert.ok(error.message.length < 4000, `after ${what}: ${error.message.slice(0, 4000)}`);
		assert.doesNotMatch(error.message, /\bat .*:\d+:\d+\)?$/m, what);
		return undefined;
	} finally {
		const seconds = (performance.now() - start) / 1000;
		assert.ok(seconds < 10, `after ${what}: ${seconds} s`);
	}
}
