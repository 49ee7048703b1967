import assert from "node:assert/strict";
import { fitArbRows, fitArbScales } from "~/codecs/arb/fit_scales.ts";
import { splitSalient } from "~/gpu/kernels/binarize/salient_zones.ts";
import { assertClose } from "../../assert_close.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { arbRowReference, arbScalesReference, halvesError } from "../../reference/arb.ts";
import { binarize, rowsOf } from "../../reference/billm.ts";
import { normals, uniforms } from "../../reference/random.ts";

/** A block of normal numbers, every fifth column salient, large magnitudes in the high zone. */
function makeBlock(rows: number, cols: number, bitmap: boolean) {
	const values = normals(rows * cols, rows + cols);
	const salient = Array.from({ length: cols }, (_, j) => Number(j % 5 === 1));
	const weight = rowsOf(values, cols);
	const zones = weight.map((row) =>
		row.map((w, j) => Number(Math.abs(w) > 0.9 && (bitmap || !salient[j])))
	);
	const costs = uniforms(cols, rows, 0.2, 3);
	const words = Math.ceil(cols / 32);
	const bits = new Uint32Array(rows * words);
	zones.forEach((row, i) => row.forEach((z, j) => bits[i * words + (j >> 5)] |= z << (j & 31)));
	return { values, salient, weight, zones, costs, bits, words };
}

function bitsOf(plane: Uint32Array, rows: number, cols: number): number[][] {
	const words = Math.ceil(cols / 32);
	return Array.from(
		{ length: rows },
		(_, i) =>
			Array.from({ length: cols }, (_, j) => (plane[i * words + (j >> 5)] >>> (j & 31)) & 1),
	);
}

