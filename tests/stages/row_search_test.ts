import assert from "node:assert/strict";
import { join } from "node:path";
import { BillmDraft } from "~/codecs/billm/draft.ts";
import { dequantizeBillm } from "~/codecs/billm/host.ts";
import { dequantizedLinear, linearMatrix, loadLinear, storeLinear } from "~/codecs/mod.ts";
import { quantizeLinear } from "~/pipeline/run/quantize_linear.ts";
import { type Planned, StageClock } from "~/pipeline/run/run.ts";
import type { LinearContext, LinearLayer, LinearStage, Stage } from "~/pipeline/stage.ts";
import { compensate } from "~/stages/compensate.ts";
import { residualBinarize } from "~/stages/residual_binarize.ts";
import { rowSearch } from "~/stages/row_search.ts";
import { salientSelect } from "~/stages/salient_select.ts";
import { splitSearch } from "~/stages/split_search.ts";
import { gpu } from "../gpu/gpu.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";
import { written } from "../open.ts";
import { matmul, transposed } from "../reference/linear_algebra.ts";
import { normals } from "../reference/random.ts";
import { lossOf } from "../reference/row_search.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { freeLinear, layerOnGpu, planned } from "./linear_on_gpu.ts";

const SOFTWARE = { gpu: { adapter: "software" } };

const [ROWS, COLS] = [21, 100];

async function quantize(search: Planned<Stage>[], salient = true) {
	const tokens = 3 * COLS;
	const x = normals(tokens * COLS, 1).map((value, i) => i % COLS === 50 ? 0 : value);
	const xx = Float32Array.from(matmul(transposed(x, tokens, COLS), x, COLS, COLS, tokens));
	const weight = normals(ROWS * COLS, 2);
	const { linear, context, store } = await layerOnGpu(gpu, { weight, hessian: xx }, 32);
	using _store = store;
	const blocks = [
		...(salient ? [planned(salientSelect, { columns: 4 }), planned(residualBinarize)] : []),
		planned(splitSearch, { candidates: 9 }),
		planned(compensate, { "block-size": 32 }),
	];
	await quantizeLinear(context, store, linear, [...blocks, ...search], new StageClock(gpu));
	const quantized = await gpu.read(linear.quantized);
	const target = await gpu.read(linear.original);
	assert.equal(target[50], 0);
	return { linear, quantized, loss: lossOf(target, quantized, xx, COLS) };
}

for (const salient of [true, false]) {
	Deno.test(`row-search lowers the output error ${salient ? "with" : "without"} salient columns`, async () => {
		const losses = [];
		let before = 0;
		const sweeps = { rounds: 2, sweeps: 3 };
		for (const options of [undefined, { moves: 0 }, { ...sweeps, moves: 0 }, sweeps, sweeps]) {
			before = gpu.memory.current; // constants stay on the device from the first turn on
			const search = options ? [planned(rowSearch, options)] : [];
			const { linear, loss } = await quantize(search, salient);
			losses.push(loss);
			freeLinear(gpu, linear);
		}
		assert.equal(gpu.memory.current, before, "everything is freed");
		const [none, one, several, all, again] = losses;
		assert(one < 0.95 * none && several < one && all < several, `${losses}`);
		assert.equal(again, all);
	});
}

Deno.test("what row-search finds is what is stored, with scales in f16, 8 and 4 bits", async () => {
	for (const scales of ["f16", "i8", "i4"] as const) {
		for (const flags of ["plain", "entropy"] as const) {
			const { linear, quantized } = await quantize([planned(rowSearch)]);
			const draft = linear.draft as BillmDraft;
			const host = await draft.download({ scales, flags }, linear.quantized);
			const values = await gpu.read(linear.quantized);
			if (scales === "f16") assert.deepEqual(values, quantized);
			else assert.notDeepEqual(values, quantized);
			assert.deepEqual(dequantizeBillm(host), values);
			using folder = new TemporaryFolder();
			const name = "model.layers.0.mlp.up_proj";
			const { tensors } = storeLinear(name, { codec: draft.codec, host }, { scales, flags });
			using checkpoint = written(folder.path, tensors);
			const quantization = {
				...{ quant_method: "billm" as const, format_version: 4, block_size: 32 },
				columns: { [name]: COLS },
			};
			const loaded = loadLinear(checkpoint, quantization, name)!;
			assert.deepEqual(dequantizedLinear(loaded), values, `${scales}, ${flags}`);
			using matrix = await linearMatrix(gpu, loaded);
			assert.deepEqual(await gpu.read(matrix), values);
			freeLinear(gpu, linear);
		}
	}
});

