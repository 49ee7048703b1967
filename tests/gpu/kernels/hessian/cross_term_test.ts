import { accumulateCrossTerm, correction } from "~/gpu/kernels/hessian/cross_term.ts";
import { assertClose } from "../../../assert_close.ts";
import {
	damped,
	inverse,
	inverseFactorReference,
	matmul,
	transposed,
} from "../../../reference/linear_algebra.ts";
import { normals } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

Deno.test("accumulateCrossTerm() adds the products of the difference and the input", async () => {
	for (const n of [1, 17, 64]) {
		using cross = gpu.zeros([n, n]);
		const expected = new Float64Array(n * n);
		for (const tokens of [1, 33, 1100]) {
			const x = normals(tokens * n, tokens);
			const noise = normals(tokens * n, tokens + 1, 0.1);
			const full = x.map((value, i) => value + noise[i]);
			using input = gpu.upload(x, [tokens, n]);
			using original = gpu.upload(full, [tokens, n]);
			await accumulateCrossTerm(gpu, original, input, cross, 0.25);
			const lost = Float64Array.from(full, (value, i) => value - x[i]);
			matmul(transposed(lost, tokens, n), x, n, n, tokens)
				.forEach((value, i) => expected[i] += 0.25 * value);
		}
		assertClose(await gpu.read(cross), expected, { abs: 1e-5 }); // 1134 terms of about 0.1 in f32
	}
});

Deno.test("correction() is W + strength W C (H + damping)⁻¹, few and many rows alike", async () => {
	for (const n of [7, 60]) {
		const tokens = n + 10;
		const x = normals(tokens * n, n);
		const hessian = damped(matmul(transposed(x, tokens, n), x, n, n, tokens), n, 0.1);
		const cross = normals(n * n, 3);
		const factor = Float32Array.from(inverseFactorReference(hessian, n));
		using crossTensor = gpu.upload(cross, [n, n]);
		using factorTensor = gpu.upload(factor, [n, n]);
		for (const rows of [5, n, 2 * n]) {
			const weight = normals(rows * n, rows);
			const change = matmul(matmul(weight, cross, rows, n, n), inverse(hessian, n), rows, n, n);
			using tensor = gpu.upload(weight, [rows, n]);
			using prepared = await correction(gpu, crossTensor, factorTensor, rows, 0.75);
			using corrected = await prepared.apply(tensor);
			const expected = weight.map((value, i) => value + 0.75 * change[i]);
			assertClose(await gpu.read(corrected), expected, { abs: 2e-5, what: `${rows} rows of ${n}` });
		}
	}
});

Deno.test("correction() without a difference leaves the weights as they are", async () => {
	const n = 60;
	using cross = gpu.zeros([n, n]);
	using factor = gpu.upload(normals(n * n, 1), [n, n]);
	for (const rows of [5, 100]) {
		const weight = normals(rows * n, rows);
		using tensor = gpu.upload(weight, [rows, n]);
		using prepared = await correction(gpu, cross, factor, rows, 1);
		using corrected = await prepared.apply(tensor);
		assertClose(await gpu.read(corrected), weight);
	}
});
