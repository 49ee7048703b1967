import assert from "node:assert/strict";
import { multiplySlabs, slabRows } from "~/codecs/packed_rows/slabs.ts";
import { openGpu } from "../../gpu/open_gpu.ts";
import { normals } from "../../reference/random.ts";
import { productReference } from "../billm/random_packed.ts";

Deno.test("slabs keep a GPU busy within the memory that they may take", () => {
	const gpu = { software: false, maxBinding: 2 ** 31, roundsProducts: false };
	assert.equal(slabRows(gpu, 2048, 4096, 4096), 4096, "64 MB");
	assert.equal(slabRows(gpu, 2048, 11008, 4096), 3712, "three of about the same size");
	assert.equal(slabRows(gpu, 512, 11008, 4096), 11008, "a single one");
	assert.equal(slabRows({ ...gpu, roundsProducts: true }, 2048, 11008, 4096), 11008, "f16");
	assert.equal(slabRows(gpu, 512, 4096, 11008), 4096);
	assert.equal(slabRows(gpu, 512, 22016, 4096), 11008, "two within 256 MB");
	assert.equal(slabRows(gpu, 512, 32000, 11008), 5376, "six within 256 MB");
	assert.equal(slabRows(gpu, 4096, 4096, 11008), 1408, "three within 64 MB");
	assert.equal(slabRows({ ...gpu, maxBinding: 2 ** 27 }, 512, 6000, 11008), 3008, "a binding");
	assert.equal(slabRows({ ...gpu, software: true }, 512, 4096, 4096), 1024);
	assert.equal(slabRows(gpu, 1, 300, 1 << 24), 64, "the least");
});

Deno.test("a product in several slabs agrees with f64", async () => {
	const gpu = await openGpu();
	const [tokens, rows, cols] = [5, 150, 65600]; // 63 rows and a bit in 16 MB
	assert.equal(slabRows(gpu, tokens, rows, cols), 64);
	const x = normals(tokens * cols, 1);
	const weight = normals(rows * cols, 2);
	const [biases, residuals] = [normals(rows, 3), normals(tokens * rows, 4)];
	using xs = gpu.upload(x, [tokens, cols]);
	using bias = gpu.upload(biases, [rows]);
	using residual = gpu.upload(residuals, [tokens, rows]);
	using y = gpu.empty([tokens, rows]);
	const slabs: [first: number, count: number][] = [];
	const unpack = (first: number, count: number) => {
		slabs.push([first, count]);
		const values = weight.slice(first * cols, (first + count) * cols);
		return Promise.resolve(gpu.upload(values, [count, cols]));
	};
	await multiplySlabs(gpu, xs, { rows, unpack }, { bias, residual }, y);
	assert.deepEqual(slabs, [[0, 64], [64, 64], [128, 22]]);
	const actual = await gpu.read(y);
	const { sums, magnitudes } = productReference(x, weight, cols);
	for (const [i, sum] of sums.entries()) {
		const expected = sum + biases[i % rows] + residuals[i];
		assert(Math.abs(actual[i] - expected) <= 2e-6 * (magnitudes[i] + 2), `${actual[i]} at ${i}`);
	}
});
