/** Products whose matrices are stored in f16 or bf16. */
import assert from "node:assert/strict";
import type { Gpu } from "~/gpu/device.ts";
import { gemm, type GemmLayout, type Matrix } from "~/gpu/kernels/matmul/gemm.ts";
import type { Storage, Storages } from "~/gpu/kernels/matmul/gemm_source.ts";
import { assertClose } from "../../../assert_close.ts";
import { matmul, transposed } from "../../../reference/linear_algebra.ts";
import { uniforms } from "../../../reference/random.ts";
import { DEVICES, hardware } from "../../devices.ts";
import { gpu } from "../../gpu.ts";

const LAYOUTS: GemmLayout[] = ["NN", "NT", "TN"];

const F32: Storages = { a: "f32", b: "f32", c: "f32", r: "f32" };

const STORAGES: Storages[] = [
	{ ...F32, b: "f16" },
	{ ...F32, b: "bf16" },
	{ ...F32, a: "f16", r: "f16" },
	{ ...F32, a: "f16", b: "f16" },
	{ ...F32, a: "bf16", b: "bf16", c: "f16" },
	{ a: "f16", b: "f16", c: "f16", r: "f16" },
	{ ...F32, c: "f16", r: "bf16" },
];

// Whole tiles in even and odd numbers of steps, parts of tiles, and rows that are not aligned.
const SIZES = [[64, 128, 64], [128, 64, 16], [66, 68, 20], [5, 4, 36], [7, 9, 11]];
const [PAIRED, WHOLE, PART, , UNALIGNED] = SIZES;

// A software adapter takes seconds to compile a tile kernel that widens: not all there are.
const TILE_CASES: [layout: GemmLayout, storages: Storages, sizes: number[][]][] = [
	["NT", STORAGES[0], [PAIRED, PART, UNALIGNED]],
	["NT", STORAGES[1], [WHOLE]],
	["NT", STORAGES[5], [PAIRED]],
	["NN", STORAGES[1], [PAIRED]],
	["NN", STORAGES[6], [PART]],
	["TN", STORAGES[3], [PAIRED, PART]],
];

interface Placed extends Required<Matrix> {
	values: Float32Array;
	rows: number;
	cols: number;
}

/** Bit patterns, and the values that they stand for. */
function stored(values: Float32Array, storage: Storage): [ArrayBufferView, Float32Array] {
	if (storage === "f32") return [values, values];
	if (storage === "f16") {
		const halves = new Float16Array(values);
		return [halves, Float32Array.from(halves)];
	}
	const words = new Uint32Array(values.slice().buffer).map((word) => word & 0xffff0000);
	return [Uint16Array.from(words, (word) => word >>> 16), new Float32Array(words.buffer)];
}

/** A matrix that begins behind other values and whose rows have a gap. */
function place(gpu: Gpu, rows: number, cols: number, storage: Storage, seed: number): Placed {
	const start = 4 + Number(cols % 4 > 0);
	const stride = cols + 4;
	const all = uniforms(start + rows * stride, seed);
	const [bits, back] = stored(all, storage);
	const values = new Float32Array(rows * cols);
	for (let i = 0; i < rows; i++) {
		const first = start + i * stride;
		values.set(back.subarray(first, first + cols), i * cols);
	}
	return { tensor: gpu.upload(bits, [all.length], storage), start, stride, values, rows, cols };
}

async function readAll(gpu: Gpu, { tensor }: Matrix): Promise<Float32Array> {
	if (tensor.dtype === "f32") return await gpu.read(tensor);
	const { buffer } = await gpu.readBytes(tensor);
	return Float32Array.from(new Float16Array(buffer, 0, tensor.size));
}

