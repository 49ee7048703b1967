import assert from "node:assert/strict";
import { expertRows } from "~/gpu/kernels/experts/expert_rows.ts";
import { normals } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

const [K, COLS] = [2, 70];
/** Experts of three tokens here, and in another model. */
const OWN = [[0, 1], [2, 0], [1, 3]];
const OTHER = [[1, 0], [2, 3], [0, 2]];
const ORDER = [0, 3, 1, 4, 2, 5]; // pairs by expert

function routing(experts: number[][]): Float32Array {
	return Float32Array.from(experts.flatMap((row) => [...row, 0.5, 0.5]));
}

Deno.test("expertRows() gathers the rows of pairs, of this model and of another one", async () => {
	using order = gpu.upload(Uint32Array.from(ORDER), [ORDER.length]);
	using own = gpu.upload(routing(OWN), [3, 2 * K]);
	using other = gpu.upload(routing(OTHER), [3, 2 * K]);
	for (const each of [false, true]) {
		const width = each ? K * COLS : COLS;
		const [xs, others] = [normals(3 * width, 1), normals(3 * width, 2)];
		using x = gpu.upload(xs, [3, width]);
		using y = gpu.upload(others, [3, width]);
		for (const [first, count] of [[0, 6], [2, 3]]) {
			const range = { order, first, count };
			using rows = await expertRows(gpu, { x, routing: own }, COLS, range);
			using theirs = await expertRows(gpu, { x, routing: own }, COLS, range, {
				x: y,
				routing: other,
			});
			const expected: number[] = [];
			const expectedTheirs: number[] = [];
			for (const pair of ORDER.slice(first, first + count)) {
				const token = Math.floor(pair / K);
				const row = each ? pair : token;
				const slot = OTHER[token].indexOf(OWN[token][pair % K]);
				expected.push(...xs.subarray(row * COLS, (row + 1) * COLS));
				if (!each) expectedTheirs.push(...others.subarray(row * COLS, (row + 1) * COLS));
				else if (slot < 0) expectedTheirs.push(...xs.subarray(row * COLS, (row + 1) * COLS));
				else {
					const there = token * K + slot;
					expectedTheirs.push(...others.subarray(there * COLS, (there + 1) * COLS));
				}
			}
			assert.deepEqual([...await gpu.read(rows)], expected);
			assert.deepEqual([...await gpu.read(theirs)], expectedTheirs);
		}
	}
});
