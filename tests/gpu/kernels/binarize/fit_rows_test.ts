import { fitSalient, fitZones } from "~/gpu/kernels/binarize/fit_rows.ts";
import { assertClose } from "../../../assert_close.ts";
import { fitPlanes, rowsOf } from "../../../reference/billm.ts";
import { normals, seededRandom } from "../../../reference/random.ts";
import { hardware } from "../../devices.ts";
import { gpu } from "../../gpu.ts";

// Rows on both sides of a workgroup (16), columns of a word of zone bits.
const SHAPES = [
	[1, 1],
	[1, 128],
	[15, 2],
	[16, 5],
	[33, 31],
	[5, 32],
	[64, 33],
	[65, 100],
	[7, 128],
	[3, 129],
	[2, 256],
];

// f32 sums of up to 256 terms near 1; a third plane fits what is left of numbers near 1 as well.
const TOLERANCE = { abs: 4e-6, rel: 2e-6 };

function makeBlock(rows: number, cols: number) {
	const weight = normals(rows * cols, rows + 100 * cols);
	const random = seededRandom(cols);
	if (rows > 2) weight.fill(0, 0, cols).fill(0.3, cols, 2 * cols); // zeros, constant
	const salient = Uint32Array.from({ length: cols }, () => Number(random() < 0.3));
	const words = Math.ceil(cols / 32);
	const zones = Uint32Array.from({ length: rows * words }, () => random() * 2 ** 32);
	if (rows > 4) {
		zones.fill(0, 3 * words, 4 * words); // row 3 has no high zone, row 4 no low one
		zones.fill(0xffffffff, 4 * words, 5 * words);
	}
	const isHigh = (row: number, col: number) =>
		(zones[row * words + Math.floor(col / 32)] >>> (col % 32)) % 2 === 1;
	return { weight, salient, zones, words, isHigh };
}

/** Mean and scale of each plane. */
function flat(values: number[], planes: number): number[] {
	return fitPlanes(values, planes).flatMap(({ mean, scale }) => [mean, scale]);
}

for (
	const { family, gpu: device, rows, cols } of SHAPES.flatMap(([rows, cols]) => [
		{ family: "suit the adapter", gpu, rows, cols },
		{ family: "suit GPUs", gpu: hardware, rows, cols },
	])
) {
	Deno.test(`fitSalient() and fitZones() that ${family} agree with the reference on [${rows}, ${cols}]`, async () => {
		const { weight, salient, zones, words, isHigh } = makeBlock(rows, cols);
		const matrix = rowsOf(weight, cols);
		using weightTensor = device.upload(weight, [rows, cols]);
		using zoneTensor = device.upload(zones, [rows, words]);
		const none = new Uint32Array(cols);
		const all = new Uint32Array(cols).fill(1);
		for (const flags of [salient, none, all]) {
			using flagTensor = device.upload(flags, [cols]);
			for (const planes of [1, 2, 3, 4]) {
				using fit = await fitSalient(device, weightTensor, flagTensor, planes);
				const expected = matrix.flatMap((row) =>
					flat(row.filter((_, c) => flags[c] === 1), planes)
				);
				assertClose(await device.read(fit), expected, { ...TOLERANCE, what: `${planes} planes` });
			}
			using oneZone = await fitZones(device, weightTensor, flagTensor, undefined);
			const others = matrix.flatMap((row) => flat(row.filter((_, c) => flags[c] === 0), 1));
			assertClose(await device.read(oneZone), others, { ...TOLERANCE, what: "one zone" });
			using twoZones = await fitZones(device, weightTensor, flagTensor, zoneTensor);
			const split = matrix.flatMap((row, r) => {
				const inZone = (high: boolean) =>
					row.filter((_, c) => flags[c] === 0 && isHigh(r, c) === high);
				return [...flat(inZone(false), 1), ...flat(inZone(true), 1)];
			});
			assertClose(await device.read(twoZones), split, { ...TOLERANCE, what: "two zones" });
		}
	});
}

Deno.test("fitSalient() takes a zero for positive", async () => {
	using weight = gpu.upload(Float32Array.of(-1, 0, 1), [1, 3]);
	using salient = gpu.upload(Uint32Array.of(1, 1, 1), [3]);
	using fit = await fitSalient(gpu, weight, salient, 2);
	// The first plane leaves -1/3, -2/3 and 1/3.
	assertClose(await gpu.read(fit), [0, 2 / 3, -2 / 9, 10 / 27], TOLERANCE);
});
