import assert from "node:assert/strict";
import type { Gpu } from "~/gpu/device.ts";
import {
	gemm,
	type GemmLayout,
	type Matrix,
	queueTiles,
	TILES,
} from "~/gpu/kernels/matmul/gemm.ts";
import {
	tileKernelBytes,
	tileName,
	type TileShape,
} from "~/gpu/kernels/matmul/gemm_tile_source.ts";
import { assertClose } from "../../../assert_close.ts";
import { matmul, transposed } from "../../../reference/linear_algebra.ts";
import { uniforms } from "../../../reference/random.ts";
import { openAsHardware, openGpu, watchKernels } from "../../open_gpu.ts";

/** Where a matrix lies in its tensor. */
interface Placement {
	/** Elements before it. */
	before: number;
	/** Elements beyond the end of each row, and that many more to a multiple of `align`. */
	gap: number;
	align: number;
}

interface Extras {
	alpha?: number;
	bias?: boolean;
	residual?: boolean;
	accumulate?: boolean;
	upperOnly?: boolean;
}

const LAYOUTS: GemmLayout[] = ["NN", "NT", "TN"];

// Both sides of the tiles (64 or 128 rows, 64 or 128 columns, 16 deep) and of their vec4.
const SIZES = [
	[1, 1, 1],
	[2, 3, 4],
	[5, 4, 65],
	[33, 31, 5],
	[64, 128, 16],
	[63, 127, 15],
	[65, 129, 17],
	[64, 1, 2],
	[1, 64, 3],
	[127, 65, 33],
	[128, 128, 64],
	[130, 260, 36],
];

const PLACEMENTS: Placement[] = [
	{ before: 0, gap: 0, align: 1 },
	{ before: 8, gap: 1, align: 4 },
	{ before: 3, gap: 1, align: 1 },
	{ before: 2, gap: 0, align: 4 },
];

const EXTRAS: Extras[] = [
	{},
	{ alpha: -0.5, accumulate: true },
	{ bias: true },
	{ residual: true, alpha: 3 },
	{ bias: true, residual: true, accumulate: true, alpha: 2 },
];

/** A matrix in a tensor that holds something else everywhere else. */
interface Placed extends Matrix {
	values: Float32Array;
	content: Float32Array;
}

function place(
	gpu: Gpu,
	values: Float32Array,
	rows: number,
	cols: number,
	{ before, gap, align }: Placement,
	elsewhere = NaN,
): Placed {
	const stride = Math.ceil((cols + gap) / align) * align;
	const beyond = before > 0 ? 5 * stride : 0;
	const content = new Float32Array(before + rows * stride + beyond).fill(elsewhere);
	for (let i = 0; i < rows; i++) {
		content.set(values.subarray(i * cols, (i + 1) * cols), before + i * stride);
	}
	return { tensor: gpu.upload(content, [content.length]), start: before, stride, values, content };
}

