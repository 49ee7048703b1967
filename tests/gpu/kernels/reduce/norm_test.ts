import assert from "node:assert/strict";
import { norm } from "~/gpu/kernels/reduce/norm.ts";
import { assertClose } from "../../../assert_close.ts";
import { layerNorm, rmsNorm } from "../../../reference/decoder.ts";
import { normals, uniforms } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";

const EPSILON = 1e-5;

for (const { kernels, gpu } of DEVICES) {
	for (const cols of [1, 2, 15, 16, 17, 127, 128, 129, 1000]) { // 16 or 128 threads take a row
		Deno.test(`norm() with ${kernels} agrees with the reference on [5, ${cols}]`, async () => {
			const x = normals(5 * cols, cols);
			x.fill(0, 0, cols); // only epsilon keeps row 0 from 0 / 0
			x.fill(0.75, cols, 2 * cols); // row 1 is constant
			for (let i = 2 * cols; i < 3 * cols; i++) x[i] = 100 + x[i]; // the mean dwarfs the spread
			for (let i = 3 * cols; i < 4 * cols; i++) x[i] *= 1e-4; // epsilon counts
			const weight = uniforms(cols, 2);
			const bias = uniforms(cols, 3);
			using xTensor = gpu.upload(x, [5, cols]);
			using weightTensor = gpu.upload(weight, [cols]);
			using biasTensor = gpu.upload(bias, [cols]);
			using rms = await norm(gpu, xTensor, weightTensor, undefined, EPSILON);
			using layer = await norm(gpu, xTensor, weightTensor, biasTensor, EPSILON);
			const rows = Array.from({ length: 5 }, (_, r) => x.subarray(r * cols, (r + 1) * cols));
			assertClose(
				await gpu.read(rms),
				rows.flatMap((row) => [...rmsNorm(row, weight, EPSILON)]),
				{ abs: 1e-7, rel: 2e-6, what: "RMS norm" }, // 16 f32 roundings
			);
			assertClose(
				await gpu.read(layer),
				rows.flatMap((row) => [...layerNorm(row, weight, bias, EPSILON)]),
				{ abs: 1e-5, rel: 2e-6, what: "layer norm" }, // row 2 loses a factor of 100 to x - mean
			);
		});
	}

	Deno.test(`norm() with ${kernels} takes the heads of a token one by one`, async () => {
		const [x, weight] = [normals(3 * 2 * 18, 9), uniforms(18, 10)];
		using xTensor = gpu.upload(x, [3, 2 * 18]);
		using weightTensor = gpu.upload(weight, [18]);
		using out = await norm(gpu, xTensor, weightTensor, undefined, EPSILON);
		assert.deepEqual(out.shape, [3, 2 * 18]);
		const heads = Array.from({ length: 6 }, (_, i) => x.subarray(i * 18, (i + 1) * 18));
		assertClose(
			await gpu.read(out),
			heads.flatMap((head) => [...rmsNorm(head, weight, EPSILON)]),
			{ abs: 1e-7, rel: 2e-6 },
		);
	});

	Deno.test(`norm() with ${kernels} has a weight for each head, and may center without a bias`, async () => {
		const [x, weight] = [normals(5 * 3 * 18, 9), uniforms(3 * 18, 10)];
		using xTensor = gpu.upload(x, [5, 3 * 18]);
		using weightTensor = gpu.upload(weight, [3, 18]);
		for (const center of [false, true]) {
			using out = await norm(gpu, xTensor, weightTensor, undefined, EPSILON, { center, width: 18 });
			const expected = Array.from({ length: 15 }, (_, i) => {
				const head = x.subarray(i * 18, (i + 1) * 18);
				const own = weight.subarray(i % 3 * 18, (i % 3 + 1) * 18);
				const none = new Float32Array(18);
				return [...center ? layerNorm(head, own, none, EPSILON) : rmsNorm(head, own, EPSILON)];
			});
			assertClose(await gpu.read(out), expected.flat(), { abs: 2e-7, rel: 2e-6 });
		}
	});

	Deno.test(`norm() with ${kernels} reaches beyond 65535 rows`, async () => {
		const [rows, cols] = [65535 + 3, 2];
		const x = normals(rows * cols, 8);
		using xTensor = gpu.upload(x, [rows, cols]);
		using weight = gpu.upload(Float32Array.of(1, 2), [cols]);
		using out = await norm(gpu, xTensor, weight, undefined, EPSILON);
		const expected = new Float64Array(rows * cols);
		for (let r = 0; r < rows; r++) {
			expected.set(rmsNorm(x.subarray(r * cols, (r + 1) * cols), [1, 2], EPSILON), r * cols);
		}
		assertClose(await gpu.read(out), expected, { abs: 1e-7, rel: 2e-6 });
	});
}
