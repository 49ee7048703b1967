import assert from "node:assert/strict";
import { batchPrompts, type Prompt, type PromptBatch } from "~/models/metrics/prompt_batch.ts";

function prompt(tokens: number[], scored: number): Prompt {
	return { tokens: Int32Array.from(tokens), scored };
}

/** The tokens and positions that a row sees, found by following its segment. */
function textsOf({ ids, positions, segments }: PromptBatch): Map<number, [number, number][]> {
	const texts = new Map<number, [number, number][]>();
	for (let i = 0; i < segments.length; i += 4) {
		const [prefix, prefixRows, own, length] = segments.subarray(i, i + 4);
		const text: [number, number][] = [];
		for (let row = prefix; row < prefix + prefixRows; row++) text.push([ids[row], positions[row]]);
		for (let row = own; row < own + length - prefixRows; row++) {
			text.push([ids[row], positions[row]]);
			assert(!texts.has(row), "a row belongs to one segment");
			texts.set(row, [...text]);
		}
	}
	return texts;
}

/** Checks that each scored token is predicted from exactly what stands before it in its prompt. */
function checkBatches(groups: Prompt[][], batches: PromptBatch[]) {
	const seen = groups.map((prompts) => prompts.map(() => 0));
	for (const batch of batches) {
		const texts = textsOf(batch);
		assert.equal(texts.size, batch.ids.length, "all rows belong to a segment");
		let next = 0;
		for (const place of batch.prompts) {
			const { tokens, scored } = groups[place.group][place.prompt];
			assert.equal(place.scored, scored);
			seen[place.group][place.prompt]++;
			for (let i = tokens.length - scored; i < tokens.length; i++, next++) {
				assert.equal(batch.targets[next], tokens[i]);
				const before = Array.from(tokens.subarray(0, i), (id, position) => [id, position]);
				assert.deepEqual(texts.get(batch.rows[next]), before);
			}
		}
		assert.equal(next, batch.rows.length);
		assert.equal(next, batch.targets.length);
	}
	assert.deepEqual(
		seen,
		groups.map((prompts) => prompts.map(() => 1)),
		"each prompt is there once",
	);
}

const GROUPS = [
	[prompt([1, 2, 3, 4, 5], 2), prompt([1, 2, 3, 6], 1), prompt([1, 2, 3, 4, 7, 8], 3)],
	[prompt([1, 2, 3, 4], 1), prompt([1, 2, 3, 5], 1)], // the same input
	[prompt([9, 1, 2], 1), prompt([8, 1, 2], 1)], // nothing in common
	[prompt([5, 6], 1)],
	[prompt([3, 3, 3, 3, 3, 3, 3], 6), prompt([3, 3, 3, 3, 3, 3, 3], 6)],
];

for (const shares of [true, false]) {
	for (const tokens of [1, 9, 12, 8192]) {
		Deno.test(`batchPrompts() lets tokens see what stands before them: ${tokens}, ${shares}`, () => {
			checkBatches(GROUPS, batchPrompts(GROUPS, { tokens, shares }));
		});
	}
}

Deno.test("batchPrompts() has once what the prompts of a group begin with", () => {
	const [batch, ...rest] = batchPrompts(GROUPS, { tokens: 8192 });
	assert.deepEqual(rest, []);
	const sizes = [3 + 1 + 0 + 2, 3, 4, 1, 6];
	assert.equal(batch.ids.length, sizes.reduce((sum, size) => sum + size));
	const [alone] = batchPrompts(GROUPS, { tokens: 8192, shares: false });
	assert.equal(alone.ids.length, 4 + 3 + 5 + 3 + 3 + 2 + 2 + 1 + 6 + 6);
	assert.equal(batch.length, 6);
});

Deno.test("batchPrompts() puts the longest first, the shortest into gaps, and keeps to the limit", () => {
	const batches = batchPrompts(GROUPS, { tokens: 9 });
	assert.deepEqual(
		batches.map(({ prompts }) => [...new Set(prompts.map(({ group }) => group))]),
		[[4, 3], [0, 1], [2]],
	);
	assert.deepEqual(batches.map(({ ids }) => ids.length), [7, 9, 4]);
	const tooLong = batchPrompts(GROUPS, { tokens: 1 });
	assert.equal(tooLong.length, GROUPS.flat().length, "each prompt of a large group goes alone");
	assert(tooLong.every(({ prompts }) => prompts.length === 1));
	const large = [Array.from({ length: 8 }, (_, i) => prompt([1, 2, 3, 10 + i, 20 + i, 30 + i], 3))];
	const parted = batchPrompts(large, { tokens: 10 });
	checkBatches(large, parted);
	assert(parted.length > 1 && parted.every(({ ids }) => ids.length <= 10));
	assert(parted.some(({ prompts }) => prompts.length > 1), "the parts still share what they can");
});

Deno.test("batchPrompts() fills large batches up to whole tiles", () => {
	const groups = Array.from({ length: 300 }, (_, i) => [
		prompt(Array.from({ length: 12 }, (_, j) => i + j), 3),
		prompt(Array.from({ length: 9 }, (_, j) => i + j * j), 2),
	]);
	const batches = batchPrompts(groups, { tokens: 2048 });
	checkBatches(groups, batches);
	checkFilled(batches);
	const last = batches.at(-1)!;
	assert(last.ids.length < 1024 && last.filling === 0, "the last one is as long as it is");

	for (const { ids } of batchPrompts(groups, { tokens: 2047 })) assert(ids.length <= 2047);

	function checkFilled(batches: PromptBatch[]) {
		for (const batch of batches.slice(0, -1)) {
			assert.equal(batch.ids.length % 256, 0);
			assert(batch.ids.length <= 2048);
			assert(batch.filling < 256, "no more than to the next whole tile");
			assert.equal(textsOf(batch).size, batch.ids.length);
			assert(batch.rows.every((row) => row < batch.ids.length - batch.filling));
		}
	}
});
