import assert from "node:assert/strict";
import type { EqualSteps } from "../../codecs/equal_steps.ts";
import {
	joinedSteps,
	packRows,
	packZeros,
	type WholeCodes,
	wholeCodesOf,
} from "../../export/whole_codes.ts";
import { field } from "./decoders.ts";

/** Rows of codes with a scale and a zero each. */
function steps(bits: number, topCode: number, zeros: number[], codes: number[][]): EqualSteps {
	return {
		rows: codes.length,
		cols: codes[0].length,
		bits,
		topCode,
		groupSize: codes[0].length,
		scales: Float32Array.from(codes, (_, row) => 0.5 + row),
		zeros: Float32Array.from(zeros),
		readCodes: (row, into) => into.set(codes[row]),
	};
}

/** The weights of packed codes. */
function weights(whole: WholeCodes): number[][] {
	const { rows, cols, bits, scales, zeros } = whole;
	const words = packRows(whole);
	const width = words.length / rows;
	return Array.from({ length: rows }, (_, row) => {
		const own = words.subarray(row * width, (row + 1) * width);
		return Array.from(
			{ length: cols },
			(_, col) => scales[row] * (field(own, bits, col) - zeros[row]) + 0,
		);
	});
}

Deno.test("signs and three levels become symmetric codes of 2 bits", () => {
	const signs = wholeCodesOf(steps(1, 1, [0.5, 0.5], [[0, 1, 1], [1, 0, 0]])) as WholeCodes;
	assert.deepEqual([signs.bits, signs.isSymmetric], [2, true]);
	assert.deepEqual(weights(signs), [[-0.25, 0.25, 0.25], [0.75, -0.75, -0.75]]);
	const three = wholeCodesOf(steps(2, 2, [1], [[0, 1, 2]])) as WholeCodes;
	assert.deepEqual([three.bits, three.isSymmetric], [2, true]);
	assert.deepEqual(weights(three), [[-0.5, 0, 0.5]]);
});

Deno.test("other codes stay; zeros between codes have no whole form", () => {
	const codes = [
		Array.from({ length: 40 }, (_, i) => i % 8),
		Array.from({ length: 40 }, (_, i) => 7 - i % 8),
	];
	const whole = wholeCodesOf(steps(3, 7, [4, 3], codes)) as WholeCodes;
	assert.ok(!whole.isSymmetric);
	assert.deepEqual(
		weights(whole),
		codes.map((row, i) => row.map((code) => (0.5 + i) * (code - [4, 3][i]) + 0)),
	);
	const zeros = packZeros(whole);
	assert.deepEqual([field(zeros, 3, 0), field(zeros, 3, 1)], [4, 3]);
	assert.ok("problem" in wholeCodesOf(steps(2, 3, [1.5], [[0]])));
});

Deno.test("linear layers that are one tensor are joined row by row, if their forms are equal", () => {
	const [a, b] = [[[0, 1]], [[2, 3], [3, 0]]].map((codes) =>
		steps(2, 3, codes.map(() => 2), codes)
	);
	const joined = wholeCodesOf(joinedSteps([a, b])!) as WholeCodes;
	assert.deepEqual(weights(joined), [[-1, -0.5], [0, 0.5], [1.5, -3]]);
	assert.equal(joinedSteps([a, steps(3, 7, [4], [[0, 1]])]), undefined);
});
