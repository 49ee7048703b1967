import assert from "node:assert/strict";
import { join } from "node:path";
import type { BillmHost } from "~/codecs/billm/host.ts";
import { loadLinear } from "~/codecs/mod.ts";
import { PlainWeights } from "~/models/plain_weights.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { PROJECT } from "../checkout.ts";
import { Workplace } from "../micro_model.ts";
import { openModel } from "../open.ts";

const example = (name: string) => join(PROJECT, "examples/stages", name);

Deno.test("examples/stages/spaced_salient.ts takes evenly spaced columns", async () => {
	using place = new Workplace({ layers: 1 });
	const stages = place.method.map((stage) =>
		stage === "salient-select" ? { use: example("spaced_salient.ts"), columns: 4 } : stage
	);
	const { record } = await place.run({ stages });
	using model = openModel(record.packed!.folder);
	for (const { name, cols } of record.layers![0].linears) {
		const { host } = loadLinear(model.checkpoint, model.quantization!, name)!;
		const { salient: words } = host as unknown as BillmHost;
		const found = Array.from({ length: cols }, (_, col) => words[col >> 5] >>> (col & 31) & 1);
		// Blocks of 32 columns; the last one may be shorter.
		const expected = found.map((_, col) => {
			const width = Math.min(32, cols - (col & ~31));
			return Number([0, 1, 2, 3].some((i) => Math.floor(i * width / 4) === (col & 31)));
		});
		assert.deepEqual(found, expected, name);
	}
});

Deno.test("examples/stages/clip_outliers.ts bounds the weights of each row", async () => {
	using place = new Workplace({ layers: 1 });
	const factor = 1.5;
	const { record } = await place.run({
		stages: [
			"download",
			{ use: example("clip_outliers.ts"), factor },
			{ rtn: { bits: 8, grid: "range" } },
			"pack",
		],
	});
	using original = PlainWeights.open(denoFolder(place.model));
	using packed = PlainWeights.open(denoFolder(record.packed!.folder));
	for (const { name, rows, cols } of record.layers![0].linears) {
		const [before, after] = [original, packed].map((model) =>
			model.rowsOf(`${name}.weight`)(0, rows)
		);
		for (let row = 0; row < rows; row++) {
			const [weights, stored] = [before, after].map((all) =>
				all.subarray(row * cols, (row + 1) * cols)
			);
			const bound = factor * Math.hypot(...weights) / Math.sqrt(cols);
			stored.forEach((value, i) => {
				const expected = Math.max(-bound, Math.min(bound, weights[i]));
				assert.ok(Math.abs(value - expected) <= bound / 120, `${name}, row ${row}, column ${i}`);
			});
		}
	}
});
