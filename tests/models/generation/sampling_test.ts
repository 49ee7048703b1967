import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import {
	candidates,
	checkSampling,
	draw,
	mostLikely,
	penalizeRepetition,
	Sampler,
	type SamplingOptions,
} from "~/models/generation/sampling.ts";
import { assertClose } from "../../assert_close.ts";
import { normals, seededRandom } from "../../reference/random.ts";

/** Probabilities by id, from the definitions: sort everything, then cut. */
function reference(
	logits: ArrayLike<number>,
	{ temperature, topK = Infinity, topP = 1 }: { temperature: number; topK?: number; topP?: number },
): Map<number, number> {
	let kept = Array.from(logits, (logit, id) => ({ id, weight: logit / temperature }))
		.sort((a, b) => b.weight - a.weight || a.id - b.id).slice(0, topK);
	const top = kept[0].weight;
	const normalize = () => {
		const sum = kept.reduce((sum, { weight }) => sum + weight, 0);
		kept = kept.map(({ id, weight }) => ({ id, weight: weight / sum }));
	};
	kept = kept.map(({ id, weight }) => ({ id, weight: Math.exp(weight - top) }));
	normalize();
	if (topP < 1) {
		let sum = 0;
		const last = kept.findIndex(({ weight }) => (sum += weight) >= topP);
		kept = kept.slice(0, last + 1);
		normalize();
	}
	return new Map(kept.map(({ id, weight }) => [id, weight]));
}

Deno.test("candidates() agrees with the definitions of temperature, top-k and top-p", () => {
	for (const size of [1, 2, 50, 1000]) {
		const logits = normals(size, size, 3);
		for (const temperature of [0.05, 0.7, 1, 2.5, 1000]) {
			for (const topK of [undefined, 1, 2, 40, 999, 1000, 5000]) {
				for (const topP of [undefined, 1e-9, 0.1, 0.5, 0.9, 0.999, 1]) {
					const options = { temperature, topK, topP };
					const { ids, probabilities } = candidates(logits, options);
					const expected = reference(logits, options);
					const what = JSON.stringify({ size, ...options });
					assert.deepEqual([...ids].sort(), [...expected.keys()].sort(), what);
					assertClose(probabilities, Array.from(ids, (id) => expected.get(id)!), {
						abs: 1e-14,
						what,
					});
				}
			}
		}
	}
});

Deno.test("candidates() with top-k 1 or a tiny top-p leaves the most likely token", () => {
	const logits = Float32Array.of(0.5, 2, -1, 2, 1.9);
	for (const cut of [{ topK: 1 }, { topP: 1e-12 }, { topK: 3, topP: 0.01 }]) {
		const { ids, probabilities } = candidates(logits, { temperature: 3, ...cut });
		assert.deepEqual([[...ids], [...probabilities]], [[1], [1]]);
	}
	// The nucleus ends with the token that reaches top-p.
	const halves = Float32Array.of(Math.log(1), Math.log(2), Math.log(1));
	const { ids } = candidates(halves, { temperature: 1, topP: 0.6 });
	assert.deepEqual([...ids], [0, 1]);
});

Deno.test("candidates() holds logits far apart", () => {
	const { probabilities } = candidates(Float32Array.of(-3e38, 3e38, 0), { temperature: 0.1 });
	assert.deepEqual([...probabilities], [0, 1, 0]);
});

Deno.test("mostLikely() sorts by logits and then by ids", () => {
	const random = seededRandom(1);
	for (const size of [1, 5, 300]) {
		const logits = Float32Array.from({ length: size }, () => Math.floor(random() * 20)); // many are equal
		const sorted = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
		for (const count of [1, 2, 7, 299, 300, 301]) {
			assert.deepEqual(
				[...mostLikely(logits, count)],
				sorted.slice(0, count),
				`${count} of ${size}`,
			);
		}
	}
});

