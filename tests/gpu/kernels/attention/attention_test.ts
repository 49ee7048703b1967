import type { Gpu } from "~/gpu/device.ts";
import { attention, type AttentionShape } from "~/gpu/kernels/attention/attention.ts";
import { assertClose } from "../../../assert_close.ts";
import { attentionReference } from "../../../reference/attention.ts";
import { normals } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";

const HEAD_DIMS = [4, 6, 8, 32, 48, 64, 80, 128];
const LENGTHS = [1, 15, 16, 17, 31, 32, 33, 64, 65, 100, 128, 129, 300]; // tiles have 16 to 128

/**
 * @param shape Its sinks are numbers.
 * @param sharpness Factor of the queries: at 20 a few keys take all the weight.
 */
async function check(
	gpu: Gpu,
	{ sinks, ...shape }: Omit<AttentionShape, "sinks"> & { sinks?: Float32Array },
	windows: number,
	sharpness = 1,
) {
	const { heads, keyValueHeads, headDim, length } = shape;
	const tokens = windows * length;
	const q = normals(tokens * heads * headDim, headDim, sharpness);
	const k = normals(tokens * keyValueHeads * headDim, length);
	const v = normals(tokens * keyValueHeads * headDim, heads);
	using qTensor = gpu.upload(q, [tokens, heads * headDim]);
	using kTensor = gpu.upload(k, [tokens, keyValueHeads * headDim]);
	using vTensor = gpu.upload(v, [tokens, keyValueHeads * headDim]);
	using sinkTensor = sinks && gpu.upload(sinks, [heads]);
	using out = await attention(gpu, qTensor, kTensor, vTensor, { ...shape, sinks: sinkTensor });
	assertClose(await gpu.read(out), attentionReference(q, k, v, { ...shape, sinks }), {
		abs: 4e-6 * Math.max(sharpness, 1), // scores reach 5 · sharpness, their rounding is a relative error of exp
		what: JSON.stringify({ ...shape, windows, sharpness }),
	});
}

for (const { kernels, gpu } of DEVICES) {
	for (const headDim of HEAD_DIMS) {
		Deno.test(`attention() with ${kernels} agrees with the reference for heads of ${headDim}`, async () => {
			await check(gpu, { heads: 1, keyValueHeads: 1, headDim, length: 33 }, 1);
			await check(gpu, { heads: 6, keyValueHeads: 2, headDim, length: 17 }, 2);
		});
	}

	for (const length of LENGTHS) {
		Deno.test(`attention() with ${kernels} agrees with the reference for windows of ${length}`, async () => {
			await check(gpu, { heads: 2, keyValueHeads: 2, headDim: 8, length }, 3);
			await check(gpu, { heads: 4, keyValueHeads: 1, headDim: 32, length }, 1);
			await check(gpu, { heads: 2, keyValueHeads: 1, headDim: 64, length }, 2);
		});
	}

	for (const slidingWindow of [1, 2, 15, 16, 17, 33, 99, 100, 4096]) {
		Deno.test(`attention() with ${kernels} agrees with the reference on ${slidingWindow} tokens`, async () => {
			const shape = { heads: 4, keyValueHeads: 2, headDim: 8, slidingWindow };
			await check(gpu, { ...shape, headDim: 64, length: 200 }, 2);
			await check(gpu, { ...shape, headDim: 128, length: 65 }, 1);
			await check(gpu, { ...shape, length: 100 }, 2);
			await check(gpu, { ...shape, length: 17 }, 1);
		});
	}

	Deno.test(`attention() with ${kernels} scales and caps scores`, async () => {
		const shape = { heads: 4, keyValueHeads: 2, length: 70 };
		for (const headDim of [8, 64, 80]) {
			await check(gpu, { ...shape, headDim, scale: 0.3 }, 1);
			await check(gpu, { ...shape, headDim, scale: 0.3, cap: 1.5 }, 1);
			await check(gpu, { ...shape, headDim, cap: 2, slidingWindow: 9 }, 2, 20);
		}
	});

	Deno.test(`attention() with ${kernels} gives a share to sinks`, async () => {
		const shape = { heads: 4, keyValueHeads: 2, length: 70, sinks: Float32Array.of(-9, 0, 3, 30) };
		for (const headDim of [8, 64]) {
			await check(gpu, { ...shape, headDim }, 2);
			await check(gpu, { ...shape, headDim, length: 1 }, 1);
			await check(gpu, { ...shape, headDim, slidingWindow: 9 }, 1);
		}
		await check(gpu, { ...shape, headDim: 8, cap: 2 }, 1, 20);
	});

	Deno.test(`attention() with ${kernels} holds scores far apart`, async () => {
		for (const sharpness of [20, 1000]) {
			await check(gpu, { heads: 2, keyValueHeads: 1, headDim: 32, length: 100 }, 1, sharpness);
		}
		await check(gpu, { heads: 1, keyValueHeads: 1, headDim: 32, length: 40 }, 1, 0);
		await check(gpu, { heads: 2, keyValueHeads: 1, headDim: 64, length: 100 }, 1, 1000);
	});
}