Deno.test("row-search says which bits it can search", async () => {
	const run = (draft: LinearLayer["draft"]) => {
		const linear = { name: "layers.0.q_proj", draft } as LinearLayer;
		const options = rowSearch.options.parse({});
		return (rowSearch as LinearStage).run({ gpu, linear } as LinearContext, options);
	};
	const layout = { rows: 2, cols: 40, blockSize: 32 };
	for (
		const [zones, planes, found] of [
			[1, 2, /have 1 zone and 2 salient planes\. Set planes of residual-binarize to 2/],
			[2, 1, /"layers\.0\.q_proj" have 2 zones and 1 salient plane\./],
			[2, 3, /have 2 zones and 3 salient planes\./],
		] as const
	) {
		using draft = new BillmDraft(gpu, { ...layout, zones, planes });
		await assert.rejects(run(draft), { name: "UserError", message: found });
	}
	const grid = { codec: { name: "grid" } } as unknown as LinearLayer["draft"];
	await assert.rejects(run(grid), { message: /"layers\.0\.q_proj" is quantized as "grid"/ });
	await assert.rejects(run(undefined), { message: /"layers\.0\.q_proj" is not quantized/ });
});

Deno.test("row-search comes after split-search and compensate", async () => {
	using place = new Workplace({ layers: 1 });
	const { calibrate, method } = place;
	const fails = (stages: StageItem[], message: RegExp) =>
		assert.rejects(place.run({ stages }), (error: Error) => {
			assert.match(error.message, message);
			return true;
		});
	await fails(
		["download", calibrate, "hessian", "gptq", "row-search", "pack"],
		/^row-search needs two zones: put split-search before it, or use hbllm$/,
	);
	await fails(
		method.toSpliced(6, 1, "row-search"),
		/"row-search" needs "block-error", which stage "\S+" gives/,
	);
	await fails(
		["download", calibrate, "split-search", "row-search", "pack"],
		/"row-search" needs "hessian", which stage "hessian" gives/,
	);
	await fails(
		method.toSpliced(-1, 1, "row-search"),
		/"row-search" makes no use of "packed-model", which stage "pack" gives; put row-search before it/,
	);
});

Deno.test("a search after rotation and correction is resumed with the same bytes", async () => {
	using place = new Workplace({ layers: 2, intermediate: 96 });
	const stages: StageItem[] = [
		"download",
		place.calibrate,
		"rotate",
		"hessian",
		"propagate-error",
		{ "salient-select": { columns: 4 } },
		...place.method.slice(4, 7),
		{ "row-search": { rounds: 1, moves: 0.5 } },
		"pack",
		place.evaluate,
	];
	const { record } = await place.run({ ...SOFTWARE, stages });
	assert("row-search" in record.secondsByStage!);
	const wanted = contents(join(place.path("out"), "model"));
	assert.deepEqual(await place.resumed({ ...SOFTWARE, stages }), wanted);

	// Without the search, the same chain leaves a larger error.
	const plain = stages.filter((stage) => typeof stage === "string" || !("row-search" in stage));
	const { record: without } = await place.run({
		...SOFTWARE,
		stages: plain,
		output: place.path("plain"),
	});
	const errorOf = ({ layers }: typeof record) => layers![0].linears[0].relativeOutputError!;
	assert(errorOf(record) < 0.95 * errorOf(without));
	const columns = record.layers![0].linears[0].salientColumns!;
	assert(columns.every((count) => count === 4), `${columns}`);
});
