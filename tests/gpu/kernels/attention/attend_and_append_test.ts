import assert from "node:assert/strict";
import type { Gpu } from "~/gpu/device.ts";
import {
	attendAndAppend,
	type CacheDtype,
	cacheWidth,
} from "~/gpu/kernels/attention/attention_decode.ts";
import type { Tensor } from "~/gpu/tensor.ts";
import { assertClose } from "../../../assert_close.ts";
import { ropeHead } from "../../../reference/decoder.ts";
import { normals, uniforms } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";
import { watchKernels } from "../../open_gpu.ts";

interface Shape {
	heads: number;
	keyValueHeads: number;
	headDim: number;
	/** Tokens in the cache. */
	start: number;
	slidingWindow?: number;
	rotate?: boolean;
	/** Pairs of each head that are turned; all if absent. */
	pairs?: number;
	interleaved?: boolean;
	scale?: number;
	cap?: number;
	sinks?: Float32Array;
}

/** Turns each head by the angles of a position. */
function turned(
	x: Float32Array,
	angles: Float32Array,
	{ headDim, interleaved }: Shape,
): Float64Array {
	const table = [...angles].flatMap((angle) => [Math.cos(angle), Math.sin(angle)]);
	const out = new Float64Array(x.length);
	for (let at = 0; at < x.length; at += headDim) {
		out.set(ropeHead(x.subarray(at, at + headDim), table, interleaved), at);
	}
	return out;
}

/** Attention of one query to rows of keys and values in f64. */
function reference(q: Float64Array, keys: ArrayLike<number>[], values: ArrayLike<number>[], {
	heads,
	keyValueHeads,
	headDim,
	scale = 1 / Math.sqrt(headDim),
	cap,
	sinks,
}: Shape): Float64Array {
	const out = new Float64Array(heads * headDim);
	for (let head = 0; head < heads; head++) {
		const at = Math.floor(head * keyValueHeads / heads) * headDim;
		const scores = keys.map((key) => {
			let dot = 0;
			for (let i = 0; i < headDim; i++) dot += q[head * headDim + i] * key[at + i];
			return cap ? cap * Math.tanh(dot * scale / cap) : dot * scale;
		});
		const all = sinks ? [...scores, sinks[head]] : scores;
		const top = Math.max(...all);
		const sum = all.reduce((total, score) => total + Math.exp(score - top), 0);
		scores.forEach((score, j) => {
			const weight = Math.exp(score - top) / sum;
			for (let i = 0; i < headDim; i++) out[head * headDim + i] += weight * values[j][at + i];
		});
	}
	return out;
}

async function check(gpu: Gpu, shape: Shape, dtype: CacheDtype): Promise<void> {
	const { heads, keyValueHeads, headDim, start, slidingWindow = Infinity, rotate = true } = shape;
	const what = JSON.stringify({ ...shape, dtype });
	const round = dtype === "f32" ? Math.fround : Math.f16round;
	const pairCount = Math.ceil(shape.pairs ?? headDim / 2);
	const narrow = keyValueHeads * headDim;
	const width = cacheWidth(keyValueHeads, headDim);
	const padded = width / keyValueHeads;
	const capacity = start + 3;
	const place = (i: number) => Math.floor(i / headDim) * padded + i % headDim; // in a row

	const q = normals(heads * headDim, 1);
	const k = normals(narrow, 2);
	const v = normals(narrow, 3);
	v[narrow - 1] = -1e6; // more than f16 holds
	const angles = uniforms(pairCount * capacity, 4, -10, 10);
	const pairs = Float32Array.from(
		{ length: 2 * angles.length },
		(_, i) => i % 2 ? Math.sin(angles[i >> 1]) : Math.cos(angles[i >> 1]),
	);
	/** The cache's rows, NaN from the new one on. */
	const rows = (seed: number) => {
		const all = new Float32Array(capacity * width).fill(NaN, start * width);
		const values = normals(start * narrow, seed).map(round);
		values.forEach((value, i) => {
			all[Math.floor(i / narrow) * width + place(i % narrow)] = value;
		});
		return all;
	};
	const upload = (all: Float32Array) =>
		dtype === "f32"
			? gpu.upload(all, [capacity, width])
			: gpu.upload(Float16Array.from(all), [capacity, width], "f16");
	const [keysBefore, valuesBefore] = [rows(5), rows(6)];
	// As views of one buffer, which begin at multiples of 256 bytes.
	const starts = [0, 64 * Math.ceil(q.length / 64)];
	starts.push(starts[1] + 64 * Math.ceil(narrow / 64));
	const together = new Float32Array(starts[2] + narrow);
	[q, k, v].forEach((x, i) => together.set(x, starts[i]));
	using all = gpu.upload(together, [together.length]);
	using table = gpu.upload(pairs, [capacity, pairs.length / capacity / 2, 2]);
	using keys = upload(keysBefore);
	using values = upload(valuesBefore);

	using sinks = shape.sinks && gpu.upload(shape.sinks, [heads]);
	using out = await attendAndAppend(gpu, {
		...shape,
		sinks,
		q: all.view(starts[0], [1, q.length]),
		k: all.view(starts[1], [1, narrow]),
		v: all.view(starts[2], [1, narrow]),
		keys,
		values,
		table: rotate ? table : undefined,
	});

	const angle = angles.subarray(start * pairCount, (start + 1) * pairCount);
	const turn = (x: Float32Array) => rotate ? turned(x, angle, shape) : Float64Array.from(x);
	/** What the cache holds then, once its new row was checked. */
	const cached = async (tensor: Tensor, before: Float32Array, added: Float64Array) => {
		const bytes = await gpu.readBytes(tensor);
		const found = dtype === "f32"
			? new Float32Array(bytes.buffer)
			: Float32Array.from(new Float16Array(bytes.buffer));
		const expected = new Float64Array(width);
		added.forEach((value, i) => {
			expected[place(i)] = dtype === "f32" ? value : Math.max(-65504, Math.min(65504, value));
		});
		assertClose(found.subarray(start * width, (start + 1) * width), expected, {
			abs: 2e-6,
			rel: dtype === "f32" ? 1e-6 : 2 ** -10, // drivers may round to f16 either way
			what: `the new row, ${what}`,
		});
		const narrowed = Float64Array.from(
			{ length: (start + 1) * narrow },
			(_, i) => found[Math.floor(i / narrow) * width + place(i % narrow)],
		);
		found.copyWithin(start * width, (start + 1) * width); // NaN, as in the beginning
		assert.deepEqual(found.subarray(0, -width), before.subarray(0, -width), what);
		const row = (position: number) => narrowed.slice(position * narrow, (position + 1) * narrow);
		const first = Math.max(0, start + 1 - slidingWindow);
		return Array.from({ length: start + 1 - first }, (_, i) => row(first + i));
	};
	const keyRows = await cached(keys, keysBefore, turn(k));
	const valueRows = await cached(values, valuesBefore, Float64Array.from(v));
	assert.deepEqual(out.shape, [1, q.length]);
	assertClose(await gpu.read(out), reference(turn(q), keyRows, valueRows, shape), {
		abs: 1e-5, // of the scores, which reach 5, and so of the weights
		rel: 1e-5,
		what,
	});
	assert.deepEqual(await gpu.read(all), together, `the inputs stay as they are, ${what}`);
}

