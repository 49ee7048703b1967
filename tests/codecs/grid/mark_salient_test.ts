import assert from "node:assert/strict";
import { markSalient } from "~/codecs/grid/mark_salient.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { normals } from "../../reference/random.ts";

const UNTOUCHED = 0x12345678;

for (const { kernels, gpu } of DEVICES) {
	for (const [rows, cols] of [[1, 1], [7, 32], [13, 45], [64, 200]]) {
		Deno.test(`markSalient() marks the largest of [${rows}, ${cols}], ${kernels}`, async () => {
			const values = normals(rows * cols, rows);
			const width = Math.ceil(cols / 32);
			const words = width + 2;
			using saliency = gpu.upload(values, [rows, cols]);
			for (const fraction of [0, 0.1, 0.5]) {
				using mask = gpu.upload(new Uint32Array(rows * words).fill(UNTOUCHED), [rows, words]);
				await markSalient(gpu, saliency, fraction, mask, 32);
				const found = await gpu.read(mask, "u32");
				const marked: number[] = [];
				const others: number[] = [];
				for (let row = 0; row < rows; row++) {
					const line = found.subarray(row * words, (row + 1) * words);
					assert.equal(line[0], UNTOUCHED);
					assert.equal(line[words - 1], UNTOUCHED);
					for (let i = 0; i < 32 * width; i++) {
						const bit = (line[1 + (i >> 5)] >>> (i & 31)) & 1;
						if (i >= cols) assert.equal(bit, 0, "nothing beyond the last column");
						else (bit ? marked : others).push(Math.abs(values[row * cols + i]));
					}
				}
				const count = fraction * (rows * cols - 1); // ranks above the quantile
				assert.ok(Math.abs(marked.length - count) < 1, `${marked.length} of ${count}`);
				assert.ok(Math.min(...marked, Infinity) > Math.max(...others));
			}
		});
	}
}
