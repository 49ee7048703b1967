import assert from "node:assert/strict";
import { fitRowScales, rowSpreads } from "~/codecs/trellis/row_fits.ts";
import { tileErrors } from "~/codecs/trellis/tile_errors.ts";
import { assertClose } from "../../assert_close.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { matmul, transposed } from "../../reference/linear_algebra.ts";
import { normals } from "../../reference/random.ts";

for (const { kernels, gpu } of DEVICES) {
	Deno.test(`rowSpreads() gives root mean squares of any size, ${kernels}`, async () => {
		for (const cols of [1, 70, 300]) {
			const factors = [1, 1e-3, 1e25, 1e-18, 0, 1e-30];
			const weight = normals(factors.length * cols, cols)
				.map((value, i) => value * factors[Math.floor(i / cols)]);
			using tensor = gpu.upload(weight, [factors.length, cols]);
			using spread = await rowSpreads(gpu, tensor);
			const expected = factors.map((_, row) => {
				const values = weight.subarray(row * cols, (row + 1) * cols);
				const sum = values.reduce((sum, value) => sum + value * value, 0);
				return Math.max(Math.sqrt(sum / cols), 1e-20);
			});
			assertClose(await gpu.read(spread), expected, { rel: 1e-5, what: `${cols} columns` });
		}
	});

	Deno.test(`fitRowScales() minimizes the output error of each row, ${kernels}`, async () => {
		const [rows, cols] = [7, 90];
		const weight = normals(rows * cols, 1, 0.1);
		const values = normals(rows * cols, 2).map((value, i) => value + 8 * weight[i]);
		values.fill(0, 0, cols);
		weight.fill(0, cols, 2 * cols);
		const x = normals(200 * cols, 3).map((value, i) => value + (i % 3 ? 0 : 0.5));
		const hessian = Float32Array.from(matmul(transposed(x, 200, cols), x, cols, cols, 200));
		const turned = matmul(values, hessian, rows, cols, cols);
		const expected = Array.from({ length: rows }, (_, row) => {
			let [along, square] = [0, 0];
			for (let i = row * cols; i < (row + 1) * cols; i++) {
				along += weight[i] * turned[i];
				square += values[i] * turned[i];
			}
			return square === 0 ? 0 : along / square;
		});
		assert.ok(expected.slice(2).every((scale) => scale > 0.01), `${expected}`);
		using weightTensor = gpu.upload(weight, [rows, cols]);
		using valuesTensor = gpu.upload(values, [rows, cols]);
		using hessianTensor = gpu.upload(hessian, [cols, cols]);
		using scales = gpu.empty([rows]);
		await fitRowScales(gpu, {
			weight: weightTensor,
			values: valuesTensor,
			hessian: hessianTensor,
			scales,
		});
		const found = await gpu.read(scales);
		assert.deepEqual(found.map(Math.f16round), found);
		assertClose(found, expected, { rel: 2 ** -10.9, what: "scales" }); // half a step of f16, and some
	});

	Deno.test(`tileErrors() solves E · U = W - Z · spread, ${kernels}`, async () => {
		const [rows, cols, first] = [70, 50, 32];
		const weight = normals(rows * cols, 1);
		const values = normals(rows * cols, 2);
		const spread = normals(rows, 3).map((value) => 1 + value * value);
		const factor = normals(cols * cols, 4, 0.2).map((value, i) => {
			const [row, col] = [Math.floor(i / cols), i % cols];
			return row > col ? NaN : row === col ? 1 + Math.abs(value) : value;
		});
		using error = await withTensors(async (upload) =>
			await tileErrors(gpu, first, {
				weight: upload(weight, [rows, cols]),
				values: upload(values, [rows, cols]),
				spread: upload(spread, [rows]),
				factor: upload(factor, [cols, cols]),
			})
		);
		const e = await gpu.read(error);
		const products = new Float64Array(rows * 16);
		const wanted = new Float64Array(rows * 16);
		for (let row = 0; row < rows; row++) {
			for (let j = 0; j < 16; j++) {
				const at = row * cols + first + j;
				wanted[row * 16 + j] = weight[at] - values[at] * spread[row];
				for (let i = 0; i <= j; i++) {
					products[row * 16 + j] += e[row * 16 + i] * factor[(first + i) * cols + first + j];
				}
			}
		}
		assertClose(products, wanted, { abs: 1e-5, rel: 1e-5, what: "E · U" });

		async function withTensors<T>(
			work: (upload: (data: Float32Array, shape: number[]) => ReturnType<typeof gpu.upload>) => T,
		): Promise<Awaited<T>> {
			using stack = new DisposableStack();
			return await work((data, shape) => stack.use(gpu.upload(data, shape)));
		}
	});
}
