import assert from "node:assert/strict";
import { BillmGroup, BillmWeight } from "~/codecs/billm/weight.ts";
import { levels } from "~/codecs/levels/codec.ts";
import { LEVEL_KINDS } from "~/codecs/levels/levels.ts";
import { PackedRowsWeight } from "~/codecs/packed_rows/packed_rows.ts";
import { unpackRows } from "~/codecs/billm/matmul.ts";
import { DEVICES, hardware } from "../../gpu/devices.ts";
import { gpu } from "../../gpu/gpu.ts";
import { checkGroup, checkLayer, INPUTS } from "../packed_rows/check_products.ts";
import { randomLevels } from "./random_levels.ts";

const SHAPES: [rows: number[], cols: number][] = [[[40, 20, 33], 200], [[17, 70], 331], [[1], 1]];

for (const { kernels, gpu } of DEVICES) {
	for (const [k, kind] of LEVEL_KINDS.entries()) {
		const what = `${kind.count} levels, ${kind.pattern}`;
		Deno.test(`products of levels agree with f64, ${kernels}: ${what}`, async () => {
			// Unrolled kernels take long to compile on a software adapter.
			const shapes = gpu !== hardware ? SHAPES : SHAPES.slice(k % 2, k % 2 + 1);
			for (const [i, [rows, cols]] of shapes.entries()) {
				const hosts = rows.map((rows) => randomLevels({ rows, cols, ...kind }).host);
				await checkGroup(gpu, levels, hosts, [INPUTS[(k + i) % 5]], [12]);
			}
			if (gpu === hardware) return;
			await checkLayer(gpu, levels, randomLevels({ rows: 9, cols: 97, ...kind }).host, [2, 10]);
		});

		Deno.test(`${kernels}: unpacked rows have the bits of the dequantized ones: ${what}`, async () => {
			for (const cols of [1, 64, 331]) {
				const { host } = randomLevels({ rows: 37, cols, ...kind });
				using weight = await levels.upload(gpu, host);
				assert(weight instanceof BillmWeight || weight instanceof PackedRowsWeight);
				using values = weight instanceof BillmWeight
					? await unpackRows(gpu, weight.tensors, 5, 32)
					: await weight.layer.unpack(gpu, 5, 32);
				assert.deepEqual(await gpu.read(values), levels.dequantize(host, 5));
			}
		});
	}
}

Deno.test("levels of signs and zones are multiplied as BiLLM layers", async () => {
	for (const kind of LEVEL_KINDS) {
		const { host } = randomLevels({ rows: 8, cols: 64, ...kind });
		using group = await levels.uploadGroup!(gpu, [host]);
		const isBillm = kind.pattern === "free" && kind.count < 5;
		assert.equal(group instanceof BillmGroup, isBillm);
	}
});

Deno.test("levels of different kinds are no group", async () => {
	const layout = { rows: 8, cols: 64, count: 4, pattern: "free" } as const;
	const { host } = randomLevels(layout);
	for (const other of [{ count: 5 }, { pattern: "gaussian" }, { cols: 96 }] as const) {
		const { host: second } = randomLevels({ ...layout, ...other });
		assert.equal(await levels.uploadGroup!(gpu, [host, second]), undefined);
	}
	assert.equal(await levels.uploadGroup!(gpu, [host, host, host, host]), undefined, "four layers");
	const { subgroupSize } = gpu;
	(gpu as { subgroupSize: number }).subgroupSize = 0;
	assert.equal(await levels.uploadGroup!(gpu, [host]), undefined, "no subgroups");
	(gpu as { subgroupSize: number }).subgroupSize = subgroupSize;
});
