import assert from "node:assert/strict";
import { gatherCodes } from "~/codecs/grid/gather_codes.ts";
import { GRID_BITS, type GridLayout } from "~/codecs/grid/grid.ts";
import { dequantizeGridHost } from "~/codecs/grid/store.ts";
import { gpu } from "../../gpu/gpu.ts";
import { randomGrid } from "./random_grid.ts";

Deno.test("gatherCodes() puts codes of all widths in another order", async () => {
	const [rows, cols] = [5, 75];
	for (const bits of GRID_BITS) {
		const layout: GridLayout = { rows, cols, groupSize: cols, grid: "range", bits, salient: false };
		const { host, weight } = randomGrid(layout, 0);
		const places = Uint32Array.from({ length: cols }, (_, i) => (7 * i + 3) % cols);
		using codes = gpu.upload(host.codes, [rows, 3, bits]);
		using placesTensor = gpu.upload(places, [cols]);
		using target = gpu.empty([rows, 3, bits], "u32");
		await gatherCodes(gpu, codes, placesTensor, target);
		const gathered = dequantizeGridHost({ ...host, codes: await gpu.read(target, "u32") });
		assert.deepEqual(gathered, weight.map((_, i) => weight[i - i % cols + places[i % cols]]));
	}
});