/** Runs one product and compares C, and everything around it, with the reference. */
async function check(
	gpu: Gpu,
	layout: GemmLayout,
	[m, n, k]: number[],
	placement: Placement,
	{ bias, residual, upperOnly, ...factors }: Extras,
	tile = { rows: Infinity, cols: Infinity },
): Promise<void> {
	const seed = 31 * m + 7 * n + k;
	const [aRows, aCols] = layout === "TN" ? [k, m] : [m, k];
	const [bRows, bCols] = layout === "NT" ? [n, k] : [k, n];
	const a = place(gpu, uniforms(m * k, seed), aRows, aCols, placement);
	const b = place(gpu, uniforms(k * n, seed + 1), bRows, bCols, placement);
	const c = place(gpu, uniforms(m * n, seed + 2), m, n, placement, 12345); // must stay
	const r = place(gpu, uniforms(m * n, seed + 3), m, n, placement);
	const biasValues = uniforms(n, seed + 4);
	using biasTensor = gpu.upload(biasValues, [n]);
	await gemm(gpu, {
		layout,
		m,
		n,
		k,
		a,
		b,
		c,
		...factors,
		bias: bias ? biasTensor : undefined,
		residual: residual ? r : undefined,
		upperOnly,
	});

	const product = matmul(
		layout === "TN" ? transposed(a.values, k, m) : a.values,
		layout === "NT" ? transposed(b.values, n, k) : b.values,
		m,
		n,
		k,
	);
	const actual = await gpu.read(c.tensor);
	gpu.free(a.tensor, b.tensor, c.tensor, r.tensor);
	const at = (i: number, j: number) => c.start! + i * c.stride! + j;
	const expected = c.content.slice();
	for (let i = 0; i < m; i++) {
		for (let j = 0; j < n; j++) {
			const before = c.content[at(i, j)];
			let value = (factors.alpha ?? 1) * product[i * n + j];
			if (bias) value += biasValues[j];
			if (residual) value += r.values[i * n + j];
			if (factors.accumulate) value += before;
			const below = upperOnly && j < i;
			const tileLeft = Math.floor(j / tile.cols) * tile.cols;
			const tileTop = Math.floor(i / tile.rows) * tile.rows;
			const mayKeep = below && actual[at(i, j)] === before;
			const mustKeep = below && tileLeft + tile.cols <= tileTop;
			expected[at(i, j)] = mayKeep || mustKeep ? before : value;
		}
	}
	assertClose(actual, expected, {
		abs: (k + 4) * 2 ** -23 * Math.abs(factors.alpha ?? 1), // each term is at most 1
		what: `${layout} ${[m, n, k]} ${JSON.stringify({ ...placement, bias, residual, ...factors })}`,
	});
}

const workgroupMemory = (await openAsHardware()).device.limits.maxComputeWorkgroupStorageSize;

for (
	const { family, open, kernels, tile } of [{
		family: "suits the adapter",
		open: openGpu,
		kernels: undefined,
		tile: undefined,
	}, {
		family: "suits GPUs",
		open: openAsHardware,
		kernels: LAYOUTS.flatMap((layout) =>
			TILES.slice(0, 2).flatMap((tile) =>
				(["any", "aligned", "whole", "paired"] as const)
					// Software adapters have no room for two pairs of the large tiles of some layouts.
					.filter((fit) => tileKernelBytes(layout, tile, fit) <= workgroupMemory)
					.map((fit) => `gemm_${layout}_${tileName(tile)}_${fit}`)
			)
		),
		tile: { rows: 64, cols: 64 },
	}]
) {
	const gpu = await open();
	const used = watchKernels(gpu);

	for (const layout of LAYOUTS) {
		Deno.test(`gemm() that ${family}, ${layout}, equals the reference at all sizes and strides`, async () => {
			let turn = 0;
			for (const size of SIZES) {
				for (const placement of PLACEMENTS) {
					await check(gpu, layout, size, placement, EXTRAS[turn++ % EXTRAS.length]);
				}
			}
			for (const size of [[128, 256, 8], [100, 256, 8], [128, 200, 8]]) { // whole tiles or nearly
				for (const placement of PLACEMENTS) await check(gpu, layout, size, placement, {});
			}
		});

		Deno.test(`gemm() that ${family}, ${layout}, adds bias, residual and C in any combination`, async () => {
			for (let bits = 0; bits < 16; bits++) {
				const extras = {
					bias: (bits & 1) > 0,
					residual: (bits & 2) > 0,
					accumulate: (bits & 4) > 0,
					alpha: bits & 8 ? -1.5 : undefined,
				};
				await check(gpu, layout, [66, 68, 20], PLACEMENTS[0], extras);
				await check(gpu, layout, [64, 128, 8], PLACEMENTS[1], extras);
				await check(gpu, layout, [64, 128, 48], PLACEMENTS[1], extras);
				await check(gpu, layout, [64, 128, 64], PLACEMENTS[1], extras);
				await check(gpu, layout, [7, 9, 11], PLACEMENTS[2], extras);
			}
		});

		// Enough tiles of 128 x 128 for a GPU to take them.
		Deno.test(`gemm() that ${family}, ${layout}, equals the reference on a wide C`, async () => {
			await check(gpu, layout, [129, 63 * 128 + 4, 20], PLACEMENTS[0], EXTRAS[4]);
			await check(gpu, layout, [129, 63 * 128 + 5, 17], PLACEMENTS[2], EXTRAS[4]);
			await check(gpu, layout, [128, 128 * 128, 48], PLACEMENTS[1], EXTRAS[4]);
			await check(gpu, layout, [128, 128 * 128, 64], PLACEMENTS[1], EXTRAS[4]);
		});
	}

	Deno.test(`gemm() that ${family} leaves out tiles below the diagonal if told so`, async () => {
		const shape = tile ??
			(gpu.software && gpu.subgroupSize > 0
				? { rows: 64, cols: 8 * gpu.subgroupSize }
				: { rows: 64, cols: 64 });
		let turn = 0;
		for (const size of [256, 260, 385]) {
			for (const placement of PLACEMENTS) {
				const extras = { ...EXTRAS[turn++ % EXTRAS.length], upperOnly: true };
				await check(gpu, "TN", [size, size, 8], placement, extras, shape);
			}
		}
		await check(gpu, "NT", [300, 200, 8], PLACEMENTS[0], { upperOnly: true }, shape);
		await check(gpu, "NN", [200, 300, 8], PLACEMENTS[0], { upperOnly: true }, shape);
		if (!tile) return;
		const large = { rows: 128, cols: 128 };
		await check(gpu, "TN", [1420, 1420, 4], PLACEMENTS[0], { upperOnly: true }, large);
	});

	Deno.test(`gemm() that ${family} takes whole tensors and does nothing for an empty C`, async () => {
		using a = gpu.upload(new Float32Array([1, 2, 3, 4]), [2, 2]);
		using c = gpu.zeros([2, 2]);
		await gemm(gpu, { layout: "NT", m: 2, n: 2, k: 2, a, b: a, c });
		assertClose(await gpu.read(c), [5, 11, 11, 25]);
		await gemm(gpu, { layout: "NT", m: 0, n: 2, k: 2, a, b: a, c });
		await gemm(gpu, { layout: "NT", m: 2, n: 0, k: 2, a, b: a, c });
		assertClose(await gpu.read(c), [5, 11, 11, 25]);
	});

	Deno.test(`the tests of gemm() that ${family} reach every kernel`, () => {
		const products = [...used].filter((name) => /^gemm_/.test(name)).sort();
		const expected = kernels ?? [
			...LAYOUTS.map((layout) => `gemm_broadcast_${layout}_${gpu.subgroupSize}`),
			...["aligned", "any"].flatMap((fit) =>
				[0, 1, 2, 3, 4, 5, 6, 7].map((flags) => `gemm_finish_${fit}_${flags}`)
			),
		];
		if (kernels || (gpu.software && gpu.subgroupSize > 0)) {
			assert.deepEqual(products, expected.toSorted());
		}
	});
}

