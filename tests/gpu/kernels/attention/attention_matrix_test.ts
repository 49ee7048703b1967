import assert from "node:assert/strict";
import {
	attention,
	type AttentionShape,
	segmentAttention,
} from "~/gpu/kernels/attention/attention.ts";
import { assertClose } from "../../../assert_close.ts";
import { attentionReference } from "../../../reference/attention.ts";
import { normals } from "../../../reference/random.ts";
import { emulatedNames, openWithMatrices } from "../../emulated_matrices.ts";

const gpu = await openWithMatrices();

const rounded = (values: Float32Array) => Float32Array.from(new Float16Array(values));

/** Compares with the reference for the rounded operands; weights have 11 bits. */
async function check(shape: AttentionShape, windows: number, sharpness = 1) {
	const { heads, keyValueHeads, headDim, length } = shape;
	const tokens = windows * length;
	const q = rounded(normals(tokens * heads * headDim, headDim, sharpness));
	// The scores rise, now and then far.
	const k = rounded(
		normals(tokens * keyValueHeads * headDim, length).map((value, i) =>
			value * (1 + Math.floor(i / keyValueHeads / headDim) % length / length)
		),
	);
	const v = rounded(normals(tokens * keyValueHeads * headDim, heads));
	using qTensor = gpu.upload(q, [tokens, heads * headDim]);
	using kTensor = gpu.upload(k, [tokens, keyValueHeads * headDim]);
	using vTensor = gpu.upload(v, [tokens, keyValueHeads * headDim]);
	using out = await attention(gpu, qTensor, kTensor, vTensor, shape);
	assert.ok(emulatedNames.some((name) => name.startsWith(`attention_matrix_${headDim}_`)));
	assertClose(await gpu.read(out), attentionReference(q, k, v, { ...shape, sinks: undefined }), {
		abs: 1e-3,
		what: JSON.stringify({ ...shape, windows, sharpness }),
	});
}

Deno.test("attention() on tensor cores agrees with the reference", async () => {
	const shape = { headDim: 64 };
	await check({ ...shape, heads: 4, keyValueHeads: 2, length: 100 }, 2);
	await check({ ...shape, heads: 1, keyValueHeads: 1, length: 64 }, 1, 20);
});

Deno.test("segmentAttention() on tensor cores slides, caps scores and has sinks", async () => {
	const [heads, headDim, prefix] = [2, 64, 40];
	const sinks = Float32Array.of(-9, 4);
	const shape = { heads, keyValueHeads: 1, headDim, slidingWindow: 50, cap: 8 };
	const lengths = [30, 70]; // after the prefix
	const rows = prefix + lengths[0] + lengths[1];
	const random = (width: number, seed: number) => rounded(normals(rows * width, seed, 2));
	const [q, k, v] = [random(heads * headDim, 1), random(headDim, 2), random(headDim, 3)];
	const table = Uint32Array.from([
		...[0, 0, 0, prefix],
		...[0, prefix, prefix, prefix + lengths[0]],
		...[0, prefix, prefix + lengths[0], prefix + lengths[1]],
	]);
	using qTensor = gpu.upload(q, [rows, heads * headDim]);
	using kTensor = gpu.upload(k, [rows, headDim]);
	using vTensor = gpu.upload(v, [rows, headDim]);
	using segments = gpu.upload(table, [3, 4]);
	using sinkTensor = gpu.upload(sinks, [heads]);
	const options = { table: segments, longest: 70, length: prefix + 70 };
	const attended = { ...shape, sinks: sinkTensor };
	using out = await segmentAttention(gpu, qTensor, kTensor, vTensor, options, attended);
	const actual = await gpu.read(out);
	let first = prefix;
	for (const length of lengths) {
		const take = (values: Float32Array, width: number) =>
			Float32Array.of(
				...values.subarray(0, prefix * width),
				...values.subarray(first * width, (first + length) * width),
			);
		const expected = attentionReference(
			take(q, heads * headDim),
			take(k, headDim),
			take(v, headDim),
			{ ...shape, sinks, length: prefix + length },
		);
		const width = heads * headDim;
		assertClose(
			Float32Array.of(
				...actual.subarray(0, prefix * width),
				...actual.subarray(first * width, (first + length) * width),
			),
			expected,
			{ abs: 1e-3, what: `a segment of ${length}` },
		);
		first += length;
	}
});