for (const { kernels, gpu } of DEVICES) {
	const name = `attendAndAppend() with ${kernels} agrees with the reference`;

	for (const dtype of ["f32", "f16"] as const) {
		for (const headDim of [2, 6, 20, 30, 64, 128]) {
			Deno.test(`${name} for heads of ${headDim} in ${dtype}`, async () => {
				for (const [heads, keyValueHeads] of [[1, 1], [6, 2], [5, 5]]) {
					const shape = { heads, keyValueHeads, headDim };
					for (const start of [0, 1, 37]) await check(gpu, { ...shape, start }, dtype);
				}
			});
		}

		Deno.test(`${name} for heads that are not turned, in ${dtype}`, async () => {
			for (const headDim of [1, 7, 32]) {
				const shape = { heads: 6, keyValueHeads: 3, headDim, rotate: false };
				for (const start of [0, 3, 70]) await check(gpu, { ...shape, start }, dtype);
			}
		});

		for (const start of [63, 64, 255, 256, 511, 512, 1023, 1024, 1100, 2048]) {
			Deno.test(`${name} behind ${start} tokens in ${dtype}`, async () => {
				const names = watchKernels(gpu);
				await check(gpu, { heads: 4, keyValueHeads: 2, headDim: 8, start }, dtype);
				assert.equal(names.has("attention_combine"), start >= (gpu.software ? 1024 : 512));
			});
		}

		Deno.test(`${name} for other pairs, scales and caps, in ${dtype}`, async () => {
			const shape = { heads: 6, keyValueHeads: 2, headDim: 20, start: 37 };
			for (const pairs of [1, 6, 10]) {
				for (const interleaved of [false, true]) {
					await check(gpu, { ...shape, pairs, interleaved }, dtype);
				}
			}
			await check(gpu, { ...shape, scale: 0.6 }, dtype);
			await check(gpu, { ...shape, scale: 0.5, cap: 1.5, start: 1100 }, dtype);
		});

		Deno.test(`${name} for heads with sinks, in ${dtype}`, async () => {
			const shape = { heads: 2, keyValueHeads: 1, headDim: 20, sinks: Float32Array.of(-1, 4) };
			for (const start of [0, 37, 1100]) await check(gpu, { ...shape, start }, dtype);
		});

		Deno.test(`${name} where a window slides, in ${dtype}`, async () => {
			const shape = { heads: 4, keyValueHeads: 2, headDim: 16 };
			for (const slidingWindow of [1, 2, 7, 64, 100, 101, 102]) {
				await check(gpu, { ...shape, slidingWindow, start: 100 }, dtype);
			}
			for (const slidingWindow of [600, 1100]) {
				await check(gpu, { ...shape, slidingWindow, start: 1300 }, dtype);
			}
		});
	}
}
