import assert from "node:assert/strict";
import type { Gpu } from "~/gpu/device.ts";
import { type AttentionHeads, segmentAttention } from "~/gpu/kernels/attention/attention.ts";
import { assertClose } from "../../../assert_close.ts";
import { attentionReference } from "../../../reference/attention.ts";
import { normals } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";
import { openGpu } from "../../open_gpu.ts";

/** Own tokens of a text and of each of those that go on from it; those of none are its own length. */
type Tree = [own: number, ...branches: number[]];

/** Texts of one token, shorter and longer than tiles (8 to 64), with branches of all such lengths. */
const TREES: Tree[] = [
	[33, 1, 65, 7],
	[1, 1, 1],
	[130, 100],
	[64, 64, 3],
	[7, 40],
	[100, 31, 33, 2, 1],
];
/** A row that belongs to no text, between two trees. */
const GAP = 3;

/**
 * Compares every text with the reference for a window of its own: its prefix's rows, then its own.
 *
 * @param shape Heads of the attention.
 */
async function check(gpu: Gpu, shape: Omit<AttentionHeads, "sinks"> & { sinks?: Float32Array }) {
	const { heads, keyValueHeads, headDim } = shape;
	const segments: [prefix: number, prefixRows: number, own: number, length: number][] = [];
	let tokens = 0;
	for (const [own, ...branches] of TREES) {
		const root = tokens;
		segments.push([0, 0, root, own]);
		tokens += own;
		for (const branch of branches) {
			segments.push([root, own, tokens, own + branch]);
			tokens += branch;
		}
		tokens += GAP;
	}
	const q = normals(tokens * heads * headDim, 1);
	const k = normals(tokens * keyValueHeads * headDim, 2);
	const v = normals(tokens * keyValueHeads * headDim, 3);
	using qTensor = gpu.upload(q, [tokens, heads * headDim]);
	using kTensor = gpu.upload(k, [tokens, keyValueHeads * headDim]);
	using vTensor = gpu.upload(v, [tokens, keyValueHeads * headDim]);
	using table = gpu.upload(Uint32Array.from(segments.flat()), [segments.length, 4]);
	const longest = Math.max(...segments.map(([, rows, , length]) => length - rows));
	const length = Math.max(...segments.map(([, , , length]) => length));
	using sinks = shape.sinks && gpu.upload(shape.sinks, [heads]);
	using out = await segmentAttention(
		gpu,
		qTensor,
		kTensor,
		vTensor,
		{ table, longest, length },
		{ ...shape, sinks },
	);
	const actual = await gpu.read(out);
	for (const [prefix, prefixRows, own, length] of segments) {
		const rowsOf = (all: Float32Array, width: number) =>
			Float32Array.of(
				...all.subarray(prefix * width, (prefix + prefixRows) * width),
				...all.subarray(own * width, (own + length - prefixRows) * width),
			);
		const [width, keyWidth] = [heads * headDim, keyValueHeads * headDim];
		const expected = attentionReference(
			rowsOf(q, width),
			rowsOf(k, keyWidth),
			rowsOf(v, keyWidth),
			{ ...shape, length },
		);
		assertClose(
			actual.subarray(own * width, (own + length - prefixRows) * width),
			expected.subarray(prefixRows * width),
			{ abs: 4e-6, what: JSON.stringify({ ...shape, prefixRows, length }) }, // as in attention_test.ts
		);
	}
}

for (const { kernels, gpu } of DEVICES) {
	for (const headDim of [6, 8, 64, 128]) {
		Deno.test(`segmentAttention() with ${kernels} agrees with the reference for heads of ${headDim}`, async () => {
			await check(gpu, { heads: 2, keyValueHeads: 1, headDim });
		});
	}

	for (const slidingWindow of [1, 5, 33, 64, 100, 165, 4096]) {
		Deno.test(`segmentAttention() with ${kernels} agrees with the reference on ${slidingWindow} tokens`, async () => {
			await check(gpu, { heads: 2, keyValueHeads: 2, headDim: 8, slidingWindow });
			await check(gpu, { heads: 1, keyValueHeads: 1, headDim: 64, slidingWindow });
		});
	}

	Deno.test(`segmentAttention() with ${kernels} scales and caps scores`, async () => {
		for (const headDim of [8, 64]) {
			await check(gpu, { heads: 2, keyValueHeads: 1, headDim, scale: 0.4, cap: 1.5 });
		}
	});

	Deno.test(`segmentAttention() with ${kernels} gives a share to sinks`, async () => {
		const shape = { heads: 2, keyValueHeads: 1, sinks: Float32Array.of(-1, 4) };
		await check(gpu, { ...shape, headDim: 8 });
		await check(gpu, { ...shape, headDim: 64, slidingWindow: 5 });
	});
}

Deno.test("segmentAttention() writes no row but those of segments", async () => {
	const gpu = await openGpu();
	using x = gpu.upload(normals(5 * 8, 4), [5, 8]);
	using table = gpu.upload(Uint32Array.of(0, 0, 1, 2), [1, 4]); // rows 1 and 2 of 5
	const shape = { heads: 1, keyValueHeads: 1, headDim: 8 };
	using out = await segmentAttention(gpu, x, x, x, { table, longest: 2, length: 2 }, shape);
	const written = (await gpu.read(out)).map((value) => Number(!Number.isNaN(value))); // new ones are NaN
	assert.deepEqual([0, 1, 2, 3, 4].map((row) => written[row * 8]), [0, 1, 1, 0, 0]);
});
