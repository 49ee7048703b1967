import assert from "node:assert/strict";
import { gemm, multiplyHalves, SharedFactor } from "~/gpu/kernels/matmul/gemm.ts";
import { halve, type Halves } from "~/gpu/kernels/matmul/halve.ts";
import type { Tensor } from "~/gpu/tensor.ts";
import { openWithMatrices } from "../../emulated_matrices.ts";
import { normals } from "../../../reference/random.ts";

const gpu = await openWithMatrices();
/** A small tile, since the emulation is slow to compile. */
const TILE = 32;
const place = (tensor: Tensor) => ({ tensor, start: 0, stride: tensor.shape[1] });
let seed = 0;
/** Normal values with outliers. */
const values = (length: number) =>
	normals(length, seed++).map((value, i) => i % 61 === 0 ? 300 * value : value);

/** What {@link halve} has made of a matrix. */
async function rounded(
	halves: Halves,
	by: "row" | "column",
): Promise<(i: number, j: number) => number> {
	const { words, scales, paddedCols } = halves;
	const values = new Float16Array((await gpu.readBytes(words)).buffer);
	const factors = await gpu.read(scales);
	return (i, j) => values[i * paddedCols + j] * factors[by === "row" ? i : j];
}

/** The largest error of C relative to the norms of the row of A and the column of B. */
function worstError(
	actual: Float32Array,
	a: (i: number, k: number) => number,
	b: (j: number, k: number) => number,
	[m, n, k]: readonly number[],
	extra: (i: number, j: number) => number,
	alpha = 1,
): number {
	const norm = (row: (k: number) => number) =>
		Math.hypot(...Array.from({ length: k }, (_, at) => row(at)));
	const [rows, cols] = [
		Array.from({ length: m }, (_, i) => norm((at) => a(i, at))),
		Array.from({ length: n }, (_, j) => norm((at) => b(j, at))),
	];
	let worst = 0;
	for (let i = 0; i < m; i++) {
		for (let j = 0; j < n; j++) {
			let sum = 0;
			for (let at = 0; at < k; at++) sum += a(i, at) * b(j, at);
			const error = Math.abs(actual[i * n + j] - alpha * sum - extra(i, j));
			worst = Math.max(worst, error / (rows[i] * cols[j]));
		}
	}
	return worst;
}

for (
	const [m, n, k, isDressed] of [
		[64, 96, 160, false], // whole tiles, in place
		[300, 44, 100, true], // edges, and more than a band of tiles
	] as const
) {
	Deno.test(`The entries of x Wᵀ of [${m}, ${k}] and [${n}, ${k}] are those of the rounded factors`, async () => {
		const [x, w, bias, residual] = [values(m * k), values(n * k), values(n), values(m * n)];
		using a = gpu.upload(x, [m, k]);
		using b = gpu.upload(w, [n, k]);
		using c = gpu.empty([m, n]);
		using addend = gpu.upload(bias, [n]);
		using rest = gpu.upload(residual, [m, n]);
		const more = isDressed ? { bias: addend, residual: rest, alpha: 0.5 } : {};
		using left = await halve(gpu, "row", place(a), [m, k], [TILE, 32]);
		using right = await halve(gpu, "row", place(b), [n, k], [TILE, 32]);
		await multiplyHalves(gpu, { layout: "NT", m, n, k, c, ...more }, left, right, TILE);
		const error = worstError(
			await gpu.read(c),
			await rounded(left, "row"),
			await rounded(right, "row"),
			[m, n, k],
			(i, j) => isDressed ? bias[j] + residual[i * n + j] : 0,
			more.alpha,
		);
		assert.ok(error < 1e-6, `${error}`);
	});
}

