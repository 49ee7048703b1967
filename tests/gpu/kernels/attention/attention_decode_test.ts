import assert from "node:assert/strict";
import type { Gpu } from "~/gpu/device.ts";
import {
	attentionDecode,
	type CacheDtype,
	cacheWidth,
} from "~/gpu/kernels/attention/attention_decode.ts";
import { assertClose } from "../../../assert_close.ts";
import { attentionReference } from "../../../reference/attention.ts";
import { normals } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";
import { watchKernels } from "../../open_gpu.ts";

interface Shape {
	heads: number;
	keyValueHeads: number;
	headDim: number;
	/** Tokens in the cache, those that are asked for among them. */
	length: number;
	slidingWindow?: number;
	scale?: number;
	cap?: number;
	sinks?: Float32Array;
}

/** Keys or values as a cache holds them: heads padded with zeros, NaN behind the last token. */
function cached(gpu: Gpu, x: Float32Array, { keyValueHeads, headDim }: Shape, dtype: CacheDtype) {
	const width = cacheWidth(keyValueHeads, headDim);
	const padded = width / keyValueHeads;
	const rows = x.length / keyValueHeads / headDim;
	const capacity = rows + 3;
	const all = new Float32Array(capacity * width).fill(NaN, rows * width);
	for (let i = 0; i < x.length; i++) {
		all[Math.floor(i / headDim) * padded + i % headDim] = x[i];
	}
	return dtype === "f32"
		? gpu.upload(all, [capacity, width])
		: gpu.upload(Float16Array.from(all), [capacity, width], "f16");
}

/**
 * @param queries The last so many tokens are asked for.
 * @param sharpness Factor of the queries: at 20 a few keys take all the weight.
 */
async function check(
	gpu: Gpu,
	shape: Shape,
	queries = 1,
	{ dtype = "f32", sharpness = 1 }: { dtype?: CacheDtype; sharpness?: number } = {},
) {
	const { heads, keyValueHeads, headDim, length } = shape;
	const start = length - queries;
	const round = dtype === "f32" ? Math.fround : Math.f16round;
	const q = normals(length * heads * headDim, headDim, sharpness);
	const k = normals(length * keyValueHeads * headDim, length).map(round);
	const v = normals(length * keyValueHeads * headDim, heads).map(round);
	using asked = gpu.upload(q.slice(start * heads * headDim), [queries, heads * headDim]);
	using keys = cached(gpu, k, shape, dtype);
	using values = cached(gpu, v, shape, dtype);
	using sinks = shape.sinks && gpu.upload(shape.sinks, [heads]);
	using out = await attentionDecode(gpu, asked, keys, values, { ...shape, sinks, start });
	assert.deepEqual(out.shape, asked.shape);
	const expected = attentionReference(q, k, v, { ...shape, start })
		.subarray(start * heads * headDim);
	assertClose(await gpu.read(out), expected, {
		abs: 4e-6 * Math.max(sharpness, 1), // scores reach 5 · sharpness, their rounding is a relative error of exp
		what: JSON.stringify({ ...shape, queries, dtype, sharpness }),
	});
}

for (const { kernels, gpu } of DEVICES) {
	const name = `attentionDecode() with ${kernels} agrees with the reference`;

	Deno.test(`${name} for other scales and caps`, async () => {
		const shape = { heads: 6, keyValueHeads: 2, headDim: 20, length: 40 };
		await check(gpu, { ...shape, scale: 0.6 }, 3);
		await check(gpu, { ...shape, scale: 0.5, cap: 1.5 }, 3);
	});

	Deno.test(`${name} for heads with sinks`, async () => {
		const shape = { heads: 4, keyValueHeads: 2, headDim: 20, sinks: Float32Array.of(-9, 0, 3, 30) };
		for (const length of [5, 40, 1100, 2600]) await check(gpu, { ...shape, length }, 3);
		await check(gpu, { ...shape, length: 40, cap: 1.5, slidingWindow: 9 }, 3);
		await check(gpu, { ...shape, headDim: 64, length: 300 }, 1, { dtype: "f16" });
	});

	for (const headDim of [2, 4, 6, 7, 8, 20, 32, 48, 64, 80, 96, 128, 256]) {
		Deno.test(`${name} for heads of ${headDim}`, async () => {
			for (const dtype of ["f32", "f16"] as const) {
				await check(gpu, { heads: 1, keyValueHeads: 1, headDim, length: 33 }, 1, { dtype });
				await check(gpu, { heads: 6, keyValueHeads: 2, headDim, length: 17 }, 1, { dtype });
				await check(gpu, { heads: 4, keyValueHeads: 4, headDim, length: 300 }, 1, { dtype });
			}
		});
	}

	for (const length of [1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 1023, 1024]) {
		Deno.test(`${name} in a cache of ${length} tokens`, async () => {
			await check(gpu, { heads: 2, keyValueHeads: 2, headDim: 8, length });
			await check(gpu, { heads: 4, keyValueHeads: 1, headDim: 32, length }, 1, { dtype: "f16" });
		});
	}

	for (const length of [1025, 2047, 2048, 2049, 5000]) {
		Deno.test(`${name} in a cache of ${length} tokens, in several ranges`, async () => {
			const names = watchKernels(gpu);
			await check(gpu, { heads: 2, keyValueHeads: 1, headDim: 8, length });
			await check(gpu, { heads: 1, keyValueHeads: 1, headDim: 7, length }, 1, { dtype: "f16" });
			await check(gpu, { heads: 1, keyValueHeads: 1, headDim: 8, length }, 1, { sharpness: 20 });
			assert(names.has("attention_combine"));
		});
	}

	for (const slidingWindow of [1, 2, 15, 16, 17, 99, 100, 4096]) {
		Deno.test(`${name} on ${slidingWindow} tokens`, async () => {
			const shape = { heads: 4, keyValueHeads: 2, headDim: 8, slidingWindow };
			for (const length of [1, 17, 100]) await check(gpu, { ...shape, length });
			await check(gpu, { ...shape, headDim: 64, length: 200 }, 5);
		});
	}

	Deno.test(`${name} on more tokens than a workgroup takes, of those that slide`, async () => {
		const shape = { heads: 2, keyValueHeads: 1, headDim: 8, slidingWindow: 1500 };
		for (const length of [1499, 1500, 1501, 2600]) await check(gpu, { ...shape, length });
	});

	Deno.test(`${name} for several tokens`, async () => {
		for (const queries of [2, 5, 17]) {
			await check(gpu, { heads: 4, keyValueHeads: 2, headDim: 32, length: 40 }, queries);
			await check(gpu, { heads: 2, keyValueHeads: 2, headDim: 6, length: queries }, queries);
			await check(gpu, { heads: 2, keyValueHeads: 1, headDim: 8, length: 1030 }, queries);
		}
	});

	Deno.test(`${name} for scores far apart`, async () => {
		for (const sharpness of [0, 20, 1000]) {
			await check(gpu, { heads: 2, keyValueHeads: 1, headDim: 32, length: 100 }, 1, { sharpness });
		}
	});
}
