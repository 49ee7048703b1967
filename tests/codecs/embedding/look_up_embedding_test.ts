import assert from "node:assert/strict";
import { lookUpEmbedding } from "~/codecs/embedding/look_up_embedding.ts";
import { gpu } from "../../gpu/gpu.ts";
import { uniforms } from "../../reference/random.ts";
import { QuantizedTable } from "./quantized_embedding.ts";

for (
	const [bits, group, zeros] of [
		[8, 64, undefined],
		[4, 32, undefined],
		[3, 128, true],
		[4, 64, true],
		[5, 32, true],
		[6, 64, true],
	] as const
) {
	for (const cols of [1, 2, 31, 64, 65, 130, 200]) {
		Deno.test(`lookUpEmbedding() looks up rows of [11, ${cols}] in ${bits} bits${zeros ? ", zeros" : ""}`, async () => {
			const layout = { rows: 11, cols, bits, group, zeros };
			using table = new QuantizedTable(gpu, layout);
			// Some are in no row of the part, which begins with the id 3.
			const ids = Uint32Array.of(3, 13, 2, 8, 14, 3, 12, 0xffffffff, 0, 4);
			const before = uniforms(ids.length * cols, 5);
			using idTensor = gpu.upload(ids, [ids.length]);
			for (const accumulate of [false, true]) {
				using out = gpu.upload(before, [ids.length, cols]);
				await lookUpEmbedding(gpu, idTensor, table, out, accumulate, 3);
				const expected = before.map((old, i) => {
					const row = ids[Math.floor(i / cols)] - 3;
					if (row < 0 || row >= 11) return old;
					const value = table.values[row * cols + i % cols]; // rounded to f32
					return accumulate ? Math.fround(old + value) : value;
				});
				assert.deepEqual((await gpu.read(out)).map((v) => v + 0), expected.map((v) => v + 0));
			}
		});
	}

	Deno.test(`lookUpEmbedding() takes ids for rows where nothing else is said, ${bits} bits, ${zeros}`, async () => {
		const layout = { rows: 5, cols: 66, bits, group, zeros };
		using table = new QuantizedTable(gpu, layout);
		using ids = gpu.upload(Uint32Array.of(4, 0), [2]);
		using out = gpu.empty([2, 66]);
		await lookUpEmbedding(gpu, ids, table, out);
		const rows = [...table.values.subarray(4 * 66), ...table.values.subarray(0, 66)];
		assert.deepEqual([...await gpu.read(out)].map((v) => v + 0), rows.map((v) => v + 0));
	});
}
