import assert from "node:assert/strict";
import { ChannelMoments } from "~/gpu/kernels/reduce/channel_moments.ts";
import { assertClose } from "../../../assert_close.ts";
import { normals } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

Deno.test("ChannelMoments of batches are those of all rows, also with a large mean", async () => {
	for (const cols of [1, 70]) {
		const batches = [1, 256, 700];
		const rows = batches.reduce((sum, count) => sum + count, 0);
		// The mean of a column is up to a thousand times its deviation.
		const center = (i: number) => 1000 * Math.sin(i % cols);
		const a = normals(rows * cols, 1).map((value, i) => value + center(i));
		const b = normals(rows * cols, 2).map((value, i) => value + center(i + 1) + 0.5 * a[i] % 1);
		const moments = new ChannelMoments(cols);
		let start = 0;
		for (const count of batches) {
			const part = (values: Float32Array) =>
				gpu.upload(values.subarray(start * cols, (start + count) * cols), [count, cols]);
			using one = part(a);
			using other = part(b);
			await moments.add(gpu, one, other);
			start += count;
		}
		assert.equal(moments.rows, rows);
		for (let col = 0; col < cols; col++) {
			const column = (values: Float32Array) =>
				Float64Array.from({ length: rows }, (_, row) => values[row * cols + col]);
			const [x, y] = [column(a), column(b)];
			const mean = (values: Float64Array) => values.reduce((sum, v) => sum + v, 0) / rows;
			const [meanX, meanY] = [mean(x), mean(y)];
			const products = x.reduce((sum, v, row) => sum + (v - meanX) * (y[row] - meanY), 0);
			const squares = y.reduce((sum, v) => sum + (v - meanY) ** 2, 0);
			const { meanA, meanB } = moments;
			assertClose([meanA[col], meanB[col]], [meanX, meanY], { rel: 1e-6, abs: 1e-6 });
			// The rounding of a mean near 1000 to f32 counts against a deviation of 1.
			const tolerance = { abs: 2e-4 * rows };
			assertClose([moments.products[col], moments.squares[col]], [products, squares], tolerance);
		}
	}
});
