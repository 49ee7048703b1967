import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { type Candidates, chooseCandidates } from "~/stages/allocation.ts";
import { FIXTURES } from "../parity/single_layers.ts";
import { seededRandom } from "../reference/random.ts";

const FIXTURE = `${FIXTURES}/allocation.json`;
const isThere = existsSync(FIXTURE);

interface Fixture {
	bits: number[];
	weights: Record<string, number>;
	sensitivity: Record<string, number[]>;
	targets: { target: number; bits: number; choice: Record<string, number> }[];
}

Deno.test({
	name: "the choices for SmolLM2 are those of the reference, matrix by matrix" +
		(isThere ? "" : " (needs ../shared)"),
	ignore: !isThere,
	fn() {
		const { bits, weights, sensitivity, targets }: Fixture = JSON.parse(
			readFileSync(FIXTURE, "utf8"),
		);
		const names = Object.keys(sensitivity);
		assert.equal(names.length, 210);
		const linears = names.map((name): Candidates => ({
			losses: sensitivity[name],
			bits: bits.map((rate) => rate * weights[name]),
		}));
		const total = names.reduce((sum, name) => sum + weights[name], 0);
		for (const { target, bits: expectedBits, choice } of targets) {
			const chosen = chooseCandidates(linears, target * total)!;
			const found = Object.fromEntries(names.map((name, i) => [name, chosen[i]]));
			assert.deepEqual(found, choice);
			const reached = chosen.reduce((sum, index, i) => sum + linears[i].bits[index], 0) / total;
			assert.ok(Math.abs(reached - expectedBits) < 1e-7, `${reached}`);
		}
	},
});

/** The least sum of losses within a target, by trying everything. */
function exhaustive(linears: readonly Candidates[], most: number): number {
	const [first, ...rest] = linears;
	if (!first) return most >= 0 ? 0 : Infinity;
	return Math.min(...first.losses.map((loss, i) => loss + exhaustive(rest, most - first.bits[i])));
}

Deno.test("a choice meets the target from below, and no other takes as few bits and loses less", () => {
	const random = seededRandom(3);
	for (let trial = 0; trial < 40; trial++) {
		const linears = Array.from({ length: 6 }, (): Candidates => {
			const size = 1 + Math.floor(4 * random());
			const scale = random();
			return {
				losses: [4, 2, 1, 0.4].map((loss) => scale * loss * (0.8 + 0.4 * random())),
				bits: [1, 2, 3, 4].map((rate) => rate * size),
			};
		});
		const bitsOf = (choice: number[]) =>
			choice.reduce((sum, index, i) => sum + linears[i].bits[index], 0);
		const least = bitsOf([0, 0, 0, 0, 0, 0]);
		for (const target of [1, 1.3, 2, 2.7, 3.9, 4, 7]) {
			const choice = chooseCandidates(linears, target * least)!;
			const bits = bitsOf(choice);
			assert.ok(bits <= target * least);
			const loss = choice.reduce((sum, index, i) => sum + linears[i].losses[index], 0);
			assert.ok(loss <= exhaustive(linears, bits) + 1e-12, `${loss}`);
		}
		assert.equal(chooseCandidates(linears, 0.99 * least), undefined);
		assert.deepEqual(bitsOf(chooseCandidates(linears, 4 * least)!), 4 * least);
	}
});

Deno.test("of candidates that lose the same, the first one is taken", () => {
	const equal: Candidates = { losses: [0.1, 0.1], bits: [10, 20] };
	assert.deepEqual(chooseCandidates([equal, equal], 100), [0, 0]);
});
