import assert from "node:assert/strict";
import { billmMatvec } from "~/codecs/billm/matvec.ts";
import { billmMatvecBytes, billmMatvecKernel } from "~/codecs/billm/matvec_source.ts";
import { freeBillm, UNIT_COLS, uploadBillm } from "~/codecs/billm/tensors.ts";
import type { BillmLayout } from "~/codecs/billm/quantize_block.ts";
import type { Gpu } from "~/gpu/device.ts";
import { hardware } from "../../gpu/devices.ts";
import { openGpu, watchKernels } from "../../gpu/open_gpu.ts";
import { normals } from "../../reference/random.ts";
import { checkProduct, type Multiply, randomPacked } from "./random_packed.ts";

const software = await openGpu();
const multiply: Multiply = (gpu, x, weight, addends) => billmMatvec(gpu, x, weight, addends);

/** [rows, cols, columns of a block]: both sides of a tile, a word, a unit, a block and their turns. */
const SHAPES = [
	[1, 1, 32],
	[33, 31, 32],
	[32, 128, 128],
	[65, 300, 96],
	[31, 129, 128],
	[40, 257, 256],
	[3, 200, 160],
	[70, 1290, 128], // 11 units
];

for (const zones of [1, 2] as const) {
	for (const planes of [0, 1, 2, 3, 4]) {
		const what = `${zones} zones and ${planes} planes`;
		Deno.test(`billmMatvec() of ${what} agrees with the reference`, async () => {
			for (const [i, [rows, cols, blockSize]] of SHAPES.entries()) {
				// Where one group of threads has all columns of a row and where two share them, there are
				// kernels for scales as values and as codes: one way here, the other way with the next form.
				const coded = (zones + planes + Number(cols > UNIT_COLS)) % 2 === 0;
				const layout = { rows, cols, blockSize, zones, planes };
				const share = planes > 0 ? [0.2, 0, 1, 0.5][i % 4] : 0;
				const tokens = 1 + (i + planes) % 3;
				const extras = { share, coded, bias: i % 2 === 0, residual: i % 3 === 0 };
				await checkProduct(software, multiply, layout, tokens, extras);
			}
		});
	}
}

/**
 * Forms that between them have all that the kernels for GPUs are made of, and how many tokens. A
 * software adapter takes long to compile what is written out for four of them.
 */
const FORMS: [form: Omit<BillmLayout, "rows" | "cols">, coded: boolean, tokens: number[]][] = [
	[{ zones: 2, planes: 2, blockSize: 128 }, false, [1, 2, 3, 4, 5, 8]],
	[{ zones: 2, planes: 2, blockSize: 256 }, true, [1]],
	[{ zones: 2, planes: 3, blockSize: 96 }, false, [1, 2]],
	[{ zones: 1, planes: 2, blockSize: 128 }, false, [1, 2]],
	[{ zones: 1, planes: 0, blockSize: 32 }, true, [1, 4]],
];

for (const [form, coded, counts] of FORMS) {
	const { zones, planes, blockSize } = form;
	const what = `${zones} zones, ${planes} planes, blocks of ${blockSize}${coded ? ", codes" : ""}`;
	Deno.test(`billmMatvec() for GPUs agrees with the reference: ${what}`, async () => {
		const names = watchKernels(hardware);
		for (const tokens of counts) {
			for (const [rows, cols] of [[33, 700], [64, 530]]) {
				const extras = { share: 0.3, coded, bias: tokens % 2 === 1, residual: tokens < 3 };
				await checkProduct(hardware, multiply, { ...form, rows, cols }, tokens, extras);
			}
		}
		const shapes = [...names].flatMap((name) => /_([124])x\d+$/.exec(name)?.[1] ?? []);
		const expected = counts.filter((count) => count <= 4 && count !== 3).map(String);
		assert.deepEqual([...new Set(shapes)].sort(), expected);
	});
}

Deno.test("billmMatvec() gives the same bits again", async () => {
	const layout = { rows: 100, cols: 1000, blockSize: 128, zones: 2, planes: 2 } as const;
	const weight = await uploadBillm(software, randomPacked(layout, 5).host);
	using x = software.upload(normals(1000, 6), [1, 1000]);
	const run = async (gpu: Gpu) => {
		using y = await billmMatvec(gpu, x, weight);
		return await gpu.read(y);
	};
	assert.deepEqual(await run(software), await run(software));
	freeBillm(software, weight);
});

Deno.test("billmMatvec() sees zeros and NaN in the right places only", async () => {
	const layout = { rows: 40, cols: 200, blockSize: 128, zones: 2, planes: 2 } as const;
	const weight = await uploadBillm(software, randomPacked(layout, 7).host);
	const run = async (values: Float32Array) => {
		using x = software.upload(values, [2, 200]);
		using y = await billmMatvec(software, x, weight);
		return await software.read(y);
	};
	const values = normals(400, 8);
	values.fill(0, 0, 200);
	const sound = await run(values);
	assert(sound.subarray(0, 40).every((value) => value === 0));
	values[7] = NaN;
	const damaged = await run(values);
	assert(damaged.subarray(0, 40).every(Number.isNaN));
	assert.deepEqual(damaged.subarray(40), sound.subarray(40));
	freeBillm(software, weight);
});

Deno.test("billmMatvec() refuses what does not fit", async () => {
	const layout = { rows: 4, cols: 40, blockSize: 32, zones: 2, planes: 0 } as const;
	const weight = await uploadBillm(software, randomPacked(layout, 9).host);
	for (const shape of [[1, 39], [9, 40]]) {
		using x = software.zeros(shape);
		await assert.rejects(
			() => billmMatvec(software, x, weight),
			new RangeError(`Cannot multiply [${shape.join(", ")}] with a packed weight of [4, 40]`),
		);
	}
	freeBillm(software, weight);
});

Deno.test("the kernel's table is as large as it says", () => {
	const form = { zones: 2, planes: 2, coded: false, mixed: false } as const;
	for (const splits of [1, 4, 16]) {
		const source = billmMatvecKernel(form, { tokens: 1, splits, unrolled: true });
		assert(source.includes(`@workgroup_size(${32 * splits})`));
		assert(source.includes(`array<array<f32, ${16 * splits + 1}>, 32>`));
		const lookUps = [...source.matchAll(/\+= table\[\d/g)].length;
		assert.equal(lookUps, 32 * (3 + 2), "three of each four columns, two if salient");
		assert.equal(billmMatvecBytes(splits), 32 * (16 * splits + 1) * 4 + 2 * 8 * splits * 16);
	}
});
