import assert from "node:assert/strict";
import { markLiveColumns, zeroUnmarkedColumns } from "~/gpu/kernels/rotation/dead_columns.ts";
import { transformInput, transformRows, undoTransform } from "~/gpu/kernels/rotation/rotate.ts";
import {
	type InputTransform,
	isNegative,
	runFor,
	signStart,
	transformOnHost,
	undoOnHost,
} from "~/gpu/kernels/rotation/rotation.ts";
import { assertClose } from "../../../assert_close.ts";
import { normals } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

/** Rows times the matrix R itself, in f64: R_ij = ±1 / sqrt(block) · s_j inside a run. */
function reference(
	x: ArrayLike<number>,
	cols: number,
	{ rotation, exponent = 0 }: InputTransform,
	undo = false,
): Float64Array {
	const { seed, block } = rotation ?? { seed: 0, block: 1 };
	const sign = (col: number) => rotation && isNegative(signStart(seed), col) ? -1 : 1;
	const parity = (bits: number) => bits.toString(2).replaceAll("0", "").length % 2;
	return Float64Array.from({ length: x.length }, (_, at) => {
		const col = at % cols;
		const run = col - col % block;
		let total = 0;
		for (let j = 0; j < block; j++) {
			const entry = (parity((col - run) & j) ? -1 : 1) * sign(undo ? col : run + j);
			total += entry * x[at - col + run + j];
		}
		return total / Math.sqrt(block) * 2 ** exponent;
	});
}

/** Widths and transforms with runs that fill chunks, straddle rows, and none at all. */
const CASES: { rows: number; cols: number; transform: InputTransform }[] = [
	{ rows: 3, cols: 576, transform: { rotation: { seed: 0, block: 64 } } },
	{ rows: 5, cols: 144, transform: { rotation: { seed: 7, block: 16 }, exponent: -5 } },
	{ rows: 2, cols: 1536, transform: { rotation: { seed: 4294967295, block: 512 } } },
	{ rows: 7, cols: 384, transform: { rotation: { seed: 1, block: 128 }, exponent: 3 } },
	{ rows: 9, cols: 90, transform: { exponent: 23 } },
];

Deno.test("signs are those of the seed", () => {
	const signs = (seed: number) =>
		Array.from({ length: 32 }, (_, col) => isNegative(signStart(seed), col) ? "-" : "+").join("");
	assert.equal(signs(0), "++-+-+---+-+-+--++++++-+++++---+");
	assert.equal(signs(1), "+-+++--++++++---+++--+++---++--+");
	assert.equal(signs(7), "--+--++---+-+-+-+-++-++---+++---");
});

Deno.test("the run is the largest power of two that divides the width, up to the wanted one", () => {
	assert.deepEqual([576, 1536, 11008, 4864].map((width) => runFor(width, 512)), [
		64,
		512,
		256,
		256,
	]);
	assert.deepEqual([576, 48, 100, 72].map((width) => runFor(width, 64)), [
		64,
		16,
		undefined,
		undefined,
	]);
});

Deno.test("rotating and undoing agree with the matrix R; host and GPU have the same bits", async () => {
	for (const { rows, cols, transform } of CASES) {
		const values = normals(rows * cols, 3);
		values[1] = 0; // becomes -0 under a negative sign
		const label = JSON.stringify(transform);
		for (const undo of [false, true]) {
			const host = values.slice();
			(undo ? undoOnHost : transformOnHost)(host, cols, transform);
			using matrix = gpu.upload(values, [rows, cols]);
			await (undo ? undoTransform : transformRows)(gpu, matrix, transform);
			assert.deepEqual(await gpu.read(matrix), host, label);
			assertClose(host, reference(values, cols, transform, undo), {
				abs: 2e-6 * 2 ** (transform.exponent ?? 0),
				what: label,
			});
			if (undo) continue;
			using x = gpu.upload(values, [rows, cols]);
			using rotated = await transformInput(gpu, x, cols, transform);
			assert.deepEqual(rotated.shape, [rows, cols]);
			assert.deepEqual(await gpu.read(rotated), host, label);
			undoOnHost(host, cols, { ...transform, exponent: -(transform.exponent ?? 0) });
			assertClose(host, values, { abs: 2e-6, what: `${label} and back` });
		}
	}
});

Deno.test("the functions of a vector are computed before it is rotated", async () => {
	const cols = 576;
	const transform = { rotation: { seed: 5, block: 64 } };
	const values = normals(2 * cols + 32, 4);
	const weights = normals(cols, 5);
	const x = values.slice(0, cols);
	using vector = gpu.upload(x, [1, cols]);
	using weight = gpu.upload(weights, [cols]);
	const root = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / cols + 1e-3);
	using norm = await transformInput(gpu, vector, cols, transform, {
		op: "rms",
		weight,
		epsilon: 1e-3,
	});
	const normed = Float64Array.from(x, (v, i) => v / root * weights[i]);
	assertClose(await gpu.read(norm), reference(normed, cols, transform), { abs: 4e-6 });
	const silu = (v: number) => v / (1 + Math.exp(-v));
	const plain = { op: "activation", name: "silu" } as const;
	using active = await transformInput(gpu, vector, cols, transform, plain);
	assertClose(await gpu.read(active), reference(Float64Array.from(x, silu), cols, transform), {
		abs: 4e-6,
	});
	const up = cols + 32;
	using both = gpu.upload(values, [1, up + cols]);
	using gated = await transformInput(gpu, both, cols, transform, { ...plain, up });
	assert.deepEqual(gated.shape, [1, cols]);
	const products = Float64Array.from(x, (v, i) => silu(v) * values[up + i]);
	assertClose(await gpu.read(gated), reference(products, cols, transform), { abs: 4e-6 });
});

Deno.test("columns whose input is always zero are found in several batches, and zeroed", async () => {
	const [rows, cols] = [5, 70];
	using live = gpu.zeros([cols], "u32");
	for (const batch of [0, 1]) {
		const x = new Float32Array(rows * cols);
		for (let col = 0; col < cols; col++) {
			if (col % 3 === batch) x[(col % rows) * cols + col] = col % 2 ? -1e-30 : 2;
			else if (col % 3 === 2) x[col] = -0;
		}
		using input = gpu.upload(x, [rows, cols]);
		await markLiveColumns(gpu, input, live);
	}
	const values = normals(rows * cols, 6);
	using weight = gpu.upload(values, [rows, cols]);
	await zeroUnmarkedColumns(gpu, live, weight);
	assert.deepEqual(
		await gpu.read(weight),
		values.map((value, at) => at % cols % 3 === 2 ? 0 : value),
	);
});
