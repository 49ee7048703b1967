import assert from "node:assert/strict";
import { fitLevels } from "~/codecs/levels/fit_levels.ts";
import { LEVEL_KINDS, type LevelKind, parametersOf } from "~/codecs/levels/levels.ts";
import { refitLevels, type SearchedLevels } from "~/codecs/levels/refit_levels.ts";
import { descendLevels, quantizeLevels, SWEEP_BLOCK } from "~/codecs/levels/sweep_levels.ts";
import { moveLevels, searchLevels } from "~/codecs/levels/search_levels.ts";
import { rowSearchShape } from "~/codecs/row_search/row_search.ts";
import type { Gpu } from "~/gpu/device.ts";
import { gemm } from "~/gpu/kernels/matmul/gemm.ts";
import { reducesInSubgroup } from "~/gpu/kernels/reduce/reduction.ts";
import { assertClose } from "../../assert_close.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { gpu } from "../../gpu/gpu.ts";
import {
	descendReference,
	feedbackReference,
	lloydReference,
	refitReference,
	residualReference,
} from "../../reference/levels.ts";
import {
	damped,
	inverseFactorReference,
	matmul,
	transposed,
} from "../../reference/linear_algebra.ts";
import { normals, seededRandom } from "../../reference/random.ts";
import { lossOf, tabuOfRow } from "../../reference/row_search.ts";
import { levelValues } from "./random_levels.ts";

/** The kernels that suit the adapter, and those of GPUs. */

interface Problem {
	kind: LevelKind;
	rows: number;
	cols: number;
	/** f32 numbers, row after row. */
	weight: number[][];
	hessian: Float32Array;
	/** U of the inverse of H. */
	factor: Float32Array;
	costs: Float32Array;
}

/** Normal weights, the first row zeros, and a Hessian of correlated inputs. */
function makeProblem(kind: LevelKind, rows: number, cols: number): Problem {
	const tokens = cols + 20;
	const shared = normals(tokens, 5);
	const x = normals(tokens * cols, 6).map((value, i) =>
		(value + 0.5 * shared[Math.floor(i / cols)]) * (1 + i % cols % 3)
	);
	const xx = matmul(transposed(x, tokens, cols), x, cols, cols, tokens);
	const hessian = Float32Array.from(damped(xx.map((sum) => sum / tokens), cols, 0.01));
	const factor = Float32Array.from(inverseFactorReference(hessian, cols));
	const costs = Float32Array.from({ length: cols }, (_, j) => 1 / factor[j * (cols + 1)] ** 2);
	const values = normals(rows * cols, cols, 0.1);
	const weight = Array.from({ length: rows }, (_, row) =>
		Array.from(
			values.subarray(row * cols, (row + 1) * cols),
			(w) => rows > 2 && row === 0 ? 0 : w,
		));
	return { kind, rows, cols, weight, hessian, factor, costs };
}

const SHAPES: [rows: number, cols: number][] = [[1, 1], [9, 1], [1, 33], [17, 70], [35, 131 + 128]];

/** All kinds in one odd shape, and one kind in all. */
const PROBLEMS = [
	...LEVEL_KINDS.map((kind) => makeProblem(kind, 19, 150)),
	...SHAPES.map(([rows, cols]) => makeProblem({ count: 4, pattern: "free" }, rows, cols)),
];

function nameOf({ kind, rows, cols }: Problem): string {
	return `${kind.count} levels, ${kind.pattern}, ${rows} x ${cols}`;
}

function flat(rows: number[][]): Float32Array<ArrayBuffer> {
	return Float32Array.from(rows.flat());
}

/** Some parameters and codes of a problem that are neither the best nor the worst. */
function begun({ kind, weight, cols }: Problem) {
	const theta = weight.map((row) => lloydReference(kind, row, new Float32Array(cols).fill(1)));
	const random = seededRandom(cols);
	const codes = weight.map((row, i) =>
		feedbackReference(kind, row, theta[i], identity(cols)).map((code) =>
			random() < 0.1 ? Math.floor(kind.count * random()) : code
		)
	);
	return { theta, codes };
}

