import type { Gpu } from "~/gpu/device.ts";
import { matvec } from "~/gpu/kernels/matmul/matvec.ts";
import type { MatvecDtype } from "~/gpu/kernels/matmul/matvec_source.ts";
import { assertClose } from "../../../assert_close.ts";
import { normals } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";

/** A number as a dtype holds it, and its bits. */
function stored(values: Float32Array, dtype: MatvecDtype) {
	switch (dtype) {
		case "f32":
			return { values, bits: values };
		case "f16":
			return { values: values.map(Math.f16round), bits: Float16Array.from(values) };
		case "bf16": {
			const words = new Uint32Array(values.slice().buffer).map((word) => word & 0xffff0000);
			return {
				values: new Float32Array(words.buffer),
				bits: Uint16Array.from(words, (w) => w >>> 16),
			};
		}
	}
}

async function check(
	gpu: Gpu,
	{ n, k, tokens, dtype }: { n: number; k: number; tokens: number; dtype: MatvecDtype },
	extras = false,
): Promise<void> {
	const x = normals(tokens * k, n);
	const { values, bits } = stored(normals(n * k, k), dtype);
	const bias = normals(n, 3);
	const residual = normals(tokens * n, 4);
	const start = extras ? 5 : 0;
	const stride = extras ? n + 3 : n;
	const expected = new Float64Array(start + tokens * stride).fill(7);
	for (let token = 0; token < tokens; token++) {
		for (let row = 0; row < n; row++) {
			let sum = extras ? bias[row] + residual[token * n + row] : 0;
			for (let i = 0; i < k; i++) sum += x[token * k + i] * values[row * k + i];
			expected[start + token * stride + row] = sum;
		}
	}
	using xTensor = gpu.upload(x, [tokens, k]);
	using weight = gpu.upload(bits, [n, k], dtype);
	using biasTensor = gpu.upload(bias, [n]);
	using residualTensor = gpu.upload(residual, [tokens, n]);
	using out = gpu.upload(new Float32Array(expected.length).fill(7), [expected.length]);
	const added = extras ? { start, stride, bias: biasTensor, residual: residualTensor } : {};
	await matvec(gpu, { x: xTensor, weight, out, ...added });
	assertClose(await gpu.read(out), expected, {
		abs: 1e-6 * Math.sqrt(k) * 4, // f32 sums of k terms near 1
		what: JSON.stringify({ n, k, tokens, dtype, extras }),
	});
}

for (const { kernels, gpu } of DEVICES) {
	for (const dtype of ["f32", "f16", "bf16"] as const) {
		Deno.test(`matvec() with ${kernels} agrees with the reference for ${dtype}`, async () => {
			for (const k of [1, 4, 7, 8, 35, 64, 120, 256, 1000, 1024, 4104]) {
				for (const n of [1, 3, 4, 5, 66]) await check(gpu, { n, k, tokens: 1, dtype });
			}
		});

		Deno.test(`matvec() with ${kernels} adds a bias and a residual, for ${dtype}`, async () => {
			for (const k of [9, 64, 512]) {
				await check(gpu, { n: 33, k, tokens: 1, dtype }, true);
				await check(gpu, { n: 6, k, tokens: 3, dtype }, true);
			}
		});
	}

	Deno.test(`matvec() with ${kernels} takes more rows than a dimension of the grid holds`, async () => {
		await check(gpu, { n: 65535 * 4 + 9, k: 3, tokens: 1, dtype: "f16" });
	});
}
