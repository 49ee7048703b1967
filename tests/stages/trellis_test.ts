import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { loadLinear } from "~/codecs/mod.ts";
import type { TrellisHost } from "~/codecs/trellis/store.ts";
import { countWeights } from "~/report/histograms.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";
import { openModel } from "../open.ts";
import { startTask } from "../start_task.ts";

const SOFTWARE = { gpu: { adapter: "software" } };

function chain(place: Workplace, options: Record<string, unknown>): StageItem[] {
	return [
		"download",
		place.calibrateWith({ order: "module" }),
		"rotate",
		"hessian",
		"propagate-error",
		{ trellis: options },
		"refit-norm",
		"pack",
		place.evaluate,
	];
}

Deno.test("a model of trellises is stored in three tensors a layer; resumed, it has the same bytes", async () => {
	using place = new Workplace({ layers: 2, intermediate: 90 }); // 90: neither rows nor columns fill tiles
	const stages = chain(place, { bits: 2, table: 8 });
	const { record } = await place.run({ ...SOFTWARE, stages });
	const model = join(place.path("out"), "model");
	const config = JSON.parse(readFileSync(join(model, "config.json"), "utf8"));
	assert.equal(config.quantization_config.format_version, 5);
	assert.equal(config.quantization_config.method, "trellis");
	const linears = record.layers!.flatMap(({ linears }) => linears);
	assert.equal(linears.length, 14);
	for (const { name, rows, cols, paperBits, storedBytes, relativeOutputError } of linears) {
		assert.equal(paperBits, 2);
		const tiles = Math.ceil(rows / 16) * Math.ceil(cols / 16);
		const parts = { codes: 64 * tiles, scales: 2 * rows, order: 2 * cols };
		assert.deepEqual(storedBytes, parts, name);
		assert.ok(relativeOutputError! < 0.1, `${name}: ${relativeOutputError}`);
	}
	assert.deepEqual(await place.resumed({ ...SOFTWARE, stages }), contents(model));

	const inspected = (await startTask("inspect", [model])).stdout;
	assert.match(inspected, /trellis/);
	const compared = await startTask("compare", [place.model, model]);
	assert.equal(compared.stderr, "");
	assert.match(compared.stdout, /mlp\.down_proj/);
	const plain = place.path("plain");
	const dequantized = await startTask("dequantize", [model, plain]);
	assert.equal(dequantized.code, 0, dequantized.stderr);
	const [histogram] = await countWeights(place.model, model, record.layers!, [1]);
	assert.ok(histogram.errorRms < 0.45 * histogram.rms, `${histogram.errorRms} of ${histogram.rms}`);
});

Deno.test("without an order of columns nothing is stored of it; rates cost what they say", async () => {
	using place = new Workplace({ layers: 1 });
	let last = Infinity;
	for (const [bits, table] of [[1, 8], [1.5, 12], [2, 8], [3, 12]]) {
		const stages: StageItem[] = [
			"download",
			place.calibrate,
			"hessian",
			{ trellis: { bits, table, order: "none" } },
			"pack",
		];
		const { record } = await place.run({ ...SOFTWARE, stages }, { overwrite: true });
		const [{ name, rows, cols, storedBytes, relativeOutputError }] = record.layers![0].linears;
		assert.deepEqual(storedBytes, { codes: bits * rows * cols / 8, scales: 2 * rows });
		assert.ok(relativeOutputError! < 0.7 * last, `${relativeOutputError} with ${bits} bits`);
		last = relativeOutputError!;
		using files = openModel(join(place.path("out"), "model"));
		const host = loadLinear(files.checkpoint, files.quantization!, name)!.host as TrellisHost;
		assert.deepEqual([host.bits, host.stateBits, host.order], [bits, table, undefined]);
	}
});

Deno.test("rates without a small table, and stages that do not fit, are refused", async () => {
	using place = new Workplace({ layers: 1 });
	for (
		const [stages, text] of [
			[
				chain(place, { bits: 3, table: 8 }),
				/trellis\.table must be 12 with bits other than 1 and 2/,
			],
			[chain(place, { bits: 4 }), /trellis\.bits must be/],
			[["download", { trellis: {} }, "pack"], /"hessian"/],
		] as [StageItem[], RegExp][]
	) {
		await assert.rejects(place.run({ stages }), (error: Error) => {
			assert.match(error.message, text);
			return true;
		});
	}
});