function identity(n: number): Float32Array {
	return Float32Array.from({ length: n * n }, (_, at) => Number(at % (n + 1) === 0));
}

function upload(gpu: Gpu, { kind, rows, cols, hessian }: Problem, state: ReturnType<typeof begun>) {
	const layer: SearchedLevels = {
		kind,
		codes: gpu.upload(Uint32Array.from(state.codes.flat()), [rows, cols]),
		theta: gpu.upload(flat(state.theta), [rows, parametersOf(kind)]),
		hessian: gpu.upload(hessian, [cols, cols]),
	};
	return { layer, free: () => gpu.free(layer.codes, layer.theta, layer.hessian) };
}

/** tr(E H Eᵀ), E = W - Q. */
function lossWith(
	{ kind, weight, cols, hessian }: Problem,
	theta: number[][],
	codes: ArrayLike<number>,
) {
	const levels = theta.map((own) => levelValues(kind, own));
	const values = Array.from(codes, (code, at) => levels[Math.floor(at / cols)][code]);
	return lossOf(weight.flat(), values, hessian, cols);
}

function shareOfEqual(a: ArrayLike<number>, b: ArrayLike<number>): number {
	let equal = 0;
	for (let i = 0; i < a.length; i++) equal += Number(a[i] === b[i]);
	return equal / a.length;
}

for (const problem of PROBLEMS) {
	const { kind, rows, cols, weight, hessian, factor, costs } = problem;
	const name = nameOf(problem);

	Deno.test(`${name}: levels are fitted as in f64`, async () => {
		const wanted = weight.map((row) => lloydReference(kind, row, costs)).flat();
		for (const { gpu } of DEVICES) {
			using onGpu = gpu.upload(flat(weight), [rows, cols]);
			using costsOnGpu = gpu.upload(costs, [cols]);
			using theta = gpu.empty([rows, parametersOf(kind)]);
			await fitLevels(gpu, kind, { weight: onGpu, costs: costsOnGpu, theta });
			const found = await gpu.read(theta);
			assertClose(found, wanted, { rel: 2 ** -10, abs: 1e-7, what: "parameters" });
			assert.deepEqual(found, found.map(Math.f16round));
			assert.ok(!found.some((value) => Object.is(value, -0)));
		}
	});

	Deno.test(`${name}: columns are rounded as in f64, and later ones compensate`, async () => {
		const state = begun(problem);
		const wanted = weight.map((row, i) => feedbackReference(kind, row, state.theta[i], factor));
		for (const { gpu } of DEVICES) {
			const { layer: { codes, theta }, free } = upload(gpu, problem, state);
			using onGpu = gpu.upload(flat(weight), [rows, cols]);
			using factorOnGpu = gpu.upload(factor, [cols, cols]);
			for (let first = 0; first < cols; first += SWEEP_BLOCK) {
				const block = { kind, first, weight: onGpu, factor: factorOnGpu, theta, codes };
				using error = await quantizeLevels(gpu, block);
				const width = error.shape[1];
				const start = first + width;
				await gemm(gpu, {
					...{ layout: "NN", m: rows, n: cols - start, k: width, alpha: -1, accumulate: true },
					a: error,
					b: { tensor: factorOnGpu, start: first * cols + start, stride: cols },
					c: { tensor: onGpu, start, stride: cols },
				});
			}
			const found = await gpu.read(codes, "u32");
			// A code may tip where f32 and f64 differ, and then those after it.
			assert.ok(shareOfEqual(found, wanted.flat()) > 0.99);
			free();
		}
	});

	Deno.test(`${name}: parameters are refitted as in f64`, async () => {
		const state = begun(problem);
		const wanted = weight.map((row, i) =>
			refitReference(kind, row, state.codes[i], state.theta[i], hessian)
		);
		const product = Float32Array.from(matmul(weight.flat(), hessian, rows, cols, cols));
		const size = Math.max(...product.map(Math.abs));
		for (const { gpu } of DEVICES) {
			const { layer, free } = upload(gpu, problem, state);
			using target = gpu.upload(product, [rows, cols]);
			using residual = gpu.empty([parametersOf(kind) * rows, cols]);
			await refitLevels(gpu, layer, target, residual);
			const found = await gpu.read(layer.theta);
			assertClose(found, wanted.flat(), { rel: 2 ** -10, abs: 1e-7, what: "parameters" });
			assert.deepEqual(found, found.map(Math.f16round));
			const width = parametersOf(kind);
			const expected = weight.flatMap((row, i) => {
				const theta = found.subarray(i * width, (i + 1) * width);
				return [...residualReference(kind, row, state.codes[i], theta, hessian)];
			});
			const r = (await gpu.read(residual)).subarray(0, rows * cols);
			assertClose(r, expected, { abs: 2e-5 * size, what: "residual" });
			free();
		}
	});

	Deno.test(`${name}: coordinate descent does what it does in f64`, async () => {
		const state = begun(problem);
		const codes = state.codes.map((row) => [...row]);
		const before = weight.map((row, i) =>
			residualReference(kind, row, codes[i], state.theta[i], hessian)
		);
		const after = before.map((residual, i) => {
			const r = residual.slice();
			descendReference(kind, r, codes[i], state.theta[i], hessian);
			return [...r];
		});
		const size = Math.max(...before.flatMap((row) => [...row]).map(Math.abs));
		for (const { gpu } of DEVICES) {
			const { layer, free } = upload(gpu, problem, state);
			using residual = gpu.upload(Float32Array.from(before.flatMap((row) => [...row])), [
				rows,
				cols,
			]);
			await descendLevels(gpu, layer, residual);
			const found = await gpu.read(layer.codes, "u32");
			assert.ok(shareOfEqual(found, codes.flat()) > 0.99);
			// Rows in which no code has tipped have the same residual.
			const r = await gpu.read(residual);
			for (let row = 0; row < rows; row++) {
				const own = found.subarray(row * cols, (row + 1) * cols);
				if (shareOfEqual(own, codes[row]) < 1) continue;
				const part = r.subarray(row * cols, (row + 1) * cols);
				assertClose(part, after[row], { abs: 2e-5 * size, what: `residual of row ${row}` });
			}
			free();
		}
	});
}