Deno.test("a product that may not be rounded is not", async () => {
	const [m, n, k] = [256, 256, 512];
	const [x, w] = [values(m * k), values(n * k)];
	using a = gpu.upload(x, [m, k]);
	using b = gpu.upload(w, [n, k]);
	using c = gpu.empty([m, n]);
	await gemm(gpu, { layout: "NT", m, n, k, a, b, c });
	const actual = await gpu.read(c);
	const error = worstError(
		actual,
		(i, at) => x[i * k + at],
		(j, at) => w[j * k + at],
		[m, n, k],
		() => 0,
	);
	assert.ok(error < 1e-6, `${error}`);
});

Deno.test("a factor of several products is rounded once", async () => {
	const [m, n, k] = [256, 256, 256];
	using a = gpu.upload(values(m * k), [m, k]);
	using shared = new SharedFactor();
	const before = gpu.memory.current;
	const products: Float32Array[] = [];
	for (const sharedA of [undefined, shared, shared]) {
		using b = gpu.upload(normals(n * k, 5), [n, k]);
		using c = gpu.empty([m, n]);
		await gemm(gpu, { layout: "NT", m, n, k, a, b, c, mayRound: true, sharedA });
		products.push(await gpu.read(c));
	}
	assert.deepEqual(products[1], products[0]);
	assert.deepEqual(products[2], products[0]);
	assert.equal(gpu.memory.current - before, 2 * m * k + 4 * m);
	shared[Symbol.dispose]();
	assert.equal(gpu.memory.current, before);
});

Deno.test("Xᵀ X is added to a matrix, in its upper triangle", async () => {
	const [tokens, n, first] = [130, 76, 32];
	const x = values(tokens * n);
	const start = values(n * n);
	using input = gpu.upload(x, [tokens, n]);
	using c = gpu.upload(start, [n, n]);
	using halves = await halve(gpu, "column", place(input), [tokens, n], [32, TILE]);
	const options = { layout: "TN", m: n, n, k: tokens - first, c, alpha: 0.25 } as const;
	await multiplyHalves(
		gpu,
		{ ...options, first, accumulate: true, upperOnly: true },
		halves,
		halves,
		TILE,
	);
	const actual = await gpu.read(c);
	const value = await rounded(halves, "column");
	const at = (i: number, token: number) => value(first + token, i);
	const upper = actual.map((entry, e) => {
		const [i, j] = [Math.floor(e / n), e % n];
		if (i <= j) return entry;
		let sum = 0;
		for (let token = 0; token < tokens - first; token++) sum += at(i, token) * at(j, token);
		return 0.25 * sum + start[e];
	});
	const sizes = [n, n, tokens - first];
	const error = worstError(upper, at, at, sizes, (i, j) => start[i * n + j], 0.25);
	assert.ok(error < 1e-6, `${error}`);
});

for (const by of ["row", "column"] as const) {
	Deno.test(`halve() scales each ${by} by a power of two and pads by zeros`, async () => {
		const [rows, cols, stride] = [37, 50, 57];
		const x = normals(rows * stride + 3, 9).map((value, i) => value * 10 ** (i % 70 - 35));
		x.fill(0, 3, 3 + stride); // a row of zeros
		using tensor: Tensor = gpu.upload(x, [x.length]);
		using halves = await halve(gpu, by, { tensor, start: 3, stride }, [rows, cols], [32, 64]);
		const words = new Float16Array((await gpu.readBytes(halves.words)).buffer);
		const scales = await gpu.read(halves.scales);
		assert.deepEqual([halves.paddedCols, words.length], [64, 64 * 64]);
		for (const scale of scales) assert.equal(Math.log2(scale) % 1, 0);
		for (let i = 0; i < 64; i++) {
			for (let j = 0; j < 64; j++) {
				const exact = i < rows && j < cols ? x[3 + i * stride + j] : 0;
				const scale = scales[by === "row" ? i : j];
				const actual = words[i * 64 + j] * scale;
				// 11 bits, or what is left of them 2^-29 below the largest.
				assert.ok(
					Math.abs(actual - exact) <= Math.max(2 ** -11 * Math.abs(exact), 2 ** -25 * scale),
				);
				assert.ok(Math.abs(words[i * 64 + j]) < 2 ** 15.01);
			}
		}
	});
}
