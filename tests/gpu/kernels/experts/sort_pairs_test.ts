import assert from "node:assert/strict";
import { countPairs, sortPairs } from "~/gpu/kernels/experts/sort_pairs.ts";
import { seededRandom } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

for (const [tokens, k, experts] of [[1, 1, 1], [1, 2, 300], [40, 2, 5], [700, 3, 7]]) {
	Deno.test(`sortPairs() sorts ${tokens * k} pairs by ${experts} experts`, async () => {
		const random = seededRandom(tokens);
		const ofPair: number[] = [];
		const values = Array.from({ length: tokens }, () => {
			const row: number[] = [];
			while (row.length < k) {
				// The last expert gets nothing if there are several.
				const expert = Math.floor(random() * Math.max(k, experts - 1));
				if (!row.includes(expert)) row.push(expert);
			}
			ofPair.push(...row);
			return [...row, ...new Array(k).fill(0.5)];
		}).flat();
		const before = gpu.memory.current;
		{
			using routing = gpu.upload(Float32Array.from(values), [tokens, 2 * k]);
			using counts = await countPairs(gpu, routing, experts);
			const expected = new Uint32Array(experts);
			for (const expert of ofPair) expected[expert]++;
			assert.deepEqual(await gpu.read(counts, "u32"), expected);
			using sorted = await sortPairs(gpu, routing, experts, 16);
			assert.deepEqual(await gpu.read(sorted.counts, "u32"), expected);
			const order = [...ofPair.keys()].sort((a, b) => ofPair[a] - ofPair[b] || a - b);
			assert.deepEqual([...await gpu.read(sorted.order, "u32")], order);
			const tiles: number[] = [];
			let first = 0;
			for (const [expert, count] of expected.entries()) {
				for (let at = first; at < first + count; at += 16) {
					tiles.push(expert, at, Math.min(first + count, at + 16));
				}
				first += count;
			}
			const found = await gpu.read(sorted.tiles, "u32");
			assert.equal(found[0], tiles.length / 3);
			assert.ok(found[0] <= sorted.mostTiles);
			assert.deepEqual([...found.subarray(1, 1 + tiles.length)], tiles);
		}
		assert.equal(gpu.memory.current, before);
	});
}
