import assert from "node:assert/strict";
import {
	dequantizeEmbedding,
	type EmbeddingLayout,
	embeddingRowBytes,
	embeddingScaleGroups,
} from "~/codecs/embedding/dequantize_embedding.ts";
import { gpu } from "../../gpu/gpu.ts";
import { seededRandom } from "../../reference/random.ts";
import { QuantizedTable, words } from "./quantized_embedding.ts";

/** What `codecs/embedding/dequantize_embedding.wgsl` must compute, in f64: one number after the other. */
function reference(layout: EmbeddingLayout, codes: Uint8Array, scales: Float16Array): Float32Array {
	const { rows, cols, bits, group } = layout;
	const table = new Float32Array(rows * cols);
	for (let row = 0; row < rows; row++) {
		for (let col = 0; col < cols; col++) {
			let code: number;
			if (bits === 8) {
				code = new Int8Array(codes.buffer)[row * cols + col];
			} else {
				const byte = codes[row * Math.ceil(cols / 2) + Math.floor(col / 2)];
				code = (col % 2 ? Math.floor(byte / 16) : byte % 16) - 8;
			}
			const scale = scales[row * Math.ceil(cols / group) + Math.floor(col / group)];
			table[row * cols + col] = code === 0 ? 0 : code * scale;
		}
	}
	return table;
}

for (const [bits, group] of [[8, 64], [4, 32]] as const) {
	Deno.test(`dequantizeEmbedding() gives the very f32 of the reference, ${bits} bits`, async () => {
		// Widths on both sides of a group, rows that begin within a word, scales that begin within one.
		for (const [rows, cols] of [[1, 1], [1, 2], [3, 31], [5, 63], [7, 65], [2, 130], [300, 64]]) {
			const layout: EmbeddingLayout = { rows, cols, bits, group };
			const random = seededRandom(cols);
			const codes = Uint8Array.from(
				{ length: rows * embeddingRowBytes(layout) },
				() => 256 * random(),
			);
			const scales = Float16Array.from(
				{ length: rows * embeddingScaleGroups(layout) },
				() => (random() - 0.5) * 2 ** (20 * random() - 14),
			);
			using codeTensor = gpu.upload(words(codes), [Math.ceil(codes.length / 4)]);
			const scaleWords = words(new Uint8Array(scales.buffer));
			using scaleTensor = gpu.upload(scaleWords, [scaleWords.length]);
			using table = await dequantizeEmbedding(gpu, {
				layout,
				codes: codeTensor,
				scales: scaleTensor,
			});
			assert.deepEqual(table.shape, [rows, cols]);
			const found = (await gpu.read(table)).map((value) => value + 0); // -0 is as good as 0
			assert.deepEqual(found, reference(layout, codes, scales), `[${rows}, ${cols}]`);
		}
	});
}

for (const bits of [3, 4, 5, 6] as const) {
	Deno.test(`dequantizeEmbedding() gives the very f32 with zeros, ${bits} bits`, async () => {
		for (const [rows, cols, group] of [[1, 1, 32], [3, 31, 64], [7, 65, 32], [300, 96, 128]]) {
			const layout: EmbeddingLayout = { rows, cols, bits, group, zeros: true };
			using table = new QuantizedTable(gpu, layout);
			using dequantized = await dequantizeEmbedding(gpu, table);
			const expected = Float32Array.from(table.values, (value) => value + 0);
			const found = (await gpu.read(dequantized)).map((value) => value + 0);
			assert.deepEqual(found, expected, `[${rows}, ${cols}]`);
		}
	});
}

Deno.test("dequantizeEmbedding() reaches beyond the 65535 workgroups of one dimension", async () => {
	const layout: EmbeddingLayout = { rows: 65600, cols: 64, bits: 8, group: 64 };
	const codes = Int8Array.from({ length: 65600 * 64 }, (_, i) => i % 251 - 125);
	const scales = Float16Array.from({ length: 65600 }, (_, row) => row % 2 ? 0.5 : 2);
	using codeTensor = gpu.upload(new Uint32Array(codes.buffer), [codes.length / 4]);
	using scaleTensor = gpu.upload(new Uint32Array(scales.buffer), [scales.length / 2]);
	using table = await dequantizeEmbedding(gpu, { layout, codes: codeTensor, scales: scaleTensor });
	const found = await gpu.read(table);
	const wrong = found.findIndex((value, i) => value !== codes[i] * scales[Math.floor(i / 64)]);
	assert.equal(wrong, -1);
});