for (const problem of PROBLEMS) {
	const { kind, rows, cols, weight, hessian } = problem;
	Deno.test(`${nameOf(problem)}: tabu search does what it does in f64`, async () => {
		const state = begun(problem);
		const before = weight.map((row, i) =>
			residualReference(kind, row, state.codes[i], state.theta[i], hessian)
		);
		const product = Float32Array.from(matmul(weight.flat(), hessian, rows, cols, cols));
		const moves = Math.ceil(cols / 2);
		for (const { gpu } of DEVICES) {
			const lanes = reducesInSubgroup(gpu) ? undefined : rowSearchShape(gpu, cols).lanes;
			const wanted = before.map((residual, i) => {
				const codes = Uint8Array.from(state.codes[i]);
				const values = levelValues(kind, state.theta[i]);
				const isStep = (from: number, to: number) => Math.abs(from - to) === 1;
				const all = state.codes[i].map(() => values);
				tabuOfRow(codes, all, isStep, residual.slice(), hessian, moves, 3, lanes);
				return [...codes];
			});
			const { layer, free } = upload(gpu, problem, state);
			using target = gpu.upload(product, [rows, cols]);
			const start = Float32Array.from(before.flatMap((row) => [...row]));
			using residual = gpu.upload(start, [rows, cols]);
			await moveLevels(gpu, layer, target, residual, moves, 3, async () => {});
			const found = await gpu.read(layer.codes, "u32");
			assert.ok(found.every((code) => code < kind.count));
			const [loss, expected, first] = [found, wanted.flat(), state.codes.flat()].map((codes) =>
				lossWith(problem, state.theta, codes)
			);
			// Where two moves are nearly as good, f32 may take the other one.
			assert.ok(Math.abs(loss - expected) <= 0.01 * expected, `${loss}, ${expected} in f64`);
			if (cols > 1) assert.ok(loss < first, `${loss}, ${first} before`);
			assert.ok(shareOfEqual(found, wanted.flat()) > 0.9);
			free();
		}
	});
}

