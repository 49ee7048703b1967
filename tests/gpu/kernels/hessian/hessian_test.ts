import assert from "node:assert/strict";
import type { Gpu } from "~/gpu/device.ts";
import {
	accumulateHessian,
	dampedDiagonal,
	dampedHessian,
	mirrorUpper,
	zeroDeadColumns,
} from "~/gpu/kernels/hessian/hessian.ts";
import { inverseFactor } from "~/gpu/kernels/hessian/inverse_factor.ts";
import { ArtifactStore } from "~/pipeline/run/artifacts.ts";
import type { RunEvent } from "~/pipeline/run/events.ts";
import type { GroupContext, GroupStage, LinearLayer } from "~/pipeline/stage.ts";
import { hessian as stage } from "~/stages/hessian.ts";
import { assertClose } from "../../../assert_close.ts";
import {
	damped,
	inverseFactorReference,
	matmul,
	nearlySingular,
	transposed,
} from "../../../reference/linear_algebra.ts";
import { normals } from "../../../reference/random.ts";
import { openGpu } from "../../open_gpu.ts";

const gpu = await openGpu();

for (const n of [1, 15, 16, 17, 64, 65, 130, 257]) {
	Deno.test(`accumulateHessian() adds batches and mirrorUpper() completes [${n}, ${n}]`, async () => {
		using hessian = gpu.zeros([n, n]);
		const expected = new Float64Array(n * n);
		for (const tokens of [1, 5, 33]) {
			const x = normals(tokens * n, tokens);
			using input = gpu.upload(x, [tokens, n]);
			await accumulateHessian(gpu, input, hessian, 0.25);
			matmul(transposed(x, tokens, n), x, n, n, tokens).forEach((v, i) => expected[i] += 0.25 * v);
		}
		await mirrorUpper(gpu, hessian);
		assertClose(await gpu.read(hessian), expected, { abs: 1e-5 }); // 39 terms of about 1 in f32
	});

	Deno.test(`zeroDeadColumns() clears, and damping completes, what H leaves out of [5, ${n}]`, async () => {
		const rows = 5;
		const weight = normals(rows * n, n);
		const matrix = normals(n * n, n + 1);
		const isDead = (column: number) => column % 7 === 2 || column === n - 1;
		for (let j = 0; j < n; j++) if (isDead(j)) matrix[j * n + j] = 0;
		using hessian = gpu.upload(matrix, [n, n]);
		using tensor = gpu.upload(weight, [rows, n]);
		await zeroDeadColumns(gpu, hessian, tensor);
		assertClose(await gpu.read(tensor), weight.map((w, i) => isDead(i % n) ? 0 : w));

		using diagonal = await dampedDiagonal(gpu, hessian, 0.25);
		const entries = Array.from({ length: n }, (_, j) => isDead(j) ? 1 : matrix[j * n + j]);
		const added = 0.25 * entries.reduce((sum, entry) => sum + entry, 0) / n;
		assertClose(await gpu.read(diagonal), entries.map((entry) => entry + added), { abs: 1e-5 });

		using whole = await dampedHessian(gpu, hessian, 0.25);
		const expected = matrix.slice();
		entries.forEach((entry, j) => expected[j * n + j] = entry + added);
		assertClose(await gpu.read(whole), expected, { abs: 1e-5 });
		assert.deepEqual(await gpu.read(hessian), matrix, "H stays");
	});
}

const n = 150;
const LAYERS = "layers.0.q_proj, layers.0.k_proj";

const noF64 = await openGpu();
(noF64 as { f64: boolean }).f64 = false;

/** Runs the stage on a Hessian `[150, 150]`; gives U, the warnings, and how often it read back. */
async function runStage(gpu: Gpu, hessian: Float32Array, damping: number) {
	let reads = 0;
	const { readBytes } = gpu;
	gpu.readBytes = (tensor) => {
		reads++;
		return readBytes.call(gpu, tensor);
	};
	const events: RunEvent[] = [];
	using store = new ArtifactStore();
	store.set("hessian", gpu.upload(hessian, [n, n]));
	using weight = gpu.zeros([1, n]);
	const context = {
		gpu,
		isNeeded: (name: string) => name === "factor",
		linears: LAYERS.split(", ").map((name) => ({ name, original: weight, weight }) as LinearLayer),
		emit: (event: RunEvent) => events.push(event),
		get: store.get.bind(store),
		set: store.set.bind(store),
	};
	try {
		await (stage as GroupStage).run(context as unknown as GroupContext, { damping });
	} finally {
		gpu.readBytes = readBytes;
	}
	const warnings = events.map((event) => event.type === "warning" ? event.message : event.type);
	return { u: await gpu.read(store.get("factor")), warnings, reads };
}

function assertFactor(u: Float32Array, hessian: Float32Array, damping: number, close: number) {
	const expected = inverseFactorReference(damped(hessian, n, damping), n);
	const largest = expected.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
	assertClose(u, expected, { abs: close * largest, what: "U" });
}