// In this file, as the driver has most of these kernels from the tests above.
Deno.test("tiles of all shapes give the same bits", async () => {
	await using hardware = await openAsHardware();
	const memory = hardware.device.limits.maxComputeWorkgroupStorageSize;
	const [m, n, k] = [256, 256, 96];
	using x = hardware.upload(uniforms(256 * 256, 5), [256, 256]);
	const a = { tensor: x, start: 0, stride: 256 };
	const product = async (layout: GemmLayout, tile: TileShape, rows: number) => {
		using tensor = hardware.empty([m, n]);
		const c = { tensor, start: 0, stride: n };
		await queueTiles(hardware, { layout, m: rows, n, k, a, b: a, c }, tile);
		return (await hardware.read(tensor)).subarray(0, (m - 4) * n);
	};
	// One layout for each tile but the first: a software adapter takes seconds to compile one.
	const [usual, ...others] = TILES;
	for (const [i, layout] of LAYOUTS.entries()) {
		const expected = await product(layout, usual, m);
		// deepEqual() takes all memory there is for the message of arrays that differ everywhere.
		const assertSame = (actual: Float32Array, what: string) =>
			assert.equal(actual.findIndex((value, i) => value !== expected[i]), -1, what);
		assertSame(await product(layout, usual, m - 4), `${layout}, parts of tiles`);
		for (const tile of others.filter((_, turn) => turn % LAYOUTS.length === i)) {
			if (tileKernelBytes(layout, tile, "aligned") > memory) continue;
			assertSame(await product(layout, tile, m), `${layout} ${tileName(tile)}`);
		}
	}
});
