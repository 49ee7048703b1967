import { rope } from "~/gpu/kernels/attention/rope.ts";
import { assertClose } from "../../../assert_close.ts";
import { ropeHead } from "../../../reference/decoder.ts";
import { normals } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

interface Case {
	heads: number;
	headDim: number;
	length: number;
	windows: number;
	pairs?: number;
	interleaved?: boolean;
}

for (
	const { heads, headDim, length, windows, pairs = headDim / 2, interleaved } of [
		{ heads: 1, headDim: 2, length: 1, windows: 1 },
		{ heads: 1, headDim: 6, length: 5, windows: 2 },
		{ heads: 21, headDim: 6, length: 3, windows: 1 }, // 63 pairs
		{ heads: 4, headDim: 32, length: 33, windows: 3 }, // 64
		{ heads: 5, headDim: 26, length: 7, windows: 2 }, // 65
		{ heads: 3, headDim: 128, length: 17, windows: 1 },
		{ heads: 3, headDim: 20, length: 5, windows: 2, pairs: 3 },
		{ heads: 5, headDim: 26, length: 7, windows: 2, interleaved: true },
		{ heads: 2, headDim: 10, length: 3, windows: 1, pairs: 2, interleaved: true },
	] as Case[]
) {
	Deno.test(
		`rope() turns ${heads} heads of ${headDim} in ${windows} windows of ${length}, ${pairs} pairs${
			interleaved ? ", interleaved" : ""
		}`,
		async () => {
			const tokens = length * windows;
			const table = Float32Array.from({ length: length * 2 * pairs }, (_, i) => {
				const angle = Math.floor(i / 2 / pairs) /
					10000 ** (Math.floor(i % (2 * pairs) / 2) / pairs);
				return i % 2 ? Math.sin(angle) : Math.cos(angle);
			});
			const x = normals(tokens * heads * headDim, headDim);
			using xTensor = gpu.upload(x, [tokens, heads * headDim]);
			using tableTensor = gpu.upload(table, [length, pairs, 2]);
			await rope(gpu, xTensor, tableTensor, heads, interleaved);
			const expected = new Float64Array(x.length);
			for (let token = 0; token < tokens; token++) {
				const position = token % length;
				for (let head = 0; head < heads; head++) {
					const at = (token * heads + head) * headDim;
					const row = table.subarray(position * 2 * pairs, (position + 1) * 2 * pairs);
					expected.set(ropeHead(x.subarray(at, at + headDim), row, interleaved), at);
				}
			}
			// Two products of numbers up to 5 and their sum.
			assertClose(await gpu.read(xTensor), expected, { abs: 1e-6 });
		},
	);
}