Deno.test("the stage factors the columns by falling diagonal only if that is needed", async () => {
	const cols = 70;
	const x = normals(200 * cols, 1).map((value, i) => value * (1 + (i % cols * 37) % 11));
	const matrix = Float32Array.from(matmul(transposed(x, 200, cols), x, cols, cols, 200));
	matrix.fill(0, 5 * cols, 6 * cols);
	for (let i = 0; i < cols; i++) matrix[i * cols + 5] = 0; // column 5 is dead
	using store = new ArtifactStore();
	store.set("hessian", gpu.upload(matrix, [cols, cols]));
	const context = {
		gpu,
		isNeeded: (name: string) => name === "ordered-factor",
		linears: [],
		get: store.get.bind(store),
		set: store.set.bind(store),
	};
	await (stage as GroupStage).run(context as unknown as GroupContext, { damping: 0.01 });
	assert.equal(store.find("factor"), undefined);
	const order = await gpu.read(store.get("column-order"), "u32");
	const places = await gpu.read(store.get("column-places"), "u32");
	const diagonal = (col: number) => matrix[col * cols + col] || 1;
	const expected = Array.from({ length: cols }, (_, i) => i)
		.sort((a, b) => diagonal(b) - diagonal(a) || a - b);
	assert.deepEqual([...order], expected);
	assert.deepEqual([...order].map((col) => places[col]), [...order.keys()]);
	const ordered = matrix.map((_, i) =>
		matrix[order[Math.floor(i / cols)] * cols + order[i % cols]]
	);
	const u = inverseFactorReference(damped(ordered, cols, 0.01), cols);
	const largest = u.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
	assertClose(await gpu.read(store.get("ordered-factor")), u, { abs: 1e-4 * largest });
	const costs = Float64Array.from({ length: cols }, (_, i) => u[i * cols + i] ** -2);
	assertClose(await gpu.read(store.get("ordered-costs")), costs, { rel: 1e-3 });
});

Deno.test("the stage reads back once, and says nothing, if f32 is enough", async () => {
	const hessian = nearlySingular(n);
	const { u, warnings, reads } = await runStage(gpu, hessian, 0.1);
	assertFactor(u, hessian, 0.1, 1e-5);
	assert.deepEqual({ warnings, reads }, { warnings: [], reads: 1 });
});

Deno.test({
	name: "the stage takes f64 where f32 is not enough, and warns",
	ignore: !gpu.f64,
	async fn() {
		const hessian = nearlySingular(n);
		const { u, warnings } = await runStage(gpu, hessian, 1e-9);
		assertFactor(u, hessian, 1e-9, 1e-6);
		assert.deepEqual(warnings, [
			`The Hessian of ${LAYERS} could not be factored in f32 with damping 1e-9; ` +
			"it was factored in f64",
		]);
	},
});

Deno.test("the stage raises the damping where there is no f64, and warns", async () => {
	const hessian = nearlySingular(n);
	const { u, warnings } = await runStage(noF64, hessian, 2e-9);
	const [, used] = /raised to (\S+)$/.exec(warnings[0])!;
	using tensor = noF64.upload(hessian, [n, n]);
	const { factor, cost, status } = await inverseFactor(noF64, tensor, Number(used));
	assert.deepEqual(u, await noF64.read(factor));
	noF64.free(factor, cost, status);
	assert(["2e-8", "2e-7", "0.000002", "0.00002", "0.0002"].includes(used), used);
	assert.deepEqual(warnings, [
		`The Hessian of ${LAYERS} could not be factored in f32 with damping 2e-9; ` +
		`it was factored in f32 with damping raised to ${used}`,
	]);
});

Deno.test("the stage gives up where ten times the mean is not enough, or without damping", async () => {
	const indefinite = nearlySingular(n);
	indefinite[1] = 1e6; // no damping up to ten times the mean, about 130, makes up for this
	const refused = (damping: number, used: number) =>
		assert.rejects(
			runStage(gpu, indefinite, damping),
			{
				name: "UserError",
				message: `The Hessian of ${LAYERS} cannot be factored: with damping ${used} it is not ` +
					`positive definite at column 0 of ${n}; use more damping or more calibration text`,
			},
		);
	await refused(0.3, 10);
	const zero = new Float32Array(n * n).map((_, at) => Number(at % (n + 1) === 0));
	zero[1] = 1;
	await assert.rejects(runStage(gpu, zero, 0), /with damping 0 it is not positive definite/);
	for (const value of [NaN, Infinity]) {
		const overflowed = nearlySingular(n);
		overflowed[3 * n + 3] = value;
		await assert.rejects(runStage(gpu, overflowed, 0.1), {
			name: "UserError",
			message: `The inputs of ${LAYERS} hold values that are NaN, or whose squares exceed what ` +
				"f32 holds; the model is damaged or of another kind than its config.json says",
		});
	}
});

Deno.test("the stage clears dead columns of the weights and of what they approximate", async () => {
	const dead = 7;
	const hessian = nearlySingular(n);
	for (let i = 0; i < n; i++) hessian[i * n + dead] = hessian[dead * n + i] = 0;
	using store = new ArtifactStore();
	store.set("hessian", gpu.upload(hessian, [n, n]));
	using original = gpu.upload(normals(2 * n, 1), [2, n]);
	using weight = gpu.upload(normals(2 * n, 2), [2, n]);
	const context = {
		gpu,
		linears: [{ name: "linear", original, weight }],
		isNeeded: () => false,
		emit: assert.fail,
		get: store.get.bind(store),
		set: store.set.bind(store),
	};
	await (stage as GroupStage).run(context as unknown as GroupContext, { damping: 0.1 });
	for (const tensor of [original, weight]) {
		const zeros = [...await gpu.read(tensor)].flatMap((value, i) => value === 0 ? [i % n] : []);
		assert.deepEqual(zeros, [dead, dead]);
	}
});
