import assert from "node:assert/strict";
import type { Perplexity } from "~/models/metrics/figures.ts";
import { perplexity, perplexityText } from "~/stages/metrics/perplexity.ts";

Deno.test("perplexities have as many digits as they are worth", () => {
	const texts = [24.631, 999.999, 4102.3, 2.5e7, null, undefined].map(perplexityText);
	assert.deepEqual(texts, ["24.63", "1\u202f000.00", "4\u202f102", "2.50e+7", "not finite", "–"]);
});

/** A figure of this perplexity. */
function figure(value: number, rest: Partial<Perplexity> = {}): Perplexity {
	const about = { dataset: "a.txt", sequenceLength: 256, windows: 101 };
	return { ...about, loss: Math.log(value), perplexity: value, ...rest };
}

Deno.test("a perplexity of more than ten times the original's is warned of", () => {
	const warnings = (before: Perplexity | undefined, after: Perplexity | undefined) =>
		perplexity.warnings!({ before, after });
	const before = figure(20);
	for (const after of [undefined, figure(18), figure(199)]) {
		assert.deepEqual(warnings(before, after), []);
	}
	assert.deepEqual(warnings(undefined, figure(9999)), []);
	assert.deepEqual(warnings(before, figure(201)), [
		"The perplexity on a.txt is 201.00 after 20.00 of the original, more than 10 times as much: the " +
		"packed model has lost most of what the original knew, so what this pipeline chose does not work " +
		"for this model. Try more bits, the default recipe instead of mode: reference, or the stages " +
		"propagate-error and rotate",
	]);
	// Infinite, which is null in a record.
	for (const perplexity of [Infinity, null as unknown as number]) {
		const [warning] = warnings(before, figure(1, { loss: 800, perplexity }));
		assert.match(warning, /^The perplexity on a\.txt is infinite after 20\.00 of the original/);
	}
});

Deno.test("the terminal tells how far the packed model is from the original", () => {
	const before = figure(20);
	const divergence = { windows: 16, kl: 0.12345, agreement: 0.87654 };
	const { line, columns } = perplexity.terminal;
	assert.equal(line({ before }), "20.00 on a.txt");
	assert.equal(
		line({ before, after: figure(25) }),
		"20.00 -> 25.00 (1.25 times, ln ratio +0.223) on a.txt",
	);
	const pair = { before, after: figure(19, { divergence }) };
	assert.equal(
		line(pair),
		"20.00 -> 19.00 (0.95 times, ln ratio -0.051) on a.txt; KL 0.1235 nats, same top token 87.65 %",
	);
	const texts = (pairs: typeof pair[]) => columns!.map(({ text }) => text(pairs));
	assert.deepEqual(texts([pair]), ["19.00", "20.00", "-0.051", "0.1235", "87.7 %"]);
	assert.deepEqual(texts([]), ["", "", "", "", ""]);
});
