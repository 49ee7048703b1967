import assert from "node:assert/strict";
import type { EmbeddingLayout } from "~/codecs/embedding/dequantize_embedding.ts";
import { embeddingMatvec } from "~/codecs/embedding/embedding_matvec.ts";
import type { Gpu } from "~/gpu/device.ts";
import { assertClose } from "../../assert_close.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { openAsHardware, watchKernels } from "../../gpu/open_gpu.ts";
import { normals } from "../../reference/random.ts";
import { QuantizedTable } from "./quantized_embedding.ts";

async function check(gpu: Gpu, layout: EmbeddingLayout, start = 0): Promise<void> {
	const { rows, cols, bits } = layout;
	using table = new QuantizedTable(gpu, layout);
	const x = normals(cols, 7);
	const expected = new Float64Array(start + rows + 3).fill(7);
	for (let row = 0; row < rows; row++) {
		let sum = 0;
		for (let col = 0; col < cols; col++) sum += x[col] * table.values[row * cols + col];
		expected[start + row] = sum;
	}
	using xTensor = gpu.upload(x, [1, cols]);
	using out = gpu.upload(new Float32Array(expected.length).fill(7), [expected.length]);
	const { codes, scales, zeros } = table;
	await embeddingMatvec(gpu, { x: xTensor, layout, codes, scales, zeros, out, start });
	assertClose(await gpu.read(out), expected, {
		// f32 sums of terms up to 2^(bits - 2), with zeros of Σ code x and zero Σ x
		abs: (layout.zeros ? 200 : 2 ** (bits - 2)) * 1e-6 * Math.sqrt(cols) * 2,
		what: JSON.stringify({ ...layout, start }),
	});
}

for (const { kernels, gpu } of DEVICES) {
	const name = `embeddingMatvec() with ${kernels}`;

	const forms = [
		[8, 64, undefined],
		[4, 32, undefined],
		[3, 32, true],
		[4, 64, true],
		[5, 128, true],
		[6, 64, true],
	] as const;
	for (const [bits, group, zeros] of forms) {
		const form = `${bits} bits${zeros ? ", zeros" : ""}`;
		Deno.test(`${name} agrees with the reference, ${form}`, async () => {
			const names = watchKernels(gpu);
			// Whole steps with and without a last group that has fewer columns, and any widths.
			for (const cols of [16, 32, 48, 64, 80, 512, 1040, 4096, 1, 2, 7, 31, 63, 65, 130, 1030]) {
				for (const rows of [1, 7, 8, 9, 35]) await check(gpu, { rows, cols, bits, group, zeros });
			}
			const isAny = (kernel: string) => kernel.endsWith("_any");
			assert([...names].some(isAny) && ![...names].every(isAny), "both kernels ran");
		});

		Deno.test(`${name} writes from an element on, ${form}`, async () => {
			await check(gpu, { rows: 21, cols: 64, bits, group, zeros }, 5);
			await check(gpu, { rows: 21, cols: 66, bits, group, zeros }, 1);
		});

		Deno.test(`${name} reads code by code where a step has two scales, ${form}`, async () => {
			await check(gpu, { rows: 9, cols: 96, bits, group: 24, zeros });
		});
	}

	Deno.test(`${name} takes more rows than a dimension of the grid holds`, async () => {
		await check(gpu, { rows: 65535 * 8 + 9, cols: 2, bits: 4, group: 32 });
	});
}

Deno.test("embeddingMatvec() takes all codes for what they are", async () => {
	const gpu = await openAsHardware();
	for (const bits of [8, 4] as const) {
		const cols = 2 ** bits; // one row for each column, in which x is 1
		const layout: EmbeddingLayout = { rows: 1, cols, bits, group: 16 };
		const bytes = bits === 8
			? Uint8Array.from({ length: 256 }, (_, i) => i)
			: Uint8Array.from({ length: 8 }, (_, i) => 2 * i | (2 * i + 1) << 4);
		using codes = gpu.upload(new Uint32Array(bytes.buffer), [bytes.length / 4]);
		const ones = new Uint32Array(Math.ceil(cols / 32)).fill(0x3c003c00); // of f16
		using scales = gpu.upload(ones, [ones.length]);
		using out = gpu.empty([cols]);
		for (let col = 0; col < cols; col++) {
			using x = gpu.upload(Float32Array.from({ length: cols }, (_, i) => +(i === col)), [1, cols]);
			await embeddingMatvec(gpu, { x, layout, codes, scales, out, start: col });
		}
		const expected = Array.from({ length: cols }, (_, i) => bits === 8 ? i << 24 >> 24 : i - 8);
		assert.deepEqual([...await gpu.read(out)].map((value) => value + 0), expected);
	}
});
