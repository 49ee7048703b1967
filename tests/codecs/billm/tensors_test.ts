import assert from "node:assert/strict";
import { unpackRows } from "~/codecs/billm/matmul.ts";
import { freeBillm, uploadBillm } from "~/codecs/billm/tensors.ts";
import { gpu } from "../../gpu/gpu.ts";
import { randomPacked } from "./random_packed.ts";

/** [rows, cols, columns of a block]: both sides of a tile of 32 rows, a word, a unit and a block. */
const SHAPES = [
	[1, 1, 32],
	[3, 31, 32],
	[32, 33, 64],
	[33, 128, 128],
	[31, 129, 128],
	[65, 127, 96],
	[2, 300, 96],
	[34, 257, 256],
	[5, 390, 256],
	[3, 200, 160],
];

for (const zones of [1, 2] as const) {
	for (const planes of [0, 1, 2, 3, 4]) {
		Deno.test(`a weight of ${zones} zones and ${planes} planes holds the very f32 that were packed`, async () => {
			for (const [rows, cols, blockSize] of SHAPES) {
				for (const coded of [false, true]) {
					for (const share of planes > 0 ? [0, 0.2, 1] : [0]) {
						const layout = { rows, cols, blockSize, zones, planes };
						const { host, weight } = randomPacked(layout, rows + cols, { share, coded });
						const packed = await uploadBillm(gpu, host);
						using unpacked = await unpackRows(gpu, packed);
						assert.deepEqual(unpacked.shape, [rows, cols]);
						const what = `${[rows, cols, blockSize]}, ${coded ? "codes" : "f16"}, ${share}`;
						assert.deepEqual(await gpu.read(unpacked), weight, what);
						freeBillm(gpu, packed);
					}
				}
			}
		});
	}
}

Deno.test("some rows of a packed weight are unpacked", async () => {
	const layout = { rows: 70, cols: 40, blockSize: 32, zones: 2, planes: 2 } as const;
	const { host, weight } = randomPacked(layout, 1);
	const packed = await uploadBillm(gpu, host);
	using some = await unpackRows(gpu, packed, 31, 38);
	assert.deepEqual(await gpu.read(some), weight.slice(31 * 40, 69 * 40));
	freeBillm(gpu, packed);
});

Deno.test("scales below the smallest normal f16 are kept", async () => {
	const layout = { rows: 1, cols: 2, blockSize: 32, zones: 1, planes: 0 } as const;
	const scales = Float32Array.of(2 ** -24, 3 * 2 ** -20);
	const host = { ...layout, bits: Uint32Array.of(1), salient: Uint32Array.of(0), scales };
	const packed = await uploadBillm(gpu, host);
	using unpacked = await unpackRows(gpu, packed);
	assert.deepEqual([...await gpu.read(unpacked)], [49 * 2 ** -24, -47 * 2 ** -24]);
	freeBillm(gpu, packed);
});

Deno.test("a packed weight takes 3.1 bits for each weight, and all of it is given back", async () => {
	const before = gpu.memory.current;
	const layout = { rows: 512, cols: 4096, blockSize: 128, zones: 2, planes: 2 } as const;
	const packed = await uploadBillm(gpu, randomPacked(layout, 2).host);
	// Two bits, seven scales of two bytes in 128 columns and a byte pair to fill the last word.
	const perWeight = 2 + 8 * 16 / 128;
	const perColumn = 32 + 1; // its place in the order, and whether it is salient
	const bytes = (512 * 4096 * perWeight + 4096 * perColumn) / 8;
	assert.equal(gpu.memory.current - before, bytes);
	assert(bytes * 8 / (512 * 4096) < 3.1);
	freeBillm(gpu, packed);
	assert.equal(gpu.memory.current, before);
});
