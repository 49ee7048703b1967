import assert from "node:assert/strict";
import type { Gpu } from "~/gpu/device.ts";
import { type FactorPrecision, inverseFactor } from "~/gpu/kernels/hessian/inverse_factor.ts";
import { assertClose } from "../../../assert_close.ts";
import {
	damped,
	inverseFactorReference,
	matmul,
	nearlySingular,
	transposed,
} from "../../../reference/linear_algebra.ts";
import { normals } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";

const DAMPING = 0.01;

/** (2 / tokens) XᵀX of correlated inputs; the lower triangle is NaN, since it must not be read. */
function makeHessian(n: number, dead: number[] = []): Float32Array {
	const tokens = 2 * n + 3;
	const x = normals(tokens * n, n);
	const common = normals(tokens, 1);
	for (let t = 0; t < tokens; t++) {
		for (let j = 0; j < n; j++) {
			const at = t * n + j;
			x[at] = dead.includes(j) ? 0 : (x[at] + common[t]) * (1 + j % 5);
		}
	}
	const hessian = Float32Array.from(matmul(transposed(x, tokens, n), x, n, n, tokens));
	return hessian.map((value, i) => i % n < Math.floor(i / n) ? NaN : value * 2 / tokens);
}

function identity(n: number): Float64Array {
	return Float64Array.from({ length: n * n }, (_, i) => Number(i % n === Math.floor(i / n)));
}

/** Factors a Hessian and checks UᵀU · (H + damping) = I, U itself and its costs. */
async function check(
	gpu: Gpu,
	hessian: Float32Array,
	n: number,
	damping: number,
	precision: FactorPrecision = "f32",
): Promise<void> {
	using tensor = gpu.upload(hessian, [n, n]);
	const { factor, cost, status } = await inverseFactor(gpu, tensor, damping, precision);
	assert.deepEqual([...await gpu.read(status, "u32")], [0]);
	const u = await gpu.read(factor);
	const costs = await gpu.read(cost);
	gpu.free(factor, cost, status);
	const matrix = damped(hessian, n, damping);
	const inverse = matmul(transposed(u, n, n), u, n, n, n);
	// f32 loses the condition number of the matrix, up to some thousands, of its 1e-7.
	assertClose(matmul(inverse, matrix, n, n, n), identity(n), { abs: 1e-3, what: "UᵀU (H + d)" });
	const expected = inverseFactorReference(matrix, n);
	const largest = expected.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
	// Of f64 only the last rounding is seen, and where rounding moves the damping itself.
	const close = precision === "f32" ? 1e-5 : 2e-7;
	assertClose(u, expected, { abs: close * largest, rel: close, what: "U" });
	assert(u.every((value, i) => i % n >= Math.floor(i / n) || value === 0), "U is triangular");
	const diagonal = Float64Array.from({ length: n }, (_, j) => u[j * n + j]);
	assertClose(costs, diagonal.map((value) => 1 / value ** 2), { rel: 1e-6, what: "cost" });
}

for (const { kernels, gpu } of DEVICES) {
	for (const n of [1, 2, 31, 32, 33, 63, 64, 65, 100, 128, 132, 192, 257]) {
		Deno.test(`inverseFactor() with ${kernels} factors the inverse of [${n}, ${n}]`, async () => {
			await check(gpu, makeHessian(n), n, DAMPING);
		});
	}

	Deno.test(`inverseFactor() with ${kernels} takes dead columns for ones`, async () => {
		await check(gpu, makeHessian(40, [0, 7, 31, 32, 39]), 40, DAMPING);
		await check(gpu, new Float32Array(33 * 33), 33, DAMPING);
	});

	Deno.test(`inverseFactor() with ${kernels} works with any damping`, async () => {
		await check(gpu, makeHessian(50), 50, 0);
		await check(gpu, makeHessian(50), 50, 1);
		await check(gpu, makeHessian(33).map((value) => value * 1e-6), 33, DAMPING);
		await check(gpu, makeHessian(33).map((value) => value * 1e6), 33, DAMPING);
	});

	Deno.test({
		name: `inverseFactor() with ${kernels} factors in f64`,
		ignore: !gpu.f64,
		async fn() {
			for (const n of [1, 33, 64, 65, 130, 192]) {
				await check(gpu, makeHessian(n), n, DAMPING, "f64");
			}
			await check(gpu, makeHessian(70, [0, 7, 63, 64, 69]), 70, DAMPING, "f64");
			await check(gpu, makeHessian(65), 65, 0, "f64");
		},
	});

	Deno.test({
		name: `inverseFactor() with ${kernels} factors in f64 what f32 cannot`,
		ignore: !gpu.f64,
		async fn() {
			const n = 150;
			const hessian = nearlySingular(n);
			using tensor = gpu.upload(hessian, [n, n]);
			const factored = async (precision: FactorPrecision) => {
				const { factor, cost, status } = await inverseFactor(gpu, tensor, 1e-9, precision);
				const [code] = await gpu.read(status, "u32");
				const u = await gpu.read(factor);
				gpu.free(factor, cost, status);
				return { code, u };
			};
			assert((await factored("f32")).code > 0, "f32 meets a pivot that is not positive");
			const { code, u } = await factored("f64");
			assert.equal(code, 0);
			const expected = inverseFactorReference(damped(hessian, n, 1e-9), n);
			const largest = expected.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
			assertClose(u, expected, { abs: 1e-6 * largest, what: "U" }); // f64 loses 1e8 of its 1e-16
		},
	});

	Deno.test(`inverseFactor() with ${kernels} reports where a pivot is not positive`, async () => {
		const n = 70;
		const statusOf = async (hessian: Float32Array, damping = 0) => {
			using tensor = gpu.upload(hessian, [n, n]);
			const { factor, cost, status } = await inverseFactor(gpu, tensor, damping);
			const [code] = await gpu.read(status, "u32");
			gpu.free(factor, cost, status);
			return code;
		};
		const plain = Float32Array.from(identity(n));
		assert.equal(await statusOf(plain), 0);
		const huge = plain.map((value) => value * 1e37); // the sum of the diagonal is infinite
		assert.equal(await statusOf(huge, DAMPING), 1);
		for (const column of [0, 37, 38, 69]) {
			const fromLast = n - column; // columns are counted from the last, from 1
			const negative = plain.slice();
			negative[column * n + column] = -0.5;
			assert.equal(await statusOf(negative), fromLast, `-0.5 at ${column}`);
			for (const bad of [NaN, Infinity]) {
				const broken = plain.slice();
				broken[column * n + column] = bad;
				const code = await statusOf(broken);
				assert(code > 0, `${bad} at ${column}`); // the mean is bad as well, so any column will do
			}
			if (column === 69) continue;
			const linked = plain.slice();
			linked[column * n + column + 1] = 1.5; // two unit vectors cannot have this product
			assert.equal(await statusOf(linked), fromLast, `1.5 beside ${column}`);
			linked[column * n + column + 1] = NaN;
			assert.equal(await statusOf(linked), fromLast, `NaN beside ${column}`);
		}
		const first = plain.slice();
		for (const column of [10, 20, 60]) first[column * n + column] = -1;
		assert.equal(await statusOf(first), n - 60, "the first of several");
	});
}
