import assert from "node:assert/strict";
import { columnOrder } from "~/gpu/kernels/binarize/search.ts";
import { splitByOutput } from "~/gpu/kernels/binarize/split_output.ts";
import { binarize, rowsOf } from "../../../reference/billm.ts";
import { normals, uniforms } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";

for (const [i, { kernels, gpu }] of DEVICES.entries()) {
	const [rows, cols] = [[18, 37], [35, 64]][i];
	Deno.test(`splitByOutput() with ${kernels} finds the threshold with the least output error`, async () => {
		const [n, first] = [cols + 9, 5];
		// Correlated columns, so that the plain error has another minimum.
		const x = normals(3 * n, 4);
		const h = Float32Array.from({ length: n * n }, (_, i) => {
			const [a, b] = [Math.floor(i / n), i % n];
			return x[a] * x[b] + x[n + a] * x[n + b] + (a === b ? 0.01 : 0);
		});
		const values = normals(rows * cols, 6);
		const salient = Array.from({ length: cols }, (_, j) => Number(j % 7 === 2));
		const thresholds = [0.2, 0.4, 0.7, 1, 1.4, 2];
		const columns = [...salient.keys()];
		const leftOf = (row: number[], t: number) => {
			const groups = [
				columns.filter((j) => !salient[j] && Math.abs(row[j]) < t),
				columns.filter((j) => !salient[j] && Math.abs(row[j]) >= t),
				columns.filter((j) => salient[j]),
			];
			const left = new Array<number>(cols);
			groups.forEach((group, k) => {
				const fitted = binarize(group.map((j) => row[j]), k === 2 ? 2 : 1);
				group.forEach((j, i) => left[j] = row[j] - fitted[i]);
			});
			return left;
		};
		const matrix = rowsOf(values, cols);
		const outputError = (t: number) =>
			matrix.reduce((sum, row) => {
				const r = leftOf(row, t);
				const of = (i: number, j: number) => r[i] * h[(first + i) * n + first + j] * r[j];
				return sum + columns.reduce((s, i) => s + columns.reduce((a, j) => a + of(i, j), 0), 0);
			}, 0);
		const plainError = (t: number) =>
			matrix.flatMap((row) => leftOf(row, t)).reduce((sum, r) => sum + r * r, 0);
		const best = (of: (t: number) => number) => thresholds.reduce((a, b) => of(b) < of(a) ? b : a);
		const wanted = best(outputError);
		assert.notEqual(wanted, best(plainError), "the case tells both objectives apart");
		using weight = gpu.upload(values, [rows, cols]);
		using marks = gpu.upload(Uint32Array.from(salient), [cols]);
		using hessian = gpu.upload(h, [n, n]);
		using threshold = gpu.upload(Float32Array.from(thresholds), [thresholds.length]);
		using zones = await splitByOutput(gpu, weight, marks, hessian, first, threshold);
		const words = Math.ceil(cols / 32);
		const found = await gpu.read(zones, "u32");
		matrix.forEach((row, i) =>
			row.forEach((w, j) => {
				const bit = (found[i * words + (j >> 5)] >>> (j & 31)) & 1;
				assert.equal(bit, Number(!salient[j] && Math.abs(w) >= wanted), `${i}, ${j}`);
			})
		);
	});
}

Deno.test("columnOrder() by l2 sorts by the sums of squared saliencies", async () => {
	const [{ gpu }] = DEVICES;
	const [rows, cols] = [37, 50];
	const values = normals(rows * cols, 2).map((w, i) => i === 7 ? 6 * w : w);
	const costs = uniforms(cols, 3, 0.5, 2);
	using weight = gpu.upload(values, [rows, cols]);
	using cost = gpu.upload(costs, [cols]);
	for (const metric of ["hessian", "magnitude"] as const) {
		const sums = [...costs.keys()].map((j) =>
			rowsOf(values, cols).reduce((sum, row) => {
				const t = metric === "hessian" ? row[j] ** 2 * costs[j] : row[j];
				return sum + t * t;
			}, 0)
		);
		const expected = [...sums.keys()].sort((a, b) => sums[b] - sums[a]);
		using order = await columnOrder(gpu, weight, cost, metric, "l2");
		assert.deepEqual([...await gpu.read(order, "u32")], expected);
	}
});