async function check(
	gpu: Gpu,
	layout: GemmLayout,
	[m, n, k]: number[],
	{ a: aStorage, b: bStorage, c: cStorage, r: rStorage }: Storages,
	{ residual = false, accumulate = false, alpha = 1 } = {},
): Promise<void> {
	const a = layout === "TN" ? place(gpu, k, m, aStorage, 1) : place(gpu, m, k, aStorage, 1);
	const b = layout === "NT" ? place(gpu, n, k, bStorage, 2) : place(gpu, k, n, bStorage, 2);
	const c = place(gpu, m, n, cStorage, 3);
	const r = place(gpu, m, n, rStorage, 4);
	const before = await readAll(gpu, c);
	const call = { layout, m, n, k, a, b, c, alpha, accumulate };
	await gemm(gpu, { ...call, residual: residual ? r : undefined });
	const product = matmul(
		layout === "TN" ? transposed(a.values, k, m) : a.values,
		layout === "NT" ? transposed(b.values, n, k) : b.values,
		m,
		n,
		k,
	);
	const expected = before.slice(); // what lies around C stays
	for (let i = 0; i < m; i++) {
		for (let j = 0; j < n; j++) {
			const at = c.start + i * c.stride + j;
			let value = alpha * product[i * n + j];
			if (residual) value += r.values[i * n + j];
			if (accumulate) value += before[at];
			expected[at] = value;
		}
	}
	const actual = await readAll(gpu, c);
	gpu.free(a.tensor, b.tensor, c.tensor, r.tensor);
	assertClose(actual, expected, {
		abs: (k + 4) * 2 ** -23 * Math.abs(alpha) + (cStorage === "f16" ? 2 ** -24 : 0),
		rel: cStorage === "f16" ? 2 ** -11 : 0, // half of an f16's last digit
		what: `${layout} ${[m, n, k]} ${[aStorage, bStorage, cStorage, rStorage]}`,
	});
}

for (const layout of LAYOUTS) {
	Deno.test(`gemm() that suits the adapter, ${layout}, takes f16 and bf16`, async () => {
		for (const storages of STORAGES) {
			for (const size of SIZES) {
				if (storages.c === "f16" && size.some((length) => length % 4)) continue;
				await check(gpu, layout, size, storages);
			}
			const extras = { residual: true, accumulate: true, alpha: -0.5 };
			await check(gpu, layout, [64, 68, 32], storages, extras);
			await check(gpu, layout, [64, 64, 32], storages, { residual: true });
		}
	});
}

for (const [layout, storages, sizes] of TILE_CASES) {
	const name = `${layout}, takes ${Object.values(storages)}`;
	Deno.test(`gemm() that suits GPUs, ${name}`, async () => {
		for (const size of sizes) {
			await check(hardware, layout, size, storages);
			const extras = { residual: true, accumulate: true, alpha: -0.5 };
			await check(hardware, layout, size, storages, extras);
		}
	});
}

for (const { kernels, gpu } of DEVICES) {
	Deno.test(`gemm() with ${kernels} writes the largest f16 in place of what is beyond it`, async () => {
		using a = gpu.upload(Float32Array.of(300, -300, 1, 0), [1, 4]);
		using b = gpu.upload(Float32Array.of(300, 1, 0, 218), [1, 4]);
		using c = gpu.empty([4, 4], "f16");
		await gemm(gpu, { layout: "TN", m: 4, n: 4, k: 1, a, b, c });
		assertClose(await readAll(gpu, { tensor: c }), [
			...[65504, 300, 0, 65408], // 300 · 218 lies between two f16 numbers
			...[-65504, -300, 0, -65408],
			...[300, 1, 0, 218],
			...[0, 0, 0, 0],
		]);
	});

	Deno.test(`gemm() with ${kernels} refuses an f16 result whose rows do not come in fours`, async () => {
		using a = gpu.zeros([4, 4]);
		using c = gpu.empty([4, 5], "f16");
		await assert.rejects(
			gemm(gpu, { layout: "NN", m: 4, n: 4, k: 4, a, b: a, c }),
			new RangeError("Cannot write a product in f16 unless all rows come in fours"),
		);
	});
}