Deno.test("draw() takes tokens in the proportion of their probabilities", () => {
	const some = { ids: Uint32Array.of(9, 4, 7), probabilities: Float64Array.of(0.5, 0.2, 0.3) };
	for (
		const [point, id] of [[0, 9], [0.4999, 9], [0.5, 4], [0.6999, 4], [0.7001, 7], [
			1 - 2 ** -53,
			7,
		]]
	) {
		assert.equal(draw(some, point), id, `${point}`);
	}
	const short = { ids: Uint32Array.of(1, 2, 3), probabilities: Float64Array.of(0.3, 0.6, 0) };
	assert.equal(draw(short, 0.95), 2, "never one without a probability");
});

Deno.test("penalizeRepetition() makes tokens of the text less likely, each once", () => {
	const logits = Float32Array.of(2, -2, 0, 3, -3);
	penalizeRepetition(logits, [0, 1, 1, 0, 2, 99], 2);
	assert.deepEqual([...logits], [1, -4, 0, 3, -3]);
	penalizeRepetition(logits, [3], 0.5);
	assert.equal(logits[3], 6);
});

Deno.test("a sampler of one seed chooses the same tokens, close to their probabilities", () => {
	const logits = Float32Array.of(Math.log(5), Math.log(3), Math.log(2));
	const chosen = (options: SamplingOptions, count = 4000) => {
		const sampler = new Sampler(options);
		return Array.from({ length: count }, () => sampler.next(logits.slice(), []));
	};
	const ids = chosen({ temperature: 1, seed: 11 });
	assert.deepEqual(chosen({ temperature: 1, seed: 11 }), ids);
	assert.notDeepEqual(chosen({ temperature: 1, seed: 12 }), ids);
	assert.deepEqual(chosen({ temperature: 1 }), chosen({ temperature: 1, seed: 0 }));
	[0.5, 0.3, 0.2].forEach((expected, id) => {
		const share = ids.filter((found) => found === id).length / ids.length;
		assert(Math.abs(share - expected) < 0.03, `${id}: ${share}`); // four standard deviations
	});
	assert.deepEqual(new Set(chosen({ temperature: 1, topK: 2 })), new Set([0, 1]));
});

Deno.test("a sampler of temperature 0 takes the greatest logit, after the penalty", () => {
	const sampler = new Sampler({ repetitionPenalty: 2 });
	assert.equal(new Sampler({}).isGreedy, true);
	assert.equal(new Sampler({ temperature: 2, topK: 1 }).isGreedy, true);
	assert.equal(new Sampler({ temperature: 0.5 }).isGreedy, false);
	assert.equal(sampler.isGreedy, false);
	assert.equal(sampler.next(Float32Array.of(1, 3, 2, 3), []), 1);
	assert.equal(sampler.next(Float32Array.of(1, 3, 2, 3), [1]), 3);
	assert.equal(sampler.next(Float32Array.of(1, 3, 2, 3), [1, 3]), 2);
});

Deno.test("checkSampling() refuses what is out of range", () => {
	for (
		const [options, message] of [
			[{ temperature: -1 }, "The temperature must be a number of at least 0, found -1"],
			[{ temperature: NaN }, "The temperature must be a number of at least 0, found NaN"],
			[{ topK: 0 }, "The top-k must be a whole number of at least 1, found 0"],
			[{ topK: 1.5 }, "The top-k must be a whole number of at least 1, found 1.5"],
			[{ topP: 0 }, "The top-p must be a number above 0 and at most 1, found 0"],
			[{ topP: 1.01 }, "The top-p must be a number above 0 and at most 1, found 1.01"],
			[{ repetitionPenalty: 0 }, "The repetition penalty must be a number above 0, found 0"],
			[{ seed: 0.5 }, "The seed must be a whole number, found 0.5"],
		] as const
	) {
		assert.throws(() => checkSampling(options), new UserError(message));
		assert.throws(() => new Sampler(options), new UserError(message));
	}
	checkSampling({ temperature: 0, topK: 1, topP: 1, repetitionPenalty: 1.1, seed: -3 });
});
