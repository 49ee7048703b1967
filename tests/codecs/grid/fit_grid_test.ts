import assert from "node:assert/strict";
import { fitGrid } from "~/codecs/grid/fit_grid.ts";
import type { GridKind } from "~/codecs/grid/grid.ts";
import { assertClose } from "../../assert_close.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { gpu } from "../../gpu/gpu.ts";
import { fitGridReference } from "../../reference/grid.ts";
import { normals, seededRandom } from "../../reference/random.ts";

const ROWS = 9;

const FORMS: { grid: GridKind; bits: number; isWeighted?: boolean }[] = [
	...[1, 2, 3, 4, 8].map((bits) => ({ grid: "range" as const, bits })),
	{ grid: "mean", bits: 1 },
	{ grid: "sign", bits: 1 },
	{ grid: "mean", bits: 1, isWeighted: true },
	{ grid: "sign", bits: 1, isWeighted: true },
];

/** Rows of zeros, constant, positive, negative, tiny and huge weights, and ordinary ones. */
function makeWeight(cols: number): Float32Array {
	const weight = normals(ROWS * cols, cols, 0.05);
	const row = (r: number) => weight.subarray(r * cols, (r + 1) * cols);
	row(0).fill(0);
	row(1).fill(-0.3);
	row(2).forEach((w, i) => row(2)[i] = Math.abs(w));
	row(3).forEach((w, i) => row(3)[i] = -Math.abs(w));
	row(4).forEach((w, i) => row(4)[i] = 1e-7 * w); // scales below the least f16
	row(5).forEach((w, i) => row(5)[i] = 1e8 * w); // scales beyond the largest one
	return weight;
}

for (const { kernels, gpu } of DEVICES) {
	for (const cols of [1, 31, 128, 1000]) {
		for (const isMasked of [false, true]) {
			Deno.test(`fitGrid() agrees with the reference on [${ROWS}, ${cols}]${isMasked ? ", masked" : ""}, ${kernels}`, async () => {
				const weight = makeWeight(cols);
				const random = seededRandom(cols);
				const words = Math.ceil(cols / 32) + 2; // the columns begin at the second word
				const mask = Uint32Array.from({ length: ROWS * words }, () => random() * 2 ** 32);
				mask.fill(0xffffffff, 8 * words); // of the last row nothing is left
				const isLeftOut = (row: number, col: number) =>
					isMasked && ((mask[row * words + 1 + (col >> 5)] >>> (col & 31)) & 1) === 1;
				using weightTensor = gpu.upload(weight, [ROWS, cols]);
				using maskTensor = gpu.upload(mask, [ROWS, words]);
				const costs = normals(cols, 7).map((n) => 0.01 * Math.exp(n));
				using costTensor = gpu.upload(costs, [cols]);
				for (const { grid, bits, isWeighted } of FORMS) {
					using fits = gpu.zeros([ROWS, 3, 2]);
					await fitGrid(gpu, {
						grid,
						bits,
						weight: weightTensor,
						mask: isMasked ? maskTensor : undefined,
						first: 32,
						...(isWeighted && { costs: costTensor }),
						fits,
						group: 1,
					});
					const found = await gpu.read(fits);
					for (let row = 0; row < ROWS; row++) {
						const what = `${grid} of ${bits} bits${isWeighted ? ", weighted" : ""}, row ${row}`;
						const isKept = (_: number, col: number) => !isLeftOut(row, col);
						const kept = [...weight.subarray(row * cols, (row + 1) * cols)].filter(isKept);
						const theirs = isWeighted ? [...costs].filter(isKept) : undefined;
						const expected = fitGridReference(grid, bits, kept, theirs);
						const [scale, offset] = found.subarray(row * 6 + 2, row * 6 + 4);
						assert.deepEqual([scale, offset].map(Math.f16round), [scale, offset], `${what}, f16`);
						// One f16 to either side: f32 sums may tip its rounding.
						const tolerance = { abs: 2 ** -22, rel: 2 ** -10, what };
						assertClose([scale], [expected.scale], tolerance);
						if (grid === "range") assert.ok(Math.abs(offset - expected.offset) <= 1, what);
						else assertClose([offset], [expected.offset], { ...tolerance, abs: 1e-6 });
						// Other groups are left alone.
						assert.deepEqual([...found.subarray(row * 6, row * 6 + 2)], [0, 0]);
						assert.deepEqual([...found.subarray(row * 6 + 4, row * 6 + 6)], [0, 0]);
					}
				}
			});
		}
	}
}

Deno.test("fitGrid(): the least, the greatest weight and zero are values of a range", async () => {
	const weight = Float32Array.of(-0.25, 0.125, 0.5, 0.3);
	using tensor = gpu.upload(weight, [1, 4]);
	using fits = gpu.empty([1, 1, 2]);
	await fitGrid(gpu, { grid: "range", bits: 2, weight: tensor, fits });
	assert.deepEqual([...await gpu.read(fits)], [0.25, 1]); // values -0.25, 0, 0.25, 0.5
});
