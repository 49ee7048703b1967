import assert from "node:assert/strict";
import { type BillmLayout, scalesPerBlock } from "~/codecs/billm/quantize_block.ts";
import { roundScales } from "~/codecs/billm/round_scales.ts";
import { gpu } from "../../gpu/gpu.ts";
import { normals } from "../../reference/random.ts";

/** The least f16 that is not below `value`, found by trying all of them. */
function leastHalf(value: number): number {
	return HALVES.find((half) => half >= value)!;
}

const HALVES = [...new Float16Array(Uint16Array.from({ length: 0x7c00 }, (_, i) => i).buffer)];

/** Positions of the means among the values of a block. */
function meansOf({ zones, planes }: BillmLayout): number[] {
	return [...(zones === 2 ? [0, 2] : [0]), ...(planes > 0 ? [2 * zones] : [])];
}

function check(
	layout: BillmLayout,
	before: Float32Array,
	after: Float32Array,
	codes: Int32Array,
	factors: Float32Array,
	bits: 8 | 4 = 8,
): void {
	const { rows } = layout;
	const tops = bits === 8 ? [127, 127] : [7, 15];
	const perBlock = scalesPerBlock(layout);
	const perRow = before.length / rows;
	const means = meansOf(layout);
	for (let row = 0; row < rows; row++) {
		for (const kind of [0, 1]) {
			const places = Array.from({ length: perRow }, (_, i) => i)
				.filter((i) => means.includes(i % perBlock) === (kind === 0)).map((i) => row * perRow + i);
			const top = Math.max(...places.map((at) => Math.abs(before[at])));
			const factor = factors[2 * row + kind];
			// A quotient may be off by an ulp or two, so at a value of f16 it may go up to the next.
			const [least, most] = [
				leastHalf(top / tops[kind] * (1 - 2 ** -21)),
				leastHalf(top / tops[kind] * (1 + 2 ** -21)),
			];
			assert.ok(factor === least || factor === most, `row ${row}: ${factor} for ${top}`);
			for (const at of places) {
				const exact = factor === 0 ? 0 : before[at] / factor;
				assert.ok(Number.isInteger(codes[at]) && Math.abs(codes[at]) <= tops[kind], `${codes[at]}`);
				assert.ok(Math.abs(codes[at] - exact) <= 0.5 + 1e-4, `${codes[at]} for ${exact}`);
				assert.equal(after[at], Math.fround(codes[at] * factor));
			}
		}
	}
}

for (const zones of [1, 2] as const) {
	for (const planes of [0, 1, 2, 4]) {
		Deno.test(`roundScales() takes the nearest codes, ${zones} zones and ${planes} planes`, async () => {
			// Values of a row on both sides of the lanes of a workgroup.
			for (
				const [rows, cols, blockSize] of [[1, 1, 32], [3, 70, 32], [70, 128, 128], [5, 5000, 32]]
			) {
				const layout: BillmLayout = { rows, cols, blockSize, zones, planes };
				const shape = [rows, Math.ceil(cols / blockSize), scalesPerBlock(layout)];
				const before = normals(shape.reduce((a, b) => a * b), cols + planes).map((value, i) =>
					// Means are smaller than scales, and those have both signs too.
					Math.f16round(meansOf(layout).includes(i % shape[2]) ? value / 64 : value)
				);
				using scales = gpu.upload(before, shape);
				const { codes, factors } = await roundScales(gpu, layout, scales);
				assert.deepEqual([codes.shape, factors.shape], [shape, [rows, 2]]);
				const read = new Int32Array((await gpu.read(codes, "u32")).buffer);
				check(layout, before, await gpu.read(scales), read, await gpu.read(factors));
				gpu.free(codes, factors);
			}
		});
	}
}

