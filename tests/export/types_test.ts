import assert from "node:assert/strict";
import type { LevelRange } from "../../export/integer_levels.ts";
import { BLOCK_TYPES } from "../../export/gguf/types.ts";
import { seededRandom } from "../reference/random.ts";
import { BLOCKS, decodeBlocks } from "./decoders.ts";

/** A range of levels around each zero of codes of some bits. */
function rangesOf(bits: number): LevelRange[] {
	const top = 2 ** bits - 1;
	return Array.from({ length: 2 * top + 1 }, (_, i): LevelRange => {
		const gap = i % 2 ? 2 : 1;
		return { low: -gap * i / 2, high: gap * (top - i / 2), gap };
	});
}

const RANGES = [...[1, 2, 3, 4, 8].flatMap(rangesOf), { low: -1, high: 1, gap: 1 as const }];

for (const type of BLOCK_TYPES) {
	Deno.test(`${type.name}: blocks are decoded to the same weights`, () => {
		const random = seededRandom(type.id);
		const held = RANGES.filter((range) => type.holds(range));
		assert.ok(held.length > 0);
		for (const range of held) {
			const choices = (range.high - range.low) / range.gap + 1;
			const levels = Int16Array.from({ length: type.size }, (_, i) => {
				const choice = i < choices ? i : Math.floor(choices * random()); // each at least once
				return range.low + range.gap * choice;
			});
			const unit = Math.f16round(random() - 0.5);
			const bytes = new Uint8Array(type.bytes);
			type.encode(levels, unit, range, new DataView(bytes.buffer), 0);
			const found = decodeBlocks(type.id, bytes, type.size).map((value) => value + 0); // no -0
			const expected = Float32Array.from(levels, (level) => level * unit + 0);
			assert.deepEqual(found, expected, JSON.stringify(range));
		}
		assert.equal(BLOCKS[type.id].bytes, type.bytes);
	});
}

Deno.test("types hold the levels that they can store, with either sign of the scale", () => {
	const holding = (range: LevelRange) =>
		BLOCK_TYPES.filter((type) => type.holds(range)).map(({ name }) => name);
	const whole = (low: number, high: number): LevelRange => ({ low, high, gap: 1 });
	assert.deepEqual(holding({ low: -1, high: 1, gap: 2 }).slice(0, 4), [
		"Q1_0",
		"TQ1_0",
		"TQ2_0",
		"Q2_0",
	]);
	assert.deepEqual(holding(whole(-2, 1)).slice(0, 3), ["TQ2_0", "Q2_0", "Q2_K"]);
	assert.deepEqual(holding(whole(0, 3)), ["Q2_K", "Q3_K", "Q4_0", "Q5_0", "Q8_0"]);
	assert.deepEqual(holding(whole(-3, 4)), ["Q3_K", "Q4_0", "Q5_0", "Q8_0"]);
	assert.deepEqual(holding(whole(-7, 8)), ["Q4_0", "Q5_0", "Q8_0"]);
	assert.deepEqual(holding(whole(0, 15)), ["Q5_0", "Q8_0"]);
	assert.deepEqual(holding(whole(-100, 155)), []);
});
