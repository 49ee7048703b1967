import assert from "node:assert/strict";
import { tableOf } from "~/codecs/trellis/tables.ts";
import {
	hasTable,
	STATE_BITS,
	stepsOf,
	type Trellis,
	TRELLIS_BITS,
} from "~/codecs/trellis/trellis.ts";
import { stateAt } from "~/codecs/trellis/store.ts";
import { searchTiles, viterbiForm } from "~/codecs/trellis/viterbi.ts";
import {
	viterbiBytes,
	type ViterbiForm,
	viterbiKernel,
	viterbiShape,
} from "~/codecs/trellis/viterbi_source.ts";
import type { Gpu } from "~/gpu/device.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { gpu } from "../../gpu/gpu.ts";
import { normals } from "../../reference/random.ts";
import { tailBitingWalk, walkBits } from "../../reference/trellis.ts";

const TRELLISES = STATE_BITS.flatMap((stateBits) =>
	TRELLIS_BITS.map((bits): Trellis => ({ bits, stateBits }))
).filter(hasTable);

/** Searches one column of tiles of a matrix; what is outside the column must stay NaN. */
async function searched(
	gpu: Gpu,
	trellis: Trellis,
	weight: Float32Array,
	rows: number,
	first: number,
	form?: ViterbiForm,
): Promise<{ values: Float32Array; stream: Uint32Array }> {
	const cols = weight.length / rows;
	const spread = Float32Array.from({ length: rows }, (_, row) => 2 ** (row % 3 - 1));
	using weightTensor = gpu.upload(weight, [rows, cols]);
	using spreadTensor = gpu.upload(spread, [rows]);
	using values = gpu.empty([rows, cols]);
	const { words } = stepsOf(trellis);
	const tiles = [Math.ceil(rows / 16), Math.ceil(cols / 16), words];
	using stream = gpu.empty(tiles, "u32");
	const search = { trellis, weight: weightTensor, spread: spreadTensor, first, values, stream };
	await searchTiles(gpu, search, form);
	return { values: await gpu.read(values), stream: await gpu.read(stream, "u32") };
}

/** The same, in f64. */
function searchedReference(
	trellis: Trellis,
	weight: Float32Array,
	rows: number,
	first: number,
): { walks: number[][]; streams: Uint32Array[] } {
	const cols = weight.length / rows;
	const reference = { ...trellis, ...stepsOf(trellis), table: tableOf(trellis) };
	const walks = Array.from({ length: Math.ceil(rows / 16) }, (_, tile) => {
		const tileWeights = Array.from({ length: 256 }, (_, e) => {
			const [row, col] = [16 * tile + (e >> 4), first + (e & 15)];
			return row < rows && col < cols ? weight[row * cols + col] / 2 ** (row % 3 - 1) : 0;
		});
		return tailBitingWalk(tileWeights, reference);
	});
	return { walks, streams: walks.map((walk) => walkBits(walk, reference)) };
}

async function assertSearched(
	gpu: Gpu,
	trellis: Trellis,
	rows: number,
	cols: number,
	first: number,
	form?: ViterbiForm,
): Promise<void> {
	const weight = normals(rows * cols, rows + cols);
	const { values, stream } = await searched(gpu, trellis, weight, rows, first, form);
	const { walks, streams } = searchedReference(trellis, weight, rows, first);
	const { words, stepWeights, steps } = stepsOf(trellis);
	const beside = Math.ceil(cols / 16);
	const table = tableOf(trellis);
	walks.forEach((walk, tile) => {
		const at = (tile * beside + first / 16) * words;
		const what = `${JSON.stringify(trellis)}, tile ${tile} of ${rows} x ${cols}`;
		assert.deepEqual(stream.subarray(at, at + words), streams[tile], what);
		for (let step = 0; step < steps; step++) {
			// The ring holds all bits of each state, also of those that begin before its first bit.
			assert.equal(stateAt(trellis, stream, at, step), walk[step], what);
		}
	});
	values.forEach((value, i) => {
		const [row, col] = [Math.floor(i / cols), i % cols];
		const isSearched = col >= first && col < first + 16;
		if (!isSearched) return assert.ok(Number.isNaN(value));
		const e = (row % 16) * 16 + col % 16;
		const state = walks[Math.floor(row / 16)][Math.floor(e / stepWeights)];
		assert.equal(value, table[state * stepWeights + e % stepWeights]);
	});
}

