import { AssertionError } from "node:assert";

/** How far a value may be from the expected one: by `abs`, plus `rel` times the expected magnitude. */
export interface Tolerance {
	abs?: number;
	rel?: number;
	/** What is compared, for the message. */
	what?: string;
}

/**
 * Compares two arrays entry by entry. NaN never passes, not even where NaN is expected.
 *
 * @throws {AssertionError} With the entry that misses its tolerance by the largest factor.
 */
export function assertClose(
	actual: ArrayLike<number>,
	expected: ArrayLike<number>,
	{ abs = 0, rel = 0, what = "values" }: Tolerance = {},
): void {
	if (actual.length !== expected.length) {
		throw new AssertionError({
			message: `${what}: ${actual.length} entries, expected ${expected.length}`,
		});
	}
	let worst = -1;
	let excess = 1; // as a multiple of the tolerance
	let misses = 0;
	for (let i = 0; i < expected.length; i++) {
		if (actual[i] === expected[i]) continue;
		const allowed = abs + rel * Math.abs(expected[i]);
		const factor = Math.abs(actual[i] - expected[i]) / allowed;
		if (factor <= 1) continue;
		misses++;
		const rank = Number.isNaN(factor) ? Infinity : factor;
		if (worst < 0 || rank > excess) {
			worst = i;
			excess = rank;
		}
	}
	if (worst < 0) return;
	throw new AssertionError({
		message: `${what}: ${misses} of ${expected.length} entries are off, worst at ${worst}: ` +
			`${actual[worst]}, expected ${expected[worst]} (abs ${abs}, rel ${rel})`,
		actual: actual[worst],
		expected: expected[worst],
	});
}
