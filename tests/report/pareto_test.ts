import assert from "node:assert/strict";
import { paretoFront, type Result } from "../../report/pareto.ts";
import { seededRandom } from "../reference/random.ts";

/** Whether a result is as small and as good as another one, and in something better. */
function beats(a: Result, b: Result): boolean {
	return a.bytes <= b.bytes && a.value <= b.value &&
		(a.bytes < b.bytes || a.value < b.value);
}

Deno.test("paretoFront() keeps what nothing beats, of equal results the first, by size", () => {
	const random = seededRandom(5);
	for (let round = 0; round < 200; round++) {
		const count = Math.floor(12 * random());
		// Few different numbers: many results are equal in one figure or in both.
		const results = Array.from({ length: count }, () => ({
			bytes: 1 + Math.floor(6 * random()),
			value: 1 + Math.floor(6 * random()),
		}));
		const expected = results.filter((result, i) =>
			!results.some((other) => beats(other, result)) &&
			!results.slice(0, i).some(({ bytes, value }) =>
				bytes === result.bytes && value === result.value
			)
		).sort((a, b) => a.bytes - b.bytes);
		const front = paretoFront(results);
		assert.deepEqual(front, expected);
		assert.ok(front.every((result) => results.includes(result)), "the results themselves");
	}
});