// The devices take turns at the forms, each of which has kernels of its own.
for (const [turn, { kernels, gpu }] of DEVICES.entries()) {
	Deno.test(`scales of rows and columns with ${kernels} agree with f64`, async () => {
		const forms = [
			{ rows: 37, cols: 40, bitmap: false, nearest: false },
			{ rows: 20, cols: 33, bitmap: true, nearest: false },
			{ rows: 37, cols: 40, bitmap: true, nearest: true },
		];
		for (const { rows, cols, bitmap, nearest } of forms.filter((_, i) => i % 2 === turn)) {
			const block = makeBlock(rows, cols, bitmap);
			const { values, salient, zones, costs, bits, words } = block;
			const expected = arbScalesReference({ ...block, bitmap, nearest }, 4);
			using weight = gpu.upload(values, [rows, cols]);
			using marks = gpu.upload(Uint32Array.from(salient), [cols]);
			using cost = gpu.upload(costs, [cols]);
			using zone = gpu.upload(bits, [rows, words]);
			const input = { weight, salient: marks, costs: cost, zones: zone, bitmap, size: 64 };
			const fit = await fitArbScales(gpu, input, 4, nearest);
			const what = JSON.stringify({ rows, cols, bitmap, nearest });
			const rowFits = expected.r.flatMap(([ordinary, special]) => [
				...ordinary.map(([scale]) => scale),
				...special.flat(),
			]);
			assertClose(await gpu.read(fit.rowFits), rowFits, { abs: 1e-5, rel: 2e-5, what });
			const columns = await gpu.read(fit.colScales);
			expected.c.forEach((own, j) => {
				const wanted = salient[j] ? own[1].flat() : own[0].map(([scale]) => scale);
				const used = wanted.slice(0, salient[j] && !bitmap ? 2 : wanted.length);
				const found = columns.slice(4 * j, 4 * j + used.length);
				assertClose(found, used, { rel: 5e-5, what: `${what}, column ${j}` });
			});
			if (!nearest) {
				const signs = await gpu.read(fit.signs, "u32");
				const plane = (k: number) => bitsOf(signs.subarray(k * rows * words), rows, cols);
				const of = (k: number) =>
					expected.signs.map((row) =>
						row.map((own, j) => Number(own[k] > 0 && (k === 0 || salient[j])))
					);
				assert.deepEqual(plane(0), of(0), what);
				assert.deepEqual(plane(1), of(1).map((row) => row.map(Number)), what);
				assert.deepEqual(bitsOf(await gpu.read(zone, "u32"), rows, cols), zones, what);
			}
			gpu.free(fit.signs, fit.rowFits, fit.colScales);
		}
	});

	Deno.test(`means and scales of rows, fitted to the output, with ${kernels} agree with f64`, async () => {
		const forms = [
			{ rows: 9, cols: 40, bitmap: false, nearest: false },
			{ rows: 5, cols: 33, bitmap: true, nearest: false },
			{ rows: 9, cols: 40, bitmap: true, nearest: true },
		];
		for (const { rows, cols, bitmap, nearest } of forms.filter((_, i) => i % 2 === turn)) {
			const block = makeBlock(rows, cols, bitmap);
			const { values, salient, costs, bits, words } = block;
			const [n, first, tokens] = [cols + 7, 3, 60];
			const x = normals(tokens * n, 5);
			const h = Float32Array.from({ length: n * n }, (_, k) => {
				let sum = 0;
				for (let t = 0; t < tokens; t++) sum += x[t * n + Math.floor(k / n)] * x[t * n + k % n];
				return sum;
			});
			const moments = rowsOf(h, n).slice(first, first + cols)
				.map((row) => row.slice(first, first + cols));
			using weight = gpu.upload(values, [rows, cols]);
			using marks = gpu.upload(Uint32Array.from(salient), [cols]);
			using cost = gpu.upload(costs, [cols]);
			using zone = gpu.upload(bits, [rows, words]);
			using hessian = gpu.upload(h, [n, n]);
			const input = { weight, salient: marks, costs: cost, zones: zone, bitmap, size: 64 };
			const fit = await fitArbRows(gpu, input, hessian, first, 4, nearest);
			const found = await gpu.read(fit.rowFits);
			const signs = await gpu.read(fit.signs, "u32");
			for (let i = 0; i < rows; i++) {
				const what = `${JSON.stringify({ rows, cols, bitmap, nearest })}, row ${i}`;
				const own = { ...block, row: block.weight[i], zones: block.zones[i], bitmap, nearest };
				const expected = arbRowReference(own, moments, 4);
				const wanted = expected.fits.flatMap(({ mean, scales }, k) =>
					k < 2 ? [mean, scales[0]] : [mean, ...scales]
				);
				assertClose(found.slice(10 * i, 10 * i + 10), wanted, { abs: 2e-4, rel: 2e-4, what });
				const first = expected.signs.map(([sign]) => Number(sign > 0));
				assert.deepEqual(bitsOf(signs, rows, cols)[i], first, what);
			}
			gpu.free(fit.signs, fit.rowFits, fit.colScales);
		}
	});

	Deno.test(`the zones of salient columns with ${kernels} leave the least error`, async () => {
		const [rows, cols] = [37, 40];
		const { values, salient, costs, weight: matrix, bits, words } = makeBlock(rows, cols, false);
		using weight = gpu.upload(values, [rows, cols]);
		using marks = gpu.upload(Uint32Array.from(salient), [cols]);
		using cost = gpu.upload(costs, [cols]);
		using zones = gpu.upload(bits, [rows, words]);
		const probabilities = Array.from({ length: 17 }, (_, i) => 0.1 + 0.05 * i);
		using both = await splitSalient(gpu, weight, marks, cost, probabilities, zones);
		const own = [...salient.keys()].filter((j) => salient[j]);
		const special = matrix.map((row) => own.map((j) => row[j]));
		const sorted = special.flat().map(Math.abs).sort((a, b) => a - b);
		const thresholds = probabilities.map((p) => {
			const place = p * (sorted.length - 1);
			const i = Math.floor(place);
			return sorted[i] + (place - i) * ((sorted[i + 1] ?? 0) - sorted[i]);
		});
		const errors = thresholds.map((t) =>
			special.reduce((sum, row) => sum + halvesError(row, own.map((j) => costs[j]), t, binarize), 0)
		);
		const best = thresholds[errors.indexOf(Math.min(...errors))];
		const expected = matrix.map((row) =>
			row.map((w, j) => Number(Math.abs(w) >= (salient[j] ? best : 0.9)))
		);
		assert.deepEqual(bitsOf(await gpu.read(both, "u32"), rows, cols), expected);
	});
}
