import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import { rowsTensor, storeLinear, versionFor } from "~/codecs/mod.ts";
import { trellis } from "~/codecs/trellis/codec.ts";
import { dequantizeTrellisHost, loadTrellis } from "~/codecs/trellis/store.ts";
import {
	hasTable,
	STATE_BITS,
	TRELLIS_BITS,
	type TrellisLayout,
} from "~/codecs/trellis/trellis.ts";
import { FORMAT_VERSION } from "~/storage/packed_metadata.ts";
import type { TensorToWrite } from "~/storage/safetensors.ts";
import { gpu } from "../../gpu/gpu.ts";
import { written } from "../../open.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import { randomTrellis } from "./random_trellis.ts";

const FORM = { scales: "f16", flags: "plain" } as const;

const TRELLISES = STATE_BITS.flatMap((stateBits) =>
	TRELLIS_BITS.map((bits) => ({ bits, stateBits }))
).filter(hasTable);

/** Sizes with tiles that are not full, to the right and below. */
const SIZES = [[16, 16], [1, 50], [35, 1], [18, 33]];

const LAYOUTS: [TrellisLayout, isOrdered: boolean][] = TRELLISES.flatMap((trellis, i) =>
	SIZES.map(([rows, cols], j): [TrellisLayout, boolean] => [
		{ rows, cols, ...trellis },
		(i + j) % 2 === 0,
	])
);

Deno.test("there are seven tables", () => assert.equal(TRELLISES.length, 7));

for (const [layout, isOrdered] of LAYOUTS) {
	const what = JSON.stringify(layout) + (isOrdered ? ", ordered" : "");
	Deno.test(`a trellis layer is read as it was written: ${what}`, async () => {
		const { host, weight } = randomTrellis(layout, isOrdered);
		using folder = new TemporaryFolder();
		const packed = storeLinear("up", { codec: trellis, host }, FORM);
		using checkpoint = written(folder.path, packed.tensors);
		const { rows, cols, bits } = layout;
		assert.equal(rowsTensor(checkpoint, "up")!.shape[0], rows);
		const found = loadTrellis(checkpoint, "up", { cols, blockSize: 32 });
		assert.deepEqual(found, host);
		assert.deepEqual(dequantizeTrellisHost(found), weight);
		using onGpu = await trellis.matrix(gpu, found);
		assert.deepEqual(await gpu.read(onGpu), weight);
		assert.equal(trellis.facts(found).paperBits, bits);
		assert.deepEqual(packed.parts, {
			codes: 32 * bits * Math.ceil(rows / 16) * Math.ceil(cols / 16),
			scales: 2 * rows,
			...(isOrdered && { order: 2 * cols }),
		});
	});
}

Deno.test("more columns than U16 can name are ordered in U32", () => {
	const layout = { rows: 1, cols: 65552, bits: 1, stateBits: 8 } as const;
	const { host } = randomTrellis(layout);
	host.order = Uint32Array.from({ length: layout.cols }, (_, i) => layout.cols - 1 - i);
	using folder = new TemporaryFolder();
	const { tensors } = storeLinear("up", { codec: trellis, host }, FORM);
	using checkpoint = written(folder.path, tensors);
	assert.equal(checkpoint.get("up.trellis_order").dtype, "U32");
	assert.deepEqual(loadTrellis(checkpoint, "up", { cols: layout.cols, blockSize: 32 }), host);
});

Deno.test("files of trellis layers have version 5", () => {
	assert.equal(versionFor([trellis]), 5);
	assert.ok(FORMAT_VERSION >= 5);
});

Deno.test("streams and orders that fit no layer are refused", () => {
	const { host } = randomTrellis({ rows: 20, cols: 40, bits: 2, stateBits: 12 }, true);
	const tensors = trellis.store("up", host, FORM);
	const [stream, scales, order] = tensors;
	const twice = (order.data as Uint8Array).slice();
	twice.copyWithin(0, 2, 4);
	const beyond = (order.data as Uint8Array).slice();
	beyond.set([40, 0], 8);
	const [first] = new Uint16Array(twice.buffer);
	for (
		const [others, text] of [
			[
				[{ ...stream, shape: [2, 2, 24] }, scales, order],
				'"up.trellis" is [2, 2, 24], expected [2, 3, N] with N = 8, 12, 16, 20, 24, or [2, 3 N] with N = 8, 16',
			],
			[[scales, order], "up.trellis"],
			[
				[stream, { ...scales, shape: [40], data: new Uint8Array(80) }, order],
				'"up.trellis" is [2, 3, 16], expected [3, 3, N]',
			],
			[
				[stream, scales, { ...order, data: twice }],
				`"up.trellis_order" is a list with column ${first}, expected each of 40 once`,
			],
			[
				[stream, scales, { ...order, data: beyond }],
				'"up.trellis_order" is a list with column 40, expected each of 40 once',
			],
			[
				[{ ...stream, dtype: "I32" }, scales, order],
				'"up.trellis" is I32 [2, 3, 16], expected U32 [2, 3, 16]',
			],
		] as [TensorToWrite[], string][]
	) {
		using folder = new TemporaryFolder();
		using checkpoint = written(folder.path, others);
		assert.throws(() => loadTrellis(checkpoint, "up", { cols: 40, blockSize: 32 }), (error) => {
			assert.ok(error instanceof UserError, `${error}`);
			assert.ok(error.message.includes(text), error.message);
			return true;
		});
	}
});

Deno.test("scales that are not finite are counted", () => {
	const { host } = randomTrellis({ rows: 20, cols: 40, bits: 2, stateBits: 8 });
	host.scales.set([NaN, Infinity, 65520], 3);
	assert.deepEqual(trellis.nonFinite(host), { trellis_scales: 3 });
});