Deno.test("tabu search of more moves than software adapters finish in a call is cut", async () => {
	if (!gpu.software) return;
	const cols = 300;
	const problem = makeProblem({ count: 5, pattern: "free" }, 3, cols);
	const { kind, rows, weight, hessian } = problem;
	const state = begun(problem);
	const product = Float32Array.from(matmul(weight.flat(), hessian, rows, cols, cols));
	using target = gpu.upload(product, [rows, cols]);
	const moves = rowSearchShape(gpu, cols).most + 20;
	const { layer, free } = upload(gpu, problem, state);
	using residual = gpu.upload(
		Float32Array.from(
			weight.flatMap((row, i) => [
				...residualReference(kind, row, state.codes[i], state.theta[i], hessian),
			]),
		),
		[rows, cols],
	);
	let calls = 0;
	await moveLevels(gpu, layer, target, residual, moves, 0, async () => {
		calls++;
	});
	assert.equal(calls, 2);
	const loss = lossWith(problem, state.theta, await gpu.read(layer.codes, "u32"));
	assert.ok(loss < 0.9 * lossWith(problem, state.theta, state.codes.flat()));
	free();
});

Deno.test("the search of all steps lowers the loss with each round", async () => {
	const problem = makeProblem({ count: 3, pattern: "free" }, 19, 150);
	const { rows, cols, weight, hessian } = problem;
	const state = begun(problem);
	const product = Float32Array.from(matmul(weight.flat(), hessian, rows, cols, cols));
	for (const { gpu } of DEVICES) {
		using target = gpu.upload(product, [rows, cols]);
		let last = lossWith(problem, state.theta, state.codes.flat());
		for (
			const effort of [
				{ rounds: 0, sweeps: 0, moves: 0 },
				{ rounds: 1, sweeps: 1, moves: 0 },
				{ rounds: 1, sweeps: 3, moves: 0 },
				{ rounds: 1, sweeps: 3, moves: 0.5 },
				{ rounds: 3, sweeps: 3, moves: 1 },
			]
		) {
			const { layer, free } = upload(gpu, problem, state);
			await searchLevels(gpu, layer, target, effort, async () => {});
			const theta = await gpu.read(layer.theta);
			const codes = await gpu.read(layer.codes, "u32");
			const loss = lossWith(problem, [...theta].map((a) => [a]), codes);
			assert.ok(loss < last, `${loss} with ${JSON.stringify(effort)}, ${last} before`);
			last = loss;
			free();
		}
	}
});

Deno.test("the loss falls with each sweep of descent", async () => {
	const problem = makeProblem({ count: 4, pattern: "free" }, 19, 150);
	const { rows, cols, weight, hessian, kind } = problem;
	const state = begun(problem);
	const { layer, free } = upload(gpu, problem, state);
	const start = weight.flatMap((row, i) => [
		...residualReference(kind, row, state.codes[i], state.theta[i], hessian),
	]);
	using residual = gpu.upload(Float32Array.from(start), [rows, cols]);
	let last = lossWith(problem, state.theta, state.codes.flat());
	for (let sweep = 0; sweep < 8; sweep++) {
		await descendLevels(gpu, layer, residual);
		const loss = lossWith(problem, state.theta, await gpu.read(layer.codes, "u32"));
		assert.ok(
			loss < (sweep === 0 ? 0.9 : 1) * last,
			`${loss} after sweep ${sweep}, ${last} before`,
		);
		last = loss;
	}
	free();
});

Deno.test("rows too long for one call on a software adapter are fitted in several", async () => {
	const cols = 70001;
	const kind: LevelKind = { count: 3, pattern: "free" };
	const values = normals(cols, 1);
	const costs = normals(cols, 2).map((value) => 1 + value * value);
	using weight = gpu.upload(values, [1, cols]);
	using costsOnGpu = gpu.upload(costs, [cols]);
	using theta = gpu.empty([1, 1]);
	await fitLevels(gpu, kind, { weight, costs: costsOnGpu, theta });
	const wanted = lloydReference(kind, [...values], costs);
	assertClose(await gpu.read(theta), wanted, { rel: 2 ** -10 });
});
