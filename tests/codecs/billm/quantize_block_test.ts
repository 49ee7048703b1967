import assert from "node:assert/strict";
import { dequantize } from "~/codecs/billm/dequantize.ts";
import {
	type BillmLayout,
	bitPlanes,
	emptyBits,
	quantizeBlock,
	scalesPerBlock,
} from "~/codecs/billm/quantize_block.ts";
import type { Gpu } from "~/gpu/device.ts";
import { assertClose } from "../../assert_close.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { openGpu } from "../../gpu/open_gpu.ts";
import {
	fitPlane,
	fitPlanes,
	nearestValue,
	quantizeWeight,
	type RowFits,
	rowsOf,
} from "../../reference/billm.ts";
import { normals, seededRandom } from "../../reference/random.ts";

interface Mode {
	factor: boolean;
	feedback: boolean;
	nearest: boolean;
}

const MODES: Mode[] = [
	{ factor: false, feedback: false, nearest: false },
	{ factor: true, feedback: false, nearest: false },
	{ factor: true, feedback: true, nearest: false },
	{ factor: false, feedback: false, nearest: true },
	{ factor: true, feedback: true, nearest: true },
];

/** Weights of a layer with rows of zeros, constant, tiny and huge ones, if there are enough. */
function makeWeight(rows: number, cols: number): Float32Array {
	const weight = normals(rows * cols, 10 * rows + cols);
	const scaleRow = (row: number, factor: number) => {
		for (let i = row * cols; i < (row + 1) * cols; i++) weight[i] *= factor;
	};
	if (rows < 6) return weight;
	weight.fill(0, 0, cols).fill(0.3, cols, 2 * cols);
	scaleRow(2, 1e-6); // scales become subnormal f16
	scaleRow(3, 3e5); // scales are beyond the largest f16
	return weight;
}

/** An upper triangular U with a diagonal near 1. */
function makeFactor(n: number): Float32Array {
	const factor = normals(n * n, n, 0.3 / Math.sqrt(n));
	for (let i = 0; i < n; i++) {
		factor.fill(0, i * n, i * n + i);
		factor[i * n + i] = 0.7 + Math.abs(factor[i * n + i]);
	}
	return factor;
}

/** The bits of a block's columns; what the bits of salient columns say must not matter. */
function makeZones(rows: number, cols: number, seed: number) {
	const words = Math.ceil(cols / 32);
	const random = seededRandom(seed);
	const zones = Uint32Array.from({ length: rows * words }, () => random() * 2 ** 32);
	if (rows > 5) {
		zones.fill(0, 4 * words, 5 * words); // row 4 has no high zone, row 5 no low one
		zones.fill(0xffffffff, 5 * words, 6 * words);
	}
	const zoneOf = (row: number, col: number) =>
		(zones[row * words + Math.floor(col / 32)] >>> (col % 32)) & 1;
	return { zones, words, zoneOf };
}

/** The nearest f16; the largest one stands for everything beyond it. */
function nearestHalf(value: number): number {
	return Math.f16round(Math.min(Math.max(value, -65504), 65504));
}

/** Half of an f16's last place, and what f32 loses in the sum of the salient means. */
function assertStored(actual: Float32Array, found: number[], what: string): void {
	assert.deepEqual(actual, actual.map(Math.f16round), `${what} are f16`);
	const clamped = found.map((value) => Math.min(Math.max(value, -65504), 65504));
	assertClose(actual, clamped, { abs: 2 ** -25 + 1e-12, rel: 2 ** -11 + 1e-6, what });
}

