import assert from "node:assert/strict";
import * as figures from "../../base/figures.ts";

Deno.test("numbers are grouped, and what was not measured is a dash", () => {
	const { decimal } = figures;
	assert.equal(decimal(1234567.891, 2), "1\u202f234\u202f567.89");
	assert.equal(decimal(123.4567, 3), "123.457");
	assert.equal(decimal(-1234, 0), "-1\u202f234");
	assert.equal(decimal(undefined, 1), "–");
	assert.equal(figures.percent(0.12345), "12.3\u00a0%");
	assert.equal(figures.counted(1, "run"), "1 run");
	assert.equal(figures.counted(0, "run"), "0 runs");
});

Deno.test("growth is a factor, and a dash without both figures", () => {
	assert.equal(figures.growthText(24, 36), "×\u00a01.50");
	assert.equal(figures.growthText(24, 24000), "×\u00a01\u202f000");
	assert.equal(figures.growthText(undefined, 24), "–");
});

Deno.test("dates are those of UTC to the minute", () => {
	assert.equal(figures.dateText("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04 UTC");
	assert.equal(figures.dateText(undefined), "–");
});

Deno.test("lists end with a word, and sentences begin with a capital", () => {
	const { listed, capitalized } = figures;
	assert.deepEqual(
		[[], ["a"], ["a", "b"], ["a", "b", "c"]].map((words) => listed(words, "and")),
		["", "a", "a and b", "a, b and c"],
	);
	assert.equal(capitalized("zero-shot accuracy"), "Zero-shot accuracy");
});
