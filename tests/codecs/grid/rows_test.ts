import assert from "node:assert/strict";
import { grid } from "~/codecs/grid/codec.ts";
import type { GridLayout } from "~/codecs/grid/grid.ts";
import type { GridWork } from "~/codecs/grid/row_code.ts";
import { uploadGrid, uploadGridGroup } from "~/codecs/grid/rows.ts";
import { canGroupRows } from "~/codecs/packed_rows/packed_rows.ts";
import { DEVICES, hardware } from "../../gpu/devices.ts";
import { gpu } from "../../gpu/gpu.ts";
import { openAsHardware, watchKernels } from "../../gpu/open_gpu.ts";
import { checkGroup, checkLayer, INPUTS } from "../packed_rows/check_products.ts";
import { randomGrid } from "./random_grid.ts";

/** Rows of each layer of a group, what they share, and whether columns have an order. */
type Case = [rows: number[], layout: Omit<GridLayout, "rows">, isOrdered?: boolean];

const range = (bits: 1 | 2 | 3 | 4 | 8, cols: number, groupSize = cols): Case[1] => ({
	...{ cols, groupSize, grid: "range", bits, salient: false },
});

const CASES: Case[] = [
	[[64, 40, 70], range(4, 256, 128)],
	[[13, 5], range(2, 700, 64), true],
	[[33], range(3, 129, 32)],
	[[1], range(8, 1)],
	[[9, 66], { ...range(4, 330, 96), zeros: "free" }],
	[[5], { ...range(8, 96, 32), zeros: "half" }],
	[[5], range(1, 64, 32), true],
	[[7], { ...range(1, 100), grid: "sign" }],
	[[6, 3], { ...range(1, 200, 64), grid: "mean", salient: true }, true],
	[[10], { ...range(2, 95, 32), salient: true }],
];

for (const { kernels, gpu } of DEVICES) {
	for (const [i, [rows, layout, isOrdered]] of CASES.entries()) {
		const { bits, cols, groupSize, grid: kind, salient } = layout;
		const what =
			`${kernels}: ${rows.join(", ")} rows, ${cols} columns of ${bits} bits in groups of ` +
			`${groupSize}, ${kind}${salient ? ", salient weights" : ""}${isOrdered ? ", ordered" : ""}`;
		Deno.test(`products of grids agree with f64, ${what}`, async () => {
			const hosts = rows.map((rows) => randomGrid({ ...layout, rows }, 0.2, isOrdered).host);
			// Each input is a kernel of its own, alike for all forms: the first cases have all of them.
			await checkGroup(
				gpu,
				grid,
				hosts,
				i < 2 ? INPUTS.filter((_, k) => i === 0 || k % 2 === 0) : [INPUTS[i % 5]],
			);
		});
	}

	Deno.test(`products of grids agree with f64, ${kernels}: several panels of x and few tokens`, async () => {
		const layout = { ...range(2, 8256, 64), rows: 18 } as const;
		await checkLayer(gpu, grid, randomGrid(layout, 0).host, [1, 3]);
	});

	Deno.test(`${kernels}: unpacked rows have the bits of the dequantized ones`, async () => {
		for (const [[rows], layout, isOrdered] of CASES) {
			const { host } = randomGrid({ ...layout, rows }, 0.2, isOrdered);
			using weight = uploadGrid(gpu, host);
			const first = rows >> 1;
			using values = await weight.layer.unpack(gpu, first, rows - first);
			assert.deepEqual(await gpu.read(values), grid.dequantize(host, first));
		}
	});
}

Deno.test("products of grids agree with f64 however they divide their work", async () => {
	const gpu = hardware;
	const names = watchKernels(gpu);
	const hosts = [20, 9].map((rows) => randomGrid({ ...range(3, 160, 32), rows }, 0).host);
	const works: Partial<GridWork>[] = [{ rows: 4, bands: 2 }, { rows: 16, bands: 1 }];
	for (const work of works) {
		const uploadGroup = () => Promise.resolve(uploadGridGroup(gpu, hosts, work));
		await checkGroup(gpu, { ...grid, uploadGroup }, hosts, ["rms"], [1]);
	}
	for (const name of ["grid_3_4_", "grid_3_16_"]) {
		assert([...names].some((found) => found.startsWith(`row_vector_${name}`)), [...names].join());
	}
});

Deno.test("the codes of the next panel are loaded ahead", async () => {
	const gpu = hardware;
	const hosts = [12].map((rows) =>
		randomGrid({ ...range(2, 4256, 32), salient: true, rows }, 0.1).host
	);
	const work = { rows: 4, bands: 2, threads: 64, isAhead: true };
	const uploadGroup = () => Promise.resolve(uploadGridGroup(gpu, hosts, work));
	await checkGroup(gpu, { ...grid, uploadGroup }, hosts, ["gated"], [1]);
});

Deno.test("on a GPU without subgroups, grids are summed in workgroup memory", async () => {
	const gpu = await openAsHardware();
	(gpu as { subgroupSize: number }).subgroupSize = 0;
	const names = watchKernels(gpu);
	const hosts = [20, 9].map((rows) => randomGrid({ ...range(4, 1000, 64), rows }, 0).host);
	await checkGroup(gpu, grid, hosts, ["plain", "rms"]);
	assert([...names].some((name) => /^row_vector_grid_4_8_32_rms/.test(name)), [...names].join());
});

Deno.test("layers that exceed a binding together are no group", () => {
	const layer = { rows: 1000 };
	const of = (count: number, maxBinding: number) =>
		canGroupRows({ maxBinding }, Array(count).fill(layer), () => [], 100);
	assert(of(2, 4 * 100 * 2024));
	assert(!of(2, 4 * 100 * 2023), "1000 rows from row 1024 on");
	assert(of(1, 4 * 100 * 1000));
});

Deno.test("grids of different layouts are no group", async () => {
	const { host } = randomGrid({ ...range(4, 128, 64), rows: 8 }, 0);
	const others: Partial<GridLayout>[] = [
		{ bits: 3 },
		{ groupSize: 32 },
		{ cols: 96 },
		{ salient: true },
		{ bits: 1, grid: "mean" },
	];
	for (const other of others) {
		const layout = { ...range(4, 128, 64), rows: 8, ...other };
		assert.equal(await grid.uploadGroup!(gpu, [host, randomGrid(layout, 0.1).host]), undefined);
	}
	assert.equal(await grid.uploadGroup!(gpu, [host, host, host, host]), undefined, "four layers");
	const ordered = randomGrid({ ...range(4, 128, 64), rows: 8 }, 0, true).host;
	assert.equal(await grid.uploadGroup!(gpu, [host, ordered]), undefined);
});