async function check(gpu: Gpu, layout: BillmLayout, mode: Mode): Promise<void> {
	const { rows, cols, blockSize, zones: zoneCount, planes } = layout;
	const what = JSON.stringify({ ...layout, ...mode });
	const weight = makeWeight(rows, cols);
	const factor = makeFactor(cols);
	using factorTensor = gpu.upload(factor, [cols, cols]);
	const target = emptyBits(gpu, layout);
	using quantizedTensor = gpu.empty([rows, cols]);
	const random = seededRandom(cols + planes);
	const salient = Uint32Array.from({ length: cols }, () => Number(planes > 0 && random() < 0.2));
	if (planes > 0 && cols > blockSize) salient.fill(0, 0, blockSize); // a block without any

	const blocks = [];
	for (let first = 0; first < cols; first += blockSize) {
		const width = Math.min(blockSize, cols - first);
		const block = Float32Array.from(
			{ length: rows * width },
			(_, i) => weight[Math.floor(i / width) * cols + first + i % width],
		);
		const flags = salient.slice(first, first + width);
		const { zones, words, zoneOf } = makeZones(rows, width, first + 1);
		const matrix = rowsOf(block, width);
		const zoneFits = matrix.map((row, r) =>
			Array.from({ length: zoneCount }, (_, zone) =>
				fitPlane(
					row.filter((_, c) => !flags[c] && (zoneCount === 1 || zoneOf(r, c) === zone))
						.map((w) => Math.fround(w)),
				))
		);
		const salientFits = matrix.map((row) =>
			fitPlanes(row.filter((_, c) => flags[c] === 1), planes)
		);
		const upload = (fits: { mean: number; scale: number }[][]) =>
			gpu.upload(
				Float32Array.from(fits.flat().flatMap(({ mean, scale }) => [mean, scale])),
				[rows, 2 * fits[0].length],
			);
		using blockTensor = gpu.upload(block, [rows, width]);
		using flagTensor = gpu.upload(flags, [width]);
		using zoneTensor = gpu.upload(zones, [rows, words]);
		using zoneFitTensor = upload(zoneFits);
		using salientFitTensor = planes > 0 ? upload(salientFits) : undefined;
		using error = await quantizeBlock(
			gpu,
			{
				first,
				weight: blockTensor,
				salient: flagTensor,
				salientFit: salientFitTensor,
				zones: zoneCount === 2 ? zoneTensor : undefined,
				zoneFits: zoneFitTensor,
				factor: mode.factor ? factorTensor : undefined,
				feedback: mode.feedback,
				nearest: mode.nearest,
			},
			target,
			quantizedTensor,
		);
		assert.deepEqual(error.shape, [rows, width]);
		const errors = await gpu.read(error);
		blocks.push({ first, width, matrix, flags, zoneOf, zoneFits, salientFits, errors });
	}

	const quantized = await gpu.read(quantizedTensor);
	const scales = await gpu.read(target.scales);
	const perBlock = scalesPerBlock(layout);
	blocks.forEach(({ first, width, matrix, flags, zoneOf, zoneFits, salientFits, errors }, b) => {
		matrix.forEach((row, r) => {
			const where = `${what}, block ${b}, row ${r}`;
			const stored = scales.subarray((r * blocks.length + b) * perBlock).subarray(0, perBlock);
			const center = salientFits[r].reduce((sum, { mean }) => sum + mean, 0);
			const found = [
				...zoneFits[r].flatMap(({ mean, scale }) => [mean, scale]),
				...(planes > 0 ? [center, ...salientFits[r].map(({ scale }) => scale)] : []),
			];
			assertStored(stored, found, `${where}, scales`);
			const fits: RowFits = {
				zones: zoneFits[r],
				salient: salientFits[r],
				storedZones: zoneFits[r].map((_, z) => ({ mean: stored[2 * z], scale: stored[2 * z + 1] })),
				storedCenter: stored[2 * zoneCount],
				storedScales: [...stored.subarray(2 * zoneCount + 1)],
			};
			const size = Math.max(...row.map(Math.abs), 1e-9);
			const left = [...row]; // what is left to quantize, in f64, with the values the device chose
			const values = quantized.subarray(r * cols + first).subarray(0, width);
			const expectedErrors = new Float64Array(width);
			const expected = values.map((q, c) => {
				const w = left[c];
				const isSalient = flags[c] === 1;
				const zone = zoneCount === 2 ? zoneOf(r, c) : 0;
				const at = (first + c) * cols + first;
				const e = (w - q) / factor[at + c];
				expectedErrors[c] = e;
				if (mode.feedback) { for (let k = c + 1; k < width; k++) left[k] -= e * factor[at + k]; }
				// Rounding may tip a weight that lies on a boundary.
				const nudge = 1e-5 * size;
				const allowed = [w, w - nudge, w + nudge].map((near) =>
					mode.nearest
						? nearestValue(near, isSalient, fits)
						: quantizeWeight(near, isSalient, zone, fits)
				);
				return allowed.find((value) => Math.abs(value - q) <= 1e-6 * size) ?? allowed[0];
			});
			assertClose(values, expected, { abs: 1e-6 * size, what: `${where}, values` });
			if (mode.factor) {
				const actual = errors.subarray(r * width, (r + 1) * width);
				assertClose(actual, expectedErrors, { abs: 1e-5 * size, what: `${where}, errors` });
			}
		});
	});

	assert.deepEqual(await gpu.read(target.salient, "u32"), salient);
	const marks = new Uint32Array(Math.ceil(cols / 32));
	salient.forEach((flag, c) => marks[Math.floor(c / 32)] |= flag << (c % 32));
	using markTensor = gpu.upload(marks, [marks.length]);
	using again = await dequantize(gpu, layout, target.bits, target.scales, markTensor);
	assert.deepEqual(await gpu.read(again), quantized, `${what}: the bits give back the values`);
	const bits = await gpu.read(target.bits, "u32");
	assert.equal(bits.length, bitPlanes(layout) * rows * marks.length);
	if (cols % 32 > 0) {
		const beyond = bits.filter((_, i) => i % marks.length === marks.length - 1)
			.map((word) => word >>> (cols % 32));
		assert(beyond.every((word) => word === 0), `${what}: bits beyond the last column are 0`);
	}
	gpu.free(target.bits, target.scales, target.salient);
}

