import assert from "node:assert/strict";
import { dequantize } from "~/codecs/billm/dequantize.ts";
import { type BillmLayout, bitPlanes, scalesPerBlock } from "~/codecs/billm/quantize_block.ts";
import { gpu } from "../../gpu/gpu.ts";
import { dequantizeReference } from "../../reference/billm.ts";
import { normals, seededRandom } from "../../reference/random.ts";

// Columns on both sides of a word and a block, rows · words on both sides of a workgroup.
const SHAPES = [
	[1, 1, 32],
	[1, 128, 128],
	[3, 31, 32],
	[32, 33, 64],
	[63, 32, 32],
	[65, 64, 64],
	[5, 100, 64],
	[2, 129, 128],
	[7, 260, 256],
	[33, 300, 128],
];

for (const zones of [1, 2] as const) {
	for (const planes of [0, 1, 2, 3, 4]) {
		Deno.test(`dequantize() with ${zones} zones and ${planes} planes gives the very f32 of the reference`, async () => {
			for (const [rows, cols, blockSize] of SHAPES) {
				const layout: BillmLayout = { rows, cols, blockSize, zones, planes };
				const words = Math.ceil(cols / 32);
				const random = seededRandom(cols);
				const bits = Uint32Array.from(
					{ length: bitPlanes(layout) * rows * words },
					() => random() * 2 ** 32,
				);
				const perRow = Math.ceil(cols / blockSize) * scalesPerBlock(layout);
				const scales = normals(rows * perRow, rows).map(Math.f16round);
				const salient = Array.from({ length: cols }, () => Number(random() < 0.3));
				const marks = new Uint32Array(words);
				salient.forEach((flag, c) => marks[Math.floor(c / 32)] |= flag << (c % 32));
				using bitTensor = gpu.upload(bits, [bitPlanes(layout), rows, words]);
				using scaleTensor = gpu.upload(scales, [rows, perRow]);
				using markTensor = gpu.upload(marks, [words]);
				using weight = await dequantize(gpu, layout, bitTensor, scaleTensor, markTensor);
				assert.deepEqual(weight.shape, [rows, cols]);
				const expected = dequantizeReference(layout, bits, scales, salient);
				assert.deepEqual(await gpu.read(weight), expected);
			}
		});
	}
}

Deno.test("dequantize() reaches beyond the 65535 workgroups of one dimension", async () => {
	const layout: BillmLayout = {
		rows: 64 * 65535 + 70,
		cols: 1,
		blockSize: 32,
		zones: 1,
		planes: 0,
	};
	const { rows } = layout;
	const bits = Uint32Array.from({ length: rows }, (_, r) => r % 3 ? 0 : 1);
	const scales = Float32Array.from({ length: 2 * rows }, (_, i) => i % 2 ? 1 : i % 64);
	using bitTensor = gpu.upload(bits, [1, rows, 1]);
	using scaleTensor = gpu.upload(scales, [rows, 1, 2]);
	using weight = await dequantize(gpu, layout, bitTensor, scaleTensor, bitTensor);
	const actual = await gpu.read(weight);
	const wrong = actual.findIndex((value, r) => value !== scales[2 * r] + (r % 3 ? -1 : 1));
	assert.equal(wrong, -1);
});
