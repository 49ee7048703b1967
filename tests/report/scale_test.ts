import assert from "node:assert/strict";
import { linearScale, logScale, niceStep } from "../../report/scale.ts";
import { seededRandom } from "../reference/random.ts";

Deno.test("scales put numbers in order between the ends, and write some of them", () => {
	const random = seededRandom(1);
	for (let round = 0; round < 200; round++) {
		const size = 10 ** (12 * random() - 3);
		const values = Array.from(
			{ length: 1 + Math.floor(8 * random()) },
			() => size * (0.1 + random()),
		);
		for (
			const [kind, scale] of [["linear", linearScale(values, 5)], [
				"log",
				logScale(values),
			]] as const
		) {
			const places = values.toSorted((a, b) => a - b).map((value) => scale.at(value));
			assert.ok(
				places.every((place) => place > 0 && place < 1),
				`${kind}: ${values} lie at ${places}`,
			);
			assert.deepEqual(places, places.toSorted((a, b) => a - b), kind);
			const ticks = scale.ticks.map((tick) => scale.at(tick));
			assert.ok(
				ticks.every((tick) => tick >= 0 && tick <= 1),
				`${kind}: the ticks are ${scale.ticks}`,
			);
			assert.ok(ticks.length <= 12, `${kind}: ${ticks.length} ticks`);
			if (kind === "linear") {
				assert.ok(ticks.length >= 2, `${values} have the ticks ${scale.ticks}`);
			}
		}
	}
});

Deno.test("equal ratios are equal distances of logScale(), and 1, 2, 3, 5 its ticks", () => {
	const { at, ticks } = logScale([10, 90]);
	assert.ok(Math.abs((at(20) - at(10)) - (at(80) - at(40))) < 1e-12);
	assert.deepEqual(ticks, [10, 20, 30, 50, 100]);
});

Deno.test("niceStep() is the next of 1, 2, 5 times a power of ten", () => {
	const steps = [1, 1.1, 2, 2.5, 5, 7, 10, 0.03, 1234].map(niceStep);
	assert.deepEqual(steps, [1, 2, 2, 5, 5, 10, 10, 0.05, 2000]);
});