/** Layers of [rows, cols] in blocks, two for each size of blocks, with last blocks of many widths. */
const SHAPES = [
	[[33, 32 + 5, 32], [1, 64 + 33, 32]],
	[[16, 2 * 64 + 1, 64], [17, 64 + 2, 64]],
	[[31, 128 + 100, 128], [6, 128 + 31, 128]],
	[[7, 256 + 33, 256], [2, 100, 256]],
];

for (const { kernels, gpu } of DEVICES) {
	for (const zones of [1, 2] as const) {
		for (const planes of [0, 1, 2, 3, 4]) {
			Deno.test(`quantizeBlock() with ${kernels}, ${zones} zones, ${planes} planes`, async () => {
				for (const mode of MODES) {
					// Each size of blocks has kernels of its own, which take long to compile: the forms take
					// turns, so that each mode meets all sizes.
					const turn = 5 * zones + planes + MODES.indexOf(mode);
					for (const [rows, cols, blockSize] of SHAPES[turn % SHAPES.length]) {
						await check(gpu, { rows, cols, blockSize, zones, planes }, mode);
					}
				}
			});
		}
	}
}

Deno.test("quantizeBlock() takes a weight on its mean for positive", async () => {
	const gpu = await openGpu();
	const layout: BillmLayout = { rows: 1, cols: 6, blockSize: 32, zones: 1, planes: 1 };
	for (const nearest of [false, true]) {
		const target = emptyBits(gpu, layout);
		using quantized = gpu.empty([1, 6]);
		using weight = gpu.upload(Float32Array.of(-1, 0.5, 2, -1, 0.5, 2), [1, 6]);
		using salient = gpu.upload(Uint32Array.of(0, 0, 0, 1, 1, 1), [6]);
		using fit = gpu.upload(Float32Array.of(0.5, 1), [1, 2]);
		const input = { first: 0, weight, salient, salientFit: fit, zoneFits: fit, nearest };
		using _error = await quantizeBlock(gpu, input, target, quantized);
		const expected = [-0.5, 1.5, 1.5, -0.5, 1.5, 1.5];
		if (nearest) expected[4] = (await gpu.read(quantized))[4]; // both are as near
		assertClose(await gpu.read(quantized), expected);
		gpu.free(target.bits, target.scales, target.salient);
	}
});

Deno.test("quantizeBlock() stores the nearest f16, of two as near the even one", async () => {
	const gpu = await openGpu();
	const random = seededRandom(1);
	const half = (bits: number) => new Float16Array(Uint16Array.of(bits).buffer)[0];
	const numbers = [
		0,
		-0,
		65504,
		65519,
		65520,
		1e6,
		3e38,
		2 ** -24,
		2 ** -25,
		1.5 * 2 ** -24,
		1e-30,
	];
	for (let i = 0; i < 500; i++) {
		const bits = Math.floor(random() * 0x7bff);
		const [below, above] = [half(bits), half(bits + 1)];
		const middle = (below + above) / 2;
		numbers.push(below, middle, middle * (1 + 2 ** -23), middle * (1 - 2 ** -23));
	}
	const values = Float32Array.from(numbers.flatMap((value) => [value, -value]));
	const rows = values.length / 2;
	const layout: BillmLayout = { rows, cols: 1, blockSize: 32, zones: 1, planes: 0 };
	const target = emptyBits(gpu, layout);
	using weight = gpu.zeros([rows, 1]);
	using salient = gpu.zeros([1], "u32");
	using quantized = gpu.empty([rows, 1]);
	using zoneFits = gpu.upload(values, [rows, 2]); // means and scales
	using _error = await quantizeBlock(
		gpu,
		{ first: 0, weight, salient, zoneFits },
		target,
		quantized,
	);
	assertClose(await gpu.read(target.scales), Array.from(values, nearestHalf));
	gpu.free(target.bits, target.scales, target.salient);
});
