import assert from "node:assert/strict";
import { emptyLevels, freeLevels, LEVEL_KINDS } from "~/codecs/levels/levels.ts";
import { packLevels } from "~/codecs/levels/pack_levels.ts";
import { gpu } from "../../gpu/gpu.ts";
import { seededRandom } from "../../reference/random.ts";
import { packedRow, randomLevels } from "./random_levels.ts";

Deno.test("codes are packed in the order of columns, for all counts and odd shapes", async () => {
	for (const kind of LEVEL_KINDS) {
		for (const [rows, cols] of [[1, 1], [3, 7], [5, 64], [65, 171]]) {
			const { codes } = randomLevels({ rows, cols, ...kind });
			const random = seededRandom(cols);
			const places = Uint32Array.from(
				Array.from({ length: cols }, (_, col) => [random(), col]).sort(([a], [b]) => a - b),
				([, col]) => col,
			);
			const layer = emptyLevels(gpu, { rows, cols, ...kind });
			using ordered = gpu.upload(codes, [rows, cols]);
			using order = gpu.upload(places, [cols]);
			await packLevels(gpu, ordered, order, layer);
			const words = await gpu.read(layer.codes, "u32");
			const wanted = Array.from(
				{ length: rows },
				(_, row) => [...packedRow(
					Array.from(places, (place) => codes[row * cols + place]),
					kind.count,
				)],
			);
			assert.deepEqual([...words], wanted.flat(), JSON.stringify([kind, rows, cols]));
			freeLevels(gpu, layer);
		}
	}
});
