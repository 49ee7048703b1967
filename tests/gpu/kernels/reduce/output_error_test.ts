import { outputErrorParts, relativeError } from "~/gpu/kernels/reduce/output_error.ts";
import { assertClose } from "../../../assert_close.ts";
import { matmul, transposed } from "../../../reference/linear_algebra.ts";
import { normals } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";

/** tr(D H Dᵀ) = the sum of (D Xᵀ)² for H = XᵀX. */
function energy(d: Float64Array, x: Float32Array, rows: number, n: number, tokens: number): number {
	return matmul(d, transposed(x, tokens, n), rows, tokens, n).reduce((sum, v) => sum + v * v, 0);
}

for (const { kernels, gpu } of DEVICES) {
	for (const [rows, n] of [[1, 1], [3, 7], [33, 64], [65, 129], [300, 200]]) {
		Deno.test(`relativeError() with ${kernels} agrees with the outputs of [${rows}, ${n}]`, async () => {
			const tokens = n + 10;
			const x = normals(tokens * n, n);
			const weight = normals(rows * n, rows);
			const noise = normals(rows * n, 1, 0.2);
			const quantized = weight.map((w, i) => w + noise[i]);
			const hessian = Float32Array.from(matmul(transposed(x, tokens, n), x, n, n, tokens));
			using weightTensor = gpu.upload(weight, [rows, n]);
			using quantizedTensor = gpu.upload(quantized, [rows, n]);
			using hessianTensor = gpu.upload(hessian, [n, n]);
			using parts = await outputErrorParts(gpu, weightTensor, quantizedTensor, hessianTensor);
			const actual = await relativeError(parts);
			const difference = Float64Array.from(weight, (w, i) => w - quantized[i]);
			const expected = energy(difference, x, rows, n, tokens) /
				energy(Float64Array.from(weight), x, rows, n, tokens);
			assertClose([actual], [expected], { rel: 1e-5 }); // sums in f32
		});
	}
}
