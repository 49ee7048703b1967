import assert from "node:assert/strict";
import { bitLength, PythonRandom } from "../../base/python_random.ts";
import { fixture } from "../fixture.ts";
import { assertGolden, type Golden } from "../golden.ts";

/** As in python_random.py. */
interface Lists {
	ranges: [first: number, last: number][];
	numbers: { seed: number; bits: Golden<number>; integers: Golden<number>; word2000: number }[];
}

const lists = fixture<Lists>("python_random");

for (const { seed, bits, integers, word2000 } of lists.numbers) {
	Deno.test(`PythonRandom draws what CPython does with seed ${seed}`, () => {
		const ofBits = new PythonRandom(seed);
		assertGolden(Array.from({ length: 53 }, (_, i) => ofBits.getrandbits(i + 1)), bits);
		const ofIntegers = new PythonRandom(seed);
		const drawn = Array.from({ length: 78 }, (_, i) => {
			const [first, last] = lists.ranges[i % lists.ranges.length];
			return ofIntegers.randint(first, last);
		});
		assertGolden(drawn, integers);
		const late = new PythonRandom(seed);
		for (let i = 1; i < 2000; i++) late.getrandbits(32);
		assert.equal(late.getrandbits(32), word2000);
	});
}

Deno.test("PythonRandom takes no word for no bits", () => {
	const random = new PythonRandom(5);
	assert.equal(random.getrandbits(0), 0);
	assert.equal(random.getrandbits(32), new PythonRandom(5).getrandbits(32));
});

Deno.test("PythonRandom.clone() goes on from the same place and leaves the first alone", () => {
	const random = new PythonRandom(7);
	for (let i = 0; i < 623; i++) random.getrandbits(32);
	const copy = random.clone();
	const ahead = Array.from({ length: 10 }, () => copy.getrandbits(32));
	assert.deepEqual(Array.from({ length: 10 }, () => random.getrandbits(32)), ahead);
});

Deno.test("PythonRandom refuses what Python would draw from more bits", () => {
	const random = new PythonRandom(0);
	assert.throws(
		() => new PythonRandom(2 ** 53),
		new RangeError("Cannot seed with 9007199254740992"),
	);
	assert.throws(() => new PythonRandom(0.5), new RangeError("Cannot seed with 0.5"));
	assert.throws(() => random.getrandbits(54), new RangeError("Cannot draw 54 bits"));
	assert.throws(() => random.randint(3, 2), new RangeError("Cannot draw an integer from 3 to 2"));
	const wide = `Cannot draw an integer from 0 to ${2 ** 53 - 1}`;
	assert.throws(() => random.randint(0, 2 ** 53 - 1), new RangeError(wide));
});

Deno.test("bitLength() counts as Python's int.bit_length()", () => {
	const lengths = [1, 2, 255, 256, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1].map(bitLength);
	assert.deepEqual(lengths, [1, 2, 8, 9, 32, 32, 33, 53]);
});
