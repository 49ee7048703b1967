import assert from "node:assert/strict";
import { refineFits } from "~/gpu/kernels/binarize/refine_fits.ts";
import { assertClose } from "../../../assert_close.ts";
import {
	fitPlane,
	fitPlanes,
	nearestValue,
	type RefinedFits,
	refineReference,
	rowsOf,
} from "../../../reference/billm.ts";
import { normals, seededRandom, uniforms } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";

const SHAPES = [[1, 1], [5, 5], [31, 32], [32, 33], [33, 100], [65, 128], [3, 256]];

/** A block with rows of zeros and constants, and the fits to start from. */
function makeBlock(rows: number, cols: number, zones: number, planes: number) {
	const weight = normals(rows * cols, 100 * rows + cols);
	if (rows > 2) weight.fill(0, 0, cols).fill(0.25, cols, 2 * cols);
	const random = seededRandom(cols);
	const salient = Array.from({ length: cols }, () => Number(planes > 0 && random() < 0.3));
	const cost = uniforms(cols, rows, 0.2, 3);
	const matrix = rowsOf(weight, cols);
	const start = matrix.map((row): RefinedFits => {
		const others = row.filter((_, c) => !salient[c]);
		const split = [...others].map(Math.abs).sort((a, b) => a - b)[others.length >> 1] ?? 0;
		const low = others.filter((w) => Math.abs(w) < split);
		const high = others.filter((w) => Math.abs(w) >= split);
		return {
			zones: zones === 1 ? [fitPlane(others)] : [fitPlane(low), fitPlane(high)],
			salient: fitPlanes(row.filter((_, c) => salient[c] === 1), planes),
		};
	});
	return { weight, salient, cost, matrix, start };
}

/** Σ cost · (w - nearest value)² of a row. */
function rowError(
	row: number[],
	salient: number[],
	cost: Float32Array,
	{ zones, salient: planes }: RefinedFits,
): number {
	const fits = {
		zones,
		salient: planes,
		storedZones: zones,
		storedCenter: planes.reduce((sum, { mean }) => sum + mean, 0),
		storedScales: planes.map(({ scale }) => scale),
	};
	return row.reduce(
		(sum, w, c) => sum + cost[c] * (w - nearestValue(w, salient[c] === 1, fits)) ** 2,
		0,
	);
}

function flat(fits: { mean: number; scale: number }[][]): number[] {
	return fits.flat().flatMap(({ mean, scale }) => [mean, scale]);
}

for (
	const { kernels, gpu, zones } of DEVICES.flatMap((
		device,
	) => [{ ...device, zones: 1 }, { ...device, zones: 2 }])
) {
	for (const planes of [0, 1, 2, 3, 4]) {
		Deno.test(`refineFits() with ${kernels}, with ${zones} zones and ${planes} planes agrees with the reference`, async () => {
			// Each size and number of rounds has a kernel of its own: the forms take turns at the sizes.
			const first = 3 * (5 * (zones - 1) + planes);
			for (const i of [0, 1, 2]) {
				const [rows, cols] = SHAPES[(first + i) % SHAPES.length];
				const { weight, salient, cost, matrix, start } = makeBlock(rows, cols, zones, planes);
				using weightTensor = gpu.upload(weight, [rows, cols]);
				using salientTensor = gpu.upload(Uint32Array.from(salient), [cols]);
				using costTensor = gpu.upload(cost, [cols]);
				for (const rounds of i < 2 ? [1, 8] : [1]) {
					const what = JSON.stringify({ rows, cols, rounds });
					const zoneStart = Float32Array.from(flat(start.map((fits) => fits.zones)));
					const salientStart = Float32Array.from(flat(start.map((fits) => fits.salient)));
					using zoneFits = gpu.upload(zoneStart, [rows, 2 * zones]);
					using salientFit = planes ? gpu.upload(salientStart, [rows, 2 * planes]) : undefined;
					const fits = { zoneFits, salientFit };
					await refineFits(gpu, weightTensor, salientTensor, costTensor, fits, rounds);
					const zoneValues = await gpu.read(zoneFits);
					const salientValues = salientFit ? await gpu.read(salientFit) : new Float32Array(0);
					const expected = matrix.map((row, r) =>
						refineReference(row, salient, cost, start[r], rounds)
					);
					if (rounds === 1) {
						const tolerance = { abs: 1e-5, rel: 1e-5 }; // f32 sums of up to 256 terms
						const zonesExpected = flat(expected.map((row) => row.zones));
						assertClose(zoneValues, zonesExpected, { ...tolerance, what: `${what}, zones` });
						const salientExpected = flat(expected.map((row) => row.salient));
						assertClose(salientValues, salientExpected, { ...tolerance, what: `${what}, salient` });
					}
					// Later a weight on a boundary may send rows elsewhere, but to as good an end.
					let [total, wanted] = [0, 0];
					matrix.forEach((row, r) => {
						const pairs = (values: Float32Array, count: number) =>
							Array.from({ length: count }, (_, i) => {
								const at = 2 * (r * count + i);
								return { mean: values[at], scale: values[at + 1] };
							});
						const found = {
							zones: pairs(zoneValues, zones),
							salient: pairs(salientValues, planes),
						};
						const error = rowError(row, salient, cost, found);
						const before = rowError(row, salient, cost, start[r]);
						assert(error <= before * 1.00001 + 1e-9, `${what}, row ${r}`);
						total += error;
						wanted += rowError(row, salient, cost, expected[r]);
					});
					assertClose([total], [wanted], { abs: 1e-6, rel: 1e-3, what: `${what}, error` });
				}
			}
		});
	}
}