for (const zones of [1, 2] as const) {
	Deno.test(`roundScales() in 4 bits, ${zones} zones`, async () => {
		const layout: BillmLayout = { rows: 40, cols: 700, blockSize: 64, zones, planes: 2 };
		const shape = [40, 11, scalesPerBlock(layout)];
		const before = normals(40 * 11 * shape[2], zones).map((value, i) =>
			meansOf(layout).includes(i % shape[2]) ? value : Math.abs(value)
		);
		using scales = gpu.upload(before, shape);
		const { codes, factors } = await roundScales(gpu, layout, scales, 4);
		const read = new Int32Array((await gpu.read(codes, "u32")).buffer);
		check(layout, before, await gpu.read(scales), read, await gpu.read(factors), 4);
		gpu.free(codes, factors);
	});
}

Deno.test("in 4 bits a scale below zero becomes zero", async () => {
	const layout: BillmLayout = { rows: 1, cols: 64, blockSize: 32, zones: 1, planes: 0 };
	using scales = gpu.upload(Float32Array.of(-7, -15, 7, 15), [1, 2, 2]);
	const { codes, factors } = await roundScales(gpu, layout, scales, 4);
	assert.deepEqual([...new Int32Array((await gpu.read(codes, "u32")).buffer)], [-7, 0, 7, 15]);
	assert.deepEqual([...await gpu.read(factors)], [1, 1]);
	gpu.free(codes, factors);
});

Deno.test("roundScales() keeps zeros, the smallest f16 and the largest", async () => {
	const layout: BillmLayout = { rows: 6, cols: 32, blockSize: 32, zones: 1, planes: 0 };
	const before = Float32Array.of(
		0,
		0,
		2 ** -24,
		1,
		-(2 ** -24),
		2 ** -17,
		65504,
		-65504,
		1e-5,
		3e-5,
		0,
		1,
	);
	using scales = gpu.upload(before, [6, 1, 2]);
	const { codes, factors } = await roundScales(gpu, layout, scales);
	const read = new Int32Array((await gpu.read(codes, "u32")).buffer);
	const after = await gpu.read(scales);
	check(layout, before, after, read, await gpu.read(factors));
	assert.deepEqual([...read.subarray(0, 2)], [0, 0]);
	assert.deepEqual([...after.subarray(0, 2)], [0, 0]);
	assert.deepEqual([...after.subarray(4, 6)], [-(2 ** -24), 2 ** -17]); // 128 steps in codes of two
	assert.deepEqual([...read.subarray(6, 8)], [127, -127]);
	gpu.free(codes, factors);
});

Deno.test("rounded scales stay as they are when they are rounded again", async () => {
	const layout: BillmLayout = { rows: 40, cols: 512, blockSize: 32, zones: 2, planes: 2 };
	const before = normals(40 * 16 * 7, 3);
	using scales = gpu.upload(before, [40, 16, 7]);
	const once = await roundScales(gpu, layout, scales);
	const first = await gpu.read(scales);
	const codes = await gpu.read(once.codes, "u32");
	const twice = await roundScales(gpu, layout, scales);
	assert.deepEqual(await gpu.read(twice.codes, "u32"), codes);
	assert.deepEqual(await gpu.read(scales), first);
	gpu.free(once.codes, once.factors, twice.codes, twice.factors);
});

Deno.test("roundScales() reaches beyond the 65535 workgroups of one dimension", async () => {
	const layout: BillmLayout = { rows: 65600, cols: 1, blockSize: 32, zones: 1, planes: 0 };
	const before = Float32Array.from({ length: 2 * 65600 }, (_, i) => i % 2 ? 127 : (i % 1000) / 2);
	using scales = gpu.upload(before, [65600, 1, 2]);
	const { codes, factors } = await roundScales(gpu, layout, scales);
	const read = new Int32Array((await gpu.read(codes, "u32")).buffer);
	// Each row has one mean and one scale: they are its largest, unless zero.
	assert.equal(read.findIndex((code, i) => code !== (i % 1000 === 0 ? 0 : 127)), -1);
	gpu.free(codes, factors);
});
