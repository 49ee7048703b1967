import assert from "node:assert/strict";
import { rowMagnitudes } from "~/gpu/kernels/reduce/row_magnitudes.ts";
import { normals } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

Deno.test("the largest magnitude of each row is found wherever it is, whatever its sign", async () => {
	for (const [rows, cols] of [[1, 1], [3, 63], [70000, 2], [5, 1027]]) {
		const values = normals(rows * cols, 2);
		for (let row = 0; row < rows; row++) {
			values[row * cols + row % cols] = [-70, 1e30, -3e38, 0][row % 4];
		}
		const expected = Float32Array.from({ length: rows }, (_, row) => {
			return values.subarray(row * cols, (row + 1) * cols).reduce(
				(a, b) => Math.max(a, Math.abs(b)),
				0,
			);
		});
		using matrix = gpu.upload(values, [rows, cols]);
		using out = gpu.empty([rows]);
		await rowMagnitudes(gpu, matrix, out);
		assert.deepEqual(await gpu.read(out), expected);
	}
});
