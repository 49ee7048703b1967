import { appendCache } from "~/gpu/kernels/attention/append_cache.ts";
import { type CacheDtype, cacheWidth } from "~/gpu/kernels/attention/attention_decode.ts";
import { assertClose } from "../../../assert_close.ts";
import { ropeHead } from "../../../reference/decoder.ts";
import { normals, uniforms } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

interface Shape {
	tokens: number;
	heads: number;
	keyValueHeads: number;
	headDim: number;
	start: number;
	rotate: boolean;
	/** Pairs of each head that are turned; all if absent. */
	pairs?: number;
	interleaved?: boolean;
}

/** Turns each head of each token; an angle for each position and pair of entries. */
function turned(x: Float32Array, angles: Float32Array, shape: Shape): Float64Array {
	const { tokens, headDim, start, pairs = headDim / 2, interleaved } = shape;
	const heads = x.length / tokens / headDim;
	const out = new Float64Array(x.length);
	for (let at = 0; at < x.length; at += headDim) {
		const position = start + Math.floor(at / heads / headDim);
		const table = [...angles.subarray(position * pairs, (position + 1) * pairs)]
			.flatMap((angle) => [Math.cos(angle), Math.sin(angle)]);
		out.set(ropeHead(x.subarray(at, at + headDim), table, interleaved), at);
	}
	return out;
}

async function check(shape: Shape, dtype: CacheDtype): Promise<void> {
	const { tokens, heads, keyValueHeads, headDim, start, rotate } = shape;
	const pairCount = Math.ceil(shape.pairs ?? headDim / 2);
	const what = JSON.stringify({ ...shape, dtype });
	const capacity = start + tokens + 2;
	const q = normals(tokens * heads * headDim, 1);
	const k = normals(tokens * keyValueHeads * headDim, 2);
	const v = normals(tokens * keyValueHeads * headDim, 3);
	k[0] = 1e6; // more than f16 holds
	v[v.length - 1] = -1e6;
	if (rotate) k[shape.interleaved ? 1 : pairCount] = 0;
	const angles = uniforms(capacity * pairCount, 4, -10, 10);
	if (rotate) angles[start * pairCount] = 0;
	const pairs = Float32Array.from(
		{ length: 2 * angles.length },
		(_, i) => i % 2 ? Math.sin(angles[i >> 1]) : Math.cos(angles[i >> 1]),
	);
	const width = cacheWidth(keyValueHeads, headDim);
	const padded = width / keyValueHeads;
	const before = new Float32Array(capacity * width).fill(0.5);
	const cache = () =>
		dtype === "f32"
			? gpu.upload(before, [capacity, width])
			: gpu.upload(Float16Array.from(before), [capacity, width], "f16");
	using qTensor = gpu.upload(q, [tokens, heads * headDim]);
	using kTensor = gpu.upload(k, [tokens, keyValueHeads * headDim]);
	using vTensor = gpu.upload(v, [tokens, keyValueHeads * headDim]);
	using table = rotate ? gpu.upload(pairs, [capacity, pairCount, 2]) : undefined;
	using keys = cache();
	using values = cache();
	await appendCache(gpu, { ...shape, q: qTensor, k: kTensor, v: vTensor, keys, values, table });
	const tolerance = { abs: 2e-6 };
	assertClose(await gpu.read(qTensor), rotate ? turned(q, angles, shape) : q, {
		...tolerance,
		what: `queries ${what}`,
	});
	for (
		const [name, tensor, x] of [
			["keys", keys, rotate ? turned(k, angles, shape) : k],
			["values", values, v],
		] as const
	) {
		const expected = Float64Array.from(before);
		expected.fill(0, start * width, (start + tokens) * width);
		for (let i = 0; i < x.length; i++) {
			expected[start * width + Math.floor(i / headDim) * padded + i % headDim] = dtype === "f16"
				? Math.max(-65504, Math.min(65504, x[i]))
				: x[i];
		}
		const bytes = await gpu.readBytes(tensor);
		const found = dtype === "f32"
			? new Float32Array(bytes.buffer)
			: Float32Array.from(new Float16Array(bytes.buffer));
		assertClose(found, expected, {
			...tolerance,
			rel: dtype === "f32" ? 1e-6 : 2 ** -10, // drivers may round to f16 either way
			what: `${name} ${what}`,
		});
	}
}

for (const dtype of ["f32", "f16"] as const) {
	for (const headDim of [2, 6, 8, 30, 64, 128]) {
		Deno.test(`appendCache() turns and stores heads of ${headDim} as ${dtype}`, async () => {
			for (const [heads, keyValueHeads] of [[1, 1], [6, 2], [5, 5]]) {
				const shape = { heads, keyValueHeads, headDim, rotate: true };
				await check({ ...shape, tokens: 1, start: 0 }, dtype);
				await check({ ...shape, tokens: 1, start: 37 }, dtype);
				await check({ ...shape, tokens: 9, start: 5 }, dtype);
			}
		});
	}

	Deno.test(`appendCache() turns a part of each head, or neighbours, as ${dtype}`, async () => {
		const shape = { tokens: 3, heads: 6, keyValueHeads: 2, headDim: 10, start: 5, rotate: true };
		for (const pairs of [1, 3, 5]) {
			for (const interleaved of [false, true]) await check({ ...shape, pairs, interleaved }, dtype);
		}
	});

	for (const headDim of [1, 5, 7, 32]) {
		Deno.test(`appendCache() stores heads of ${headDim} as they are, as ${dtype}`, async () => {
			const shape = { heads: 6, keyValueHeads: 3, headDim, rotate: false };
			await check({ ...shape, tokens: 1, start: 4 }, dtype);
			await check({ ...shape, tokens: 3, start: 0 }, dtype);
		});
	}
}
