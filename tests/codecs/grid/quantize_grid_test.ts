import { bitWords } from "~/base/bits.ts";
import assert from "node:assert/strict";
import { dequantizeGrid } from "~/codecs/grid/dequantize_grid.ts";
import { downloadGrid } from "~/codecs/grid/draft.ts";
import { emptyGrid, freeGrid, type GridLayout, groupsOf } from "~/codecs/grid/grid.ts";
import { quantizeGrid } from "~/codecs/grid/quantize_grid.ts";
import { dequantizeGridHost } from "~/codecs/grid/store.ts";
import type { Gpu } from "~/gpu/device.ts";
import { assertClose } from "../../assert_close.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { fitGridReference, gridValues, nearestCode } from "../../reference/grid.ts";
import { normals, seededRandom } from "../../reference/random.ts";

type Mode = "plain" | "factor" | "feedback";

/** An upper triangular U with a diagonal near 1. */
function makeFactor(n: number): Float32Array {
	const factor = normals(n * n, n, 0.3 / Math.sqrt(n));
	for (let i = 0; i < n; i++) {
		factor.fill(0, i * n, i * n + i);
		factor[i * n + i] = 0.7 + Math.abs(factor[i * n + i]);
	}
	return factor;
}

async function check(gpu: Gpu, layout: GridLayout, blockSize: number, mode: Mode): Promise<void> {
	const { rows, cols, groupSize, grid, bits, salient } = layout;
	const weight = normals(rows * cols, 10 * rows + cols, 0.1);
	weight.fill(0, 0, cols);
	const [words, groups] = [bitWords(layout.cols), groupsOf(layout)];
	const random = seededRandom(cols);
	const mask = new Uint32Array(rows * words);
	for (let i = 0; salient && i < rows * cols; i++) {
		const [row, col] = [Math.floor(i / cols), i % cols];
		if (random() < 0.15) mask[row * words + (col >> 5)] |= 1 << (col & 31);
	}
	const isSalient = (row: number, col: number) =>
		((mask[row * words + (col >> 5)] >>> (col & 31)) & 1) === 1;
	const rowOf = (row: number) => [...weight.subarray(row * cols, (row + 1) * cols)];
	const grids = Array.from({ length: rows * groups }, (_, i) => {
		const first = i % groups * groupSize;
		const all = rowOf(Math.floor(i / groups)).slice(first, first + groupSize);
		return fitGridReference(grid, bits, all);
	});
	const ranges = Array.from({ length: rows }, (_, row) => fitGridReference("range", 8, rowOf(row)));
	const flat = (list: { scale: number; offset: number }[]) =>
		Float32Array.from(list.flatMap(({ scale, offset }) => [scale, offset]));
	const factor = makeFactor(cols);

	const empty = emptyGrid(gpu, layout);
	gpu.free(empty.fits, ...(empty.mask ? [empty.mask, empty.salientFits!] : []));
	const linear = {
		...empty,
		fits: gpu.upload(flat(grids), [rows, groups, 2]),
		...(salient && {
			mask: gpu.upload(mask, [rows, words]),
			salientFits: gpu.upload(flat(ranges), [rows, 2]),
		}),
	};
	using factorTensor = gpu.upload(factor, [cols, cols]);
	using quantizedTensor = gpu.empty([rows, cols]);
	const errors = new Float32Array(rows * cols);
	for (let first = 0; first < cols; first += blockSize) {
		const width = Math.min(blockSize, cols - first);
		const block = Float32Array.from(
			{ length: rows * width },
			(_, i) => weight[Math.floor(i / width) * cols + first + i % width],
		);
		using blockTensor = gpu.upload(block, [rows, width]);
		using error = await quantizeGrid(
			gpu,
			{
				first,
				weight: blockTensor,
				group: Math.floor(first / groupSize),
				factor: mode === "plain" ? undefined : factorTensor,
				feedback: mode === "feedback",
			},
			linear,
			quantizedTensor,
		);
		if (mode === "plain") continue;
		const found = await gpu.read(error);
		for (let row = 0; row < rows; row++) {
			const part = found.subarray(row * width, (row + 1) * width);
			errors.set(part, row * cols + first);
		}
	}
	const quantized = await gpu.read(quantizedTensor);
	const host = await downloadGrid(linear);
	using again = await dequantizeGrid(gpu, linear);
	freeGrid(gpu, linear);

	const expectedErrors = new Float64Array(rows * cols);
	for (let row = 0; row < rows; row++) {
		const left = rowOf(row); // what is left to quantize, in f64, with the values the device chose
		for (let col = 0; col < cols; col++) {
			const where = `${JSON.stringify(layout)}, ${mode}, row ${row}, column ${col}`;
			const at = row * cols + col;
			const values = isSalient(row, col)
				? gridValues("range", 8, ranges[row])
				: gridValues(grid, bits, grids[row * groups + Math.floor(col / groupSize)]);
			const nearest = Math.fround(values[nearestCode(left[col], values)]);
			if (quantized[at] !== nearest) { // but for ties, which f32 may tip
				const excess = Math.abs(left[col] - quantized[at]) - Math.abs(left[col] - nearest);
				assert.ok(Math.abs(excess) < 1e-6, `${where}: ${quantized[at]}, expected ${nearest}`);
				assert.ok(values.some((value) => Math.fround(value) === quantized[at]), where);
			}
			const error = (left[col] - quantized[at]) / factor[col * cols + col];
			expectedErrors[at] = error;
			if (mode !== "feedback") continue;
			const end = Math.min((Math.floor(col / blockSize) + 1) * blockSize, cols);
			for (let k = col + 1; k < end; k++) left[k] -= error * factor[col * cols + k];
		}
	}
	if (mode !== "plain") {
		assertClose(errors, expectedErrors, { abs: 1e-5, what: "errors" }); // f32 sums of 128 terms of 0.01
	}
	assert.deepEqual(await gpu.read(again), quantized, "the codes stand for the same values, GPU");
	assert.deepEqual(
		dequantizeGridHost(host),
		quantized,
		"the codes stand for the same values, host",
	);
	assert.deepEqual(dequantizeGridHost(host, 2, 3), quantized.subarray(2 * cols, 5 * cols));
}

for (const { kernels, gpu } of DEVICES) {
	for (const mode of ["plain", "factor", "feedback"] as const) {
		for (const bits of [1, 2, 3, 4, 8] as const) {
			Deno.test(`quantizeGrid(), ${mode}: range of ${bits} bits, ${kernels}`, async () => {
				const form = { grid: "range", bits, salient: false } as const;
				await check(gpu, { rows: 19, cols: 75, groupSize: 32, ...form }, 32, mode);
				await check(gpu, { rows: 33, cols: 200, groupSize: 200, ...form }, 128, mode);
			});
		}
		for (const grid of ["mean", "sign"] as const) {
			Deno.test(`quantizeGrid(), ${mode}: ${grid}, ${kernels}`, async () => {
				const form = { grid, bits: 1 } as const;
				await check(gpu, { rows: 19, cols: 75, groupSize: 32, ...form, salient: false }, 32, mode);
				await check(gpu, { rows: 19, cols: 75, groupSize: 75, ...form, salient: true }, 32, mode);
				await check(
					gpu,
					{ rows: 33, cols: 300, groupSize: 256, ...form, salient: true },
					256,
					mode,
				);
			});
		}
	}
	Deno.test(`quantizeGrid(): salient weights among those of 3 bits, ${kernels}`, async () => {
		const form = { grid: "range", bits: 3, salient: true } as const;
		await check(gpu, { rows: 5, cols: 40, groupSize: 32, ...form }, 32, "feedback");
	});
}
