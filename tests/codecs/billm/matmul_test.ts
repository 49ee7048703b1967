import assert from "node:assert/strict";
import { billmMatmul, billmProduct } from "~/codecs/billm/matmul.ts";
import { billmMatmulBytes } from "~/codecs/billm/matmul_source.ts";
import { freeBillm, uploadBillm } from "~/codecs/billm/tensors.ts";
import { hardware } from "../../gpu/devices.ts";
import { openGpu, watchKernels } from "../../gpu/open_gpu.ts";
import { checkProduct, type Multiply, randomPacked } from "./random_packed.ts";

const software = await openGpu();
const multiply: Multiply = (gpu, x, weight, addends) => billmMatmul(gpu, x, weight, addends);

/** [tokens, rows, cols, columns of a block] on both sides of the tiles, words, units and blocks. */
const SHAPES = [
	[9, 33, 31, 32],
	[17, 64, 128, 128],
	[33, 70, 300, 96],
	[64, 65, 129, 128],
	[65, 128, 260, 256],
];

for (const zones of [1, 2] as const) {
	for (const planes of [0, 1, 2, 3, 4]) {
		Deno.test(`billmMatmul() of ${zones} zones and ${planes} planes agrees with the reference`, async () => {
			for (const [i, [tokens, rows, cols, blockSize]] of SHAPES.entries()) {
				const layout = { rows, cols, blockSize, zones, planes };
				const share = planes > 0 ? [0.2, 0, 1][i % 3] : 0;
				const extras = { share, coded: i % 2 === 1, bias: i % 2 === 0, residual: i % 3 === 0 };
				await checkProduct(software, multiply, layout, tokens, extras);
			}
		});
	}
}

Deno.test("billmMatmul() unpacks a large weight some rows at a time", async () => {
	const layout = { rows: 600, cols: 8200, blockSize: 256, zones: 2, planes: 2 } as const;
	const extras = { bias: true, residual: true };
	await checkProduct(software, multiply, layout, 9, extras);
	assert(4 * layout.rows * layout.cols > 16 << 20);
});

// An adapter that computes on the CPU takes seconds to compile a tile. How a tile ends where the rows do
// not come in fours has nothing to do with the form: only the most usual one is compiled both ways.
for (
	const [zones, planes, blockSize, coded, ends] of [
		[2, 2, 128, false, [65, 68]],
		[2, 4, 96, true, [65]],
		[1, 3, 256, false, [68]],
		[1, 0, 32, true, [65]],
	] as const
) {
	const what = `${zones} zones, ${planes} planes, blocks of ${blockSize}${coded ? ", codes" : ""}`;
	Deno.test(`billmMatmul() for GPUs agrees with the reference: ${what}`, async () => {
		const names = watchKernels(hardware);
		const layout = { zones, planes, blockSize };
		const extras = { coded, share: 0.3, bias: true, residual: true };
		for (const rows of ends) {
			await checkProduct(hardware, multiply, { ...layout, rows, cols: 300 }, 70, extras);
			await checkProduct(hardware, multiply, { ...layout, rows, cols: 129 }, 9, {
				...extras,
				bias: false,
				residual: false,
			});
		}
		const whole = { ...layout, rows: 8192 - 64, cols: 33 };
		const multiplyTiles: Multiply = (gpu, x, weight, addends) =>
			billmMatmul(gpu, x, weight, addends, "tiles");
		await checkProduct(hardware, multiplyTiles, whole, 257, extras);
		const found = [...names].flatMap((name) => /_(\d+x\d+)/.exec(name)?.[1] ?? []);
		assert.deepEqual([...new Set(found)].sort(), ["128x128", "64x64"]);
	});
}

Deno.test("billmMatmul() for GPUs unpacks rows for very many tokens", async () => {
	const names = watchKernels(hardware);
	const layout = { rows: 70, cols: 40, blockSize: 32, zones: 2, planes: 2 } as const;
	await checkProduct(hardware, multiply, layout, 256, { bias: true, residual: true });
	await checkProduct(hardware, multiply, { ...layout, planes: 0 }, 1024, { bias: true });
	assert(![...names].some((name) => name.startsWith("packed_matmul")));
});

Deno.test("billmProduct() takes any number of tokens", async () => {
	const product: Multiply = (gpu, x, weight, addends) => billmProduct(gpu, x, weight, addends);
	const layout = { rows: 35, cols: 70, blockSize: 64, zones: 2, planes: 2 } as const;
	for (const tokens of [1, 8, 9]) await checkProduct(software, product, layout, tokens, {});
});

Deno.test("billmMatmul() refuses what does not fit", async () => {
	const layout = { rows: 4, cols: 40, blockSize: 32, zones: 2, planes: 0 } as const;
	const weight = await uploadBillm(software, randomPacked(layout, 9).host);
	using x = software.zeros([9, 41]);
	await assert.rejects(
		() => billmMatmul(software, x, weight),
		new RangeError("Cannot multiply [9, 41] with a packed weight of [4, 40]"),
	);
	freeBillm(software, weight);
});

Deno.test("two pairs of the large tiles fit into what large GPUs have", () => {
	const large = { rows: 128, cols: 128, depth: 16 } as const;
	assert.equal(billmMatmulBytes(large, false), 16 * 16 * (33 + 32));
	assert(billmMatmulBytes(large, false) <= 17 << 10);
	assert(billmMatmulBytes(large, true) <= 48 << 10);
});
