import assert from "node:assert/strict";
import { PlainWeights } from "../../models/plain_weights.ts";
import { chosenLayers, countWeights, histogramOf } from "../../report/histograms.ts";
import { Checkpoint } from "../../storage/checkpoint.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { assertClose } from "../assert_close.ts";
import { Workplace } from "../micro_model.ts";
import { normals } from "../reference/random.ts";

/** Counts in the plainest way: of 80 bins between -limit and limit, with what lies beyond in the last. */
function count(values: Iterable<number>, limit: number): number[] {
	const bins = new Array<number>(80).fill(0);
	for (const value of values) {
		let bin = 0;
		while (bin < 79 && value >= -limit + (bin + 1) * limit / 40) bin++;
		bins[bin]++;
	}
	return bins;
}

function total(counts: readonly number[] = []): number {
	return counts.reduce((sum, count) => sum + count, 0);
}

/** Counts may differ by the few weights that lie on the border of two bins. */
function assertCounts(found: readonly number[], expected: readonly number[], what: string): void {
	assert.equal(total(found), total(expected), what);
	const off = found.map((count, i) => Math.abs(count - expected[i]));
	assert.ok(total(off) <= 0.002 * total(expected), `${what}: ${found} are not ${expected}`);
}

Deno.test("histogramOf() counts each weight once, by what it was taken for", () => {
	const before = normals(50000, 3, 0.02);
	const groups = Uint8Array.from(before, (w, i) => i % 10 === 0 ? 2 : Math.abs(w) > 0.03 ? 1 : 0);
	const after = before.map((w) => Math.sign(w) * (Math.abs(w) > 0.03 ? 0.04 : 0.015));
	const found = histogramOf(before, after, groups);
	const sizes = [...before].map(Math.abs).sort((a, b) => a - b);
	assert.equal(found.limit, sizes[sizes.length - 1 - 50], "one of 1000 lies beyond");
	["low", "high", "salient"].forEach((name, group) => {
		const own = [...before].filter((_, i) => groups[i] === group);
		assertCounts(found.groups[name as "low"]!, count(own, found.limit), name);
	});
	assert.deepEqual(Object.keys(found.groups), ["low", "high", "salient"]);
	assertCounts(found.stored, count(after, found.limit), "stored");
	assert.equal(found.weights, 50000);
	// The border is one between bins.
	assert.ok(Math.abs(found.split! - 0.03) <= found.limit / 80, `the split is ${found.split}`);
	const squares = (values: Float32Array) => total([...values].map((value) => value ** 2));
	assertClose([found.rms], [Math.sqrt(squares(before) / 50000)], { rel: 1e-9, what: "rms" });
	const errors = before.map((w, i) => after[i] - w);
	assertClose([found.errorRms], [Math.sqrt(squares(errors) / 50000)], { rel: 1e-6, what: "error" });
});

Deno.test("without two zones there is no split; weights of zeros are no trouble", () => {
	const zeros = new Float32Array(100);
	const found = histogramOf(zeros, zeros, new Uint8Array(100).fill(3));
	assert.deepEqual(Object.keys(found.groups), ["all"]);
	assert.equal(found.split, undefined);
	assert.deepEqual([found.rms, found.errorRms], [0, 0]);
	assert.equal(total(found.stored), 100);
});

Deno.test("the chosen layers are the first, the middle and the last, each once", () => {
	assert.deepEqual(chosenLayers(0), []);
	assert.deepEqual(chosenLayers(1), [0]);
	assert.deepEqual(chosenLayers(2), [0, 1]);
	assert.deepEqual(chosenLayers(32), [0, 16, 31]);
});

for (const flags of ["plain", "entropy"] as const) {
	Deno.test(`countWeights() agrees with the record and with the weights, flags ${flags}`, async () => {
		using place = new Workplace({ layers: 3 });
		const stages = place.method.map((stage) => stage === "pack" ? { pack: { flags } } : stage);
		const { record } = await place.run({ stages });
		const folder = record.packed!.folder;
		const histograms = await countWeights(record.model, folder, record.layers!, [0, 2]);
		const expected = record.layers!.filter(({ layer }) => layer !== 1)
			.flatMap(({ layer, linears }) => linears.map((linear) => ({ layer, ...linear })));
		assert.deepEqual(histograms.map(({ name }) => name), expected.map(({ name }) => name));
		using original = Checkpoint.open(denoFolder(record.model));
		using packed = PlainWeights.open(denoFolder(folder));
		for (
			const [i, { name, layer, rows, cols, weights, limit, groups, stored }] of histograms.entries()
		) {
			const linear = expected[i];
			assert.deepEqual([layer, rows, cols, weights], [
				linear.layer,
				linear.rows,
				linear.cols,
				rows * cols,
			]);
			assert.equal(total(groups.salient), rows * total(linear.salientColumns), `${name}: salient`);
			const others = total(groups.low) + total(groups.high);
			assert.equal(others, weights - total(groups.salient), name);
			assertClose([total(groups.high) / others], [linear.highFraction], { rel: 1e-12, what: name });
			const before = original.readFloat32(`${name}.weight`);
			const all = [groups.low, groups.high, groups.salient].filter((counts) => counts !== undefined)
				.reduce((sum, counts) => sum.map((count, i) => count + counts[i]));
			assertCounts(all, count(before, limit), name);
			const [after] = packed.chunks(`${name}.weight`, rows * cols);
			assertCounts(stored, count(after, limit), `${name}, stored`);
			const some = packed.rowsOf(`${name}.weight`)(1, 2);
			assert.deepEqual(some, after.subarray(cols, 3 * cols), `${name}, rows 1 and 2`);
		}
	});
}

Deno.test("countWeights() takes a plain model as one without zones", async () => {
	using place = new Workplace({ layers: 1 });
	const { record } = await place.run();
	const [histogram] = await countWeights(record.model, record.model, record.layers!, [0]);
	assert.deepEqual(Object.keys(histogram.groups), ["all"]);
	assert.deepEqual(histogram.groups.all, histogram.stored);
	assert.equal(histogram.errorRms, 0);
});
