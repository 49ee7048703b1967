import assert from "node:assert/strict";
import { refitScales } from "~/codecs/grid/refit_scales.ts";
import { assertClose } from "../../assert_close.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { matmul, transposed } from "../../reference/linear_algebra.ts";
import { normals } from "../../reference/random.ts";

for (const { kernels, gpu } of DEVICES) {
	Deno.test(`refitScales() minimizes the output error scale by scale, ${kernels}`, async () => {
		const [rows, cols, groupSize, rounds] = [5, 150, 64, 2];
		const groups = Math.ceil(cols / groupSize);
		const weight = normals(rows * cols, 1, 0.1);
		const x = normals(300 * cols, 2).map((value, i) => value + (i % 3 ? 0 : 0.5));
		const hessian = Float32Array.from(matmul(transposed(x, 300, cols), x, cols, cols, 300));
		const fits = Float32Array.from({ length: rows * groups * 2 }, (_, i) => i % 2 ? 1.5 : 0.0625);
		fits[0] = 2 ** -24; // a group of the first row whose best scale is much larger
		const quantized = weight.map((w, i) => {
			const fit = 2 * (Math.floor(i / cols) * groups + Math.floor(i % cols / groupSize));
			const [scale, zero] = fits.subarray(fit);
			return scale * (Math.min(Math.max(Math.round(w / scale + zero), 0), 3) - zero);
		});

		const expected = Float64Array.from(quantized);
		const scales = Float64Array.from(fits);
		for (let row = 0; row < rows; row++) {
			const q = expected.subarray(row * cols, (row + 1) * cols);
			for (let step = 0; step < rounds * groups; step++) {
				const first = step % groups * groupSize;
				const end = Math.min(first + groupSize, cols);
				let [along, square] = [0, 0];
				for (let i = first; i < end; i++) {
					for (let j = 0; j < cols; j++) {
						along += q[i] * hessian[i * cols + j] * (weight[row * cols + j] - q[j]);
						if (j >= first && j < end) square += q[i] * hessian[i * cols + j] * q[j];
					}
				}
				const at = 2 * (row * groups + step % groups);
				const fitted = Math.f16round(scales[at] * (1 + along / square));
				for (let i = first; i < end; i++) q[i] *= fitted / scales[at];
				scales[at] = fitted;
			}
		}

		using weightTensor = gpu.upload(weight, [rows, cols]);
		using hessianTensor = gpu.upload(hessian, [cols, cols]);
		using quantizedTensor = gpu.upload(quantized, [rows, cols]);
		using fitsTensor = gpu.upload(fits, [rows, groups, 2]);
		await refitScales(gpu, {
			weight: weightTensor,
			hessian: hessianTensor,
			quantized: quantizedTensor,
			fits: fitsTensor,
			groupSize,
			rounds,
		});
		const found = await gpu.read(fitsTensor);
		assert.deepEqual(found.map(Math.f16round), found);
		assert.ok(found.every((value, i) => i % 2 === 0 || value === 1.5), "zeros stay");
		assertClose(found, scales, { rel: 2 ** -9, what: "scales" }); // f32 sums may tip the rounding
		const moved = scales.filter((scale, i) => i % 2 === 0 && scale !== fits[i]);
		assert.ok(moved.length > rows * groups / 2);
		assertClose(await gpu.read(quantizedTensor), expected, { abs: 2e-3, what: "Q" });
	});
}