for (const { kernels, gpu } of DEVICES) {
	for (const trellis of TRELLISES) {
		const { stateBits, bits } = trellis;
		Deno.test(`searchTiles() finds the walks of f64: ${stateBits} bits, rate ${bits}, ${kernels}`, async () => {
			await assertSearched(gpu, trellis, stateBits === 12 ? 20 : 40, 48, 16);
		});
	}

	Deno.test(`searchTiles() takes weights beyond the matrix as zeros, ${kernels}`, async () => {
		const trellis = { bits: 2, stateBits: 8 } as const;
		for (const [rows, cols, first] of [[1, 1, 0], [1, 40, 32], [17, 3, 0], [33, 18, 16]]) {
			await assertSearched(gpu, trellis, rows, cols, first);
		}
	});
}

/** Other numbers of threads, one buffer, and back pointers in workgroup memory, all or some. */
const FORMS: [Trellis, ViterbiForm][] = [
	[{ bits: 1, stateBits: 8 }, { threads: 8, buffers: 2, staged: 4 }],
	[{ bits: 1, stateBits: 8 }, { threads: 128, buffers: 1, staged: 16 }],
	[{ bits: 2, stateBits: 8 }, { threads: 4, buffers: 1, staged: 64 }],
	[{ bits: 2, stateBits: 8 }, { threads: 64, buffers: 2, staged: 2 }],
	[{ bits: 2.5, stateBits: 12 }, { threads: 32, buffers: 2, staged: 4 }],
	[{ bits: 1, stateBits: 12 }, { threads: 256, buffers: 1, staged: 8 }],
];

for (const [trellis, form] of FORMS) {
	Deno.test(`all forms of the search give the same: ${JSON.stringify({ ...trellis, ...form })}`, async () => {
		await assertSearched(gpu, trellis, 16, 16, 0, form);
	});
}

Deno.test("more tiles than a buffer of back pointers holds are searched in parts", async () => {
	const trellis = { bits: 2, stateBits: 8 } as const;
	const form = { threads: 64, buffers: 2, staged: 4 } as const;
	const rows = 16 * 5;
	const weight = normals(rows * 16, 1);
	const whole = await searched(gpu, trellis, weight, rows, 0, form);
	const { rows: pointers } = viterbiShape(trellis, form);
	const [most, dispatches] = [gpu.maxBinding, gpu.dispatch.bind(gpu)];
	const grids: number[] = [];
	Object.defineProperty(gpu, "maxBinding", {
		value: 2 * 4 * pointers * form.threads,
		configurable: true,
	});
	gpu.dispatch = (...call) => {
		grids.push(call[3][0]);
		dispatches(...call);
	};
	try {
		assert.deepEqual(await searched(gpu, trellis, weight, rows, 0, form), whole);
	} finally {
		delete (gpu as unknown as Record<string, unknown>).dispatch;
		Object.defineProperty(gpu, "maxBinding", { value: most });
	}
	assert.deepEqual(grids, [2, 2, 1]);
});

Deno.test("the form of the search fits any adapter's workgroup memory", () => {
	for (const trellis of TRELLISES) {
		for (const software of [true, false]) {
			for (const memory of [16384, 32768, 49152]) {
				const limits = { maxComputeWorkgroupStorageSize: memory };
				const adapter = { software, device: { limits }, name: "some" } as unknown as Gpu;
				const form = viterbiForm(adapter, trellis);
				assert.ok(viterbiBytes(trellis, form) <= memory);
				assert.ok(form.threads <= 256 && form.threads >= 32);
				assert.equal(bytesOf(viterbiKernel(trellis, form)), viterbiBytes(trellis, form));
			}
		}
	}
});

/** Bytes of the workgroup memory that a text declares. */
function bytesOf(source: string): number {
	let bytes = 0;
	for (const [, type] of source.matchAll(/var<workgroup> \w+: ([^;]+);/g)) {
		const lengths = [...type.matchAll(/, (\d+)>/g)].map(([, length]) => Number(length));
		bytes += lengths.reduce((a, b) => a * b, type.includes("vec4f") ? 16 : 4);
	}
	return bytes;
}
