import assert from "node:assert/strict";
import type { Gpu } from "~/gpu/device.ts";
import { KL_STATE, klDivergence } from "~/gpu/kernels/reduce/kl_divergence.ts";
import { assertClose } from "../../../assert_close.ts";
import { klReference } from "../../../reference/divergence.ts";
import { normals } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";
import { gpu as adapter } from "../../gpu.ts";

/** Divergences and most likely ids of rows whose vocabulary comes in parts. */
async function measured(gpu: Gpu, logits: Float32Array, other: Float32Array, parts: number[]) {
	const vocabulary = parts.reduce((sum, cols) => sum + cols, 0);
	const rows = logits.length / vocabulary;
	const partOf = (all: Float32Array, first: number, cols: number) => {
		const part = new Float32Array(rows * cols);
		for (let r = 0; r < rows; r++) {
			const at = r * vocabulary + first;
			part.set(all.subarray(at, at + cols), r * cols);
		}
		return gpu.upload(part, [rows, cols]);
	};
	using state = gpu.empty([rows, KL_STATE.columns]);
	let first = 0;
	for (const cols of parts) {
		using a = partOf(logits, first, cols);
		using b = partOf(other, first, cols);
		await klDivergence(gpu, a, b, first, state);
		first += cols;
	}
	const found = await gpu.read(state);
	const column = (at: number) => found.filter((_, i) => i % KL_STATE.columns === at);
	return {
		divergences: column(KL_STATE.divergence),
		ids: [...column(KL_STATE.id)],
		otherIds: [...column(KL_STATE.otherId)],
	};
}

function expected(logits: Float32Array, other: Float32Array, vocabulary: number) {
	const rows = Array.from({ length: logits.length / vocabulary }, (_, r) => {
		const row = (all: Float32Array) => all.subarray(r * vocabulary, (r + 1) * vocabulary);
		return klReference(row(logits), row(other));
	});
	return {
		divergences: rows.map(({ divergence }) => divergence),
		ids: rows.map(({ id }) => id),
		otherIds: rows.map(({ otherId }) => otherId),
	};
}

for (const { kernels, gpu } of DEVICES) {
	for (const parts of [[1], [2], [17], [129], [1, 1, 1], [5, 128, 3, 33], [1000], [700, 300]]) {
		Deno.test(`klDivergence() with ${kernels} agrees with the reference for parts of ${parts}`, async () => {
			const vocabulary = parts.reduce((sum, cols) => sum + cols, 0);
			const rows = 37;
			const logits = normals(rows * vocabulary, vocabulary, 3);
			const noise = normals(rows * vocabulary, vocabulary + 1, 1);
			const other = logits.map((logit, i) => logit + noise[i]);
			const fill = (all: Float32Array, row: number, value: number) =>
				all.fill(value, row * vocabulary, (row + 1) * vocabulary);
			const last = vocabulary - 1;
			fill(logits, 0, -2); // all equal
			fill(other, 1, 5);
			logits[2 * vocabulary + last] = 60; // certain
			other[3 * vocabulary + last] = 60; // certain, but wrong
			other.set(logits.subarray(4 * vocabulary, 5 * vocabulary), 4 * vocabulary); // the same
			for (let i = 0; i < vocabulary; i++) { // the same but for a constant
				other[5 * vocabulary + i] = logits[5 * vocabulary + i] + 8;
			}
			const tie = Math.min(parts[0], last); // the least of equals, in this part and an earlier one
			for (const at of [last, tie, 0]) logits[6 * vocabulary + at] = 40;
			for (const at of [last, tie]) other[6 * vocabulary + at] = 40;
			const actual = await measured(gpu, logits, other, parts);
			const wanted = expected(logits, other, vocabulary);
			// Sums of up to 1000 terms in f32 of differences up to 60.
			assertClose(actual.divergences, wanted.divergences, { abs: 2e-5, rel: 2e-6 });
			// Compilers of GPUs contract products and sums, each as it likes.
			assert.ok(Math.abs(actual.divergences[4]) <= (adapter.software ? 0 : 1e-7));
			assert.deepEqual(actual.ids, wanted.ids);
			assert.deepEqual(actual.otherIds, wanted.otherIds);
		});
	}

	Deno.test(`klDivergence() with ${kernels} holds logits of any size`, async () => {
		const values = normals(50, 1, 3);
		const logits = new Float32Array(4 * 50);
		const other = new Float32Array(4 * 50);
		[1e4, -1e4, 90, -90].forEach((offset, r) => {
			for (let i = 0; i < 50; i++) {
				logits[r * 50 + i] = offset + values[i];
				other[r * 50 + i] = -offset + values[49 - i];
			}
		});
		logits[2 * 50 + 37] = 500; // e^500 is infinite in f32
		const wanted = expected(logits, other, 50);
		for (const parts of [[50], [20, 30], [1, 49]]) {
			const actual = await measured(gpu, logits, other, parts);
			// Logits are exact, and so are their differences from the greatest one.
			assertClose(actual.divergences, wanted.divergences, { abs: 1e-5, rel: 2e-6 });
			assert.deepEqual(actual.ids, wanted.ids);
			assert.deepEqual(actual.otherIds, wanted.otherIds);
		}
	});

	Deno.test(`klDivergence() with ${kernels} reaches beyond 65535 rows`, async () => {
		const rows = 65535 + 2;
		const logits = normals(rows * 3, 9);
		const other = normals(rows * 3, 10);
		const actual = await measured(gpu, logits, other, [3]);
		const wanted = expected(logits, other, 3);
		assertClose(actual.divergences, wanted.divergences, { abs: 3e-6, rel: 1e-6 });
		assert.deepEqual(actual.ids, wanted.ids);
		assert.deepEqual(actual.otherIds, wanted.otherIds);
	});
}
