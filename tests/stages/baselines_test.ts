import assert from "node:assert/strict";
import { join } from "node:path";
import { sum } from "~/base/figures.ts";
import { downloadGrid, type GridDraft } from "~/codecs/grid/draft.ts";
import type { GridKind } from "~/codecs/grid/grid.ts";
import { dequantizeGridHost, type GridHost, loadGrid } from "~/codecs/grid/store.ts";
import { packedLinears } from "~/codecs/mod.ts";
import { PlainWeights } from "~/models/plain_weights.ts";
import { loadPipeline } from "~/pipeline/config/config.ts";
import { PipelineFileError } from "~/pipeline/config/errors.ts";
import { access, ArtifactStore } from "~/pipeline/run/artifacts.ts";
import { quantizeLinear } from "~/pipeline/run/quantize_linear.ts";
import { StageClock } from "~/pipeline/run/run.ts";
import type { BlockStage, GroupContext, LinearStage } from "~/pipeline/stage.ts";
import { gptq } from "~/stages/gptq.ts";
import { STAGES } from "~/stages/mod.ts";
import { pbLlm } from "~/stages/pb_llm.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { assertClose } from "../assert_close.ts";
import { gpu } from "../gpu/gpu.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";
import { openCheckpoint, openModel } from "../open.ts";
import { fitGridReference, gridValues, nearestCode } from "../reference/grid.ts";
import { normals } from "../reference/random.ts";
import { startTask } from "../start_task.ts";
import { linearOnGpu, planned, randomFactor, seenFactor } from "./linear_on_gpu.ts";

const PACK = { pack: { embeddings: "stored" } };

/** A pipeline without calibration, or with it and a Hessian. */
function stagesWith(place: Workplace, stage: StageItem, calibrated: boolean): StageItem[] {
	const before = calibrated ? ["download", place.calibrate, "hessian"] : ["download"];
	return [...before, stage, PACK, place.evaluate];
}

/** All combinations that take another way through the code. */
const METHODS: [
	name: string,
	stage: StageItem,
	calibrated: boolean,
	grid: GridKind,
	bits: number,
][] = [
	["rtn", { rtn: { bits: 3, "group-size": 32, grid: "range" } }, false, "range", 3],
	["rtn", { rtn: { bits: 8, zeros: "any" } }, true, "range", 8],
	["rtn", { rtn: { bits: 1 } }, false, "mean", 1],
	["rtn", { rtn: { bits: 1, grid: "range" } }, true, "range", 1],
	["sign", "sign", false, "sign", 1],
	["gptq", { gptq: { bits: 2, "group-size": 64 } }, true, "range", 2],
	["gptq", { gptq: { bits: 4, "group-size": "row", feedback: "block" } }, true, "range", 4],
	["gptq", { gptq: { bits: 3, zeros: "middle", order: "static" } }, true, "range", 3],
	["pb-llm", { "pb-llm": { "group-size": 64 } }, true, "sign", 1],
	[
		"pb-llm",
		{
			"pb-llm": {
				metric: "magnitude",
				feedback: "none",
				center: "mean",
				fraction: 0.03,
				"group-size": "row",
			},
		},
		false,
		"mean",
		1,
	],
];

for (const family of ["llama", "opt"] as const) {
	// One with calibration and one without show what is different in OPT: biases.
	for (const [name, stage, calibrated, grid, bits] of METHODS.slice(family === "opt" ? -2 : 0)) {
		Deno.test(`${JSON.stringify(stage)} of ${family}: what is written is what was measured`, async () => {
			using place = new Workplace({ layers: 2, family });
			const { record } = await place.run({ stages: stagesWith(place, stage, calibrated) });
			const { packed, layers, evaluation } = record;
			const linears = layers!.flatMap(({ linears }) => linears);
			using checkpoint = openCheckpoint(packed!.folder);
			using model = openModel(packed!.folder);
			const { quantization, config } = model;
			assert.equal(quantization!.method, name);
			const isNew = [...checkpoint.tensors.keys()].some((name) =>
				/grid_(zero_bits|zero|real_zeros|order)$/.test(name)
			);
			assert.equal(quantization!.format_version, isNew ? 4 : 3);
			assert.equal((config.quantization_config as { quant_method: string }).quant_method, "billm");

			// Every byte of the linear layers is in the record.
			const stored = packedLinears(checkpoint);
			assert.equal(stored.size, linears.length);
			let bytes = 0;
			let weights = 0;
			let codes = 0;
			for (const linear of linears) {
				assert.equal(linear.method, name);
				assert.deepEqual(linear.storedBytes, stored.get(linear.name)!.parts);
				assert.equal(linear.relativeOutputError !== undefined, calibrated);
				bytes += Object.values(linear.storedBytes).reduce((a, b) => a + b);
				weights += linear.rows * linear.cols;
				codes += linear.paperBits * linear.rows * linear.cols;
				const { cols, name: module } = linear;
				const host = loadGrid(checkpoint, module, {
					cols: cols,
					blockSize: quantization!.block_size,
				}) as GridHost;
				assert.deepEqual([host.grid, host.bits], [grid, bits]);
				assert.equal(host.salient, name === "pb-llm");
			}
			const { headers, ...parts } = packed!.storedBitsByPart;
			const ofParts = Object.values(parts).reduce((a, b) => a + b);
			assert.ok(Math.abs(ofParts - 8 * bytes / weights) < 1e-9);
			assert.ok(Math.abs(packed!.storedBits - headers - ofParts) < 1e-9);
			assert.ok(Math.abs(packed!.paperBits - codes / weights) < 1e-9);

			assert.ok(evaluation!.packed![0].loss > 0);
			await place.assertStandsForPlain(record);
		});
	}
}

Deno.test("rtn without calibration rounds each weight to the nearest value of its row's group", async () => {
	using place = new Workplace({ layers: 1 });
	const forms = [{ bits: 2, "group-size": 32, grid: "range" }, { bits: 8, grid: "range" }, {
		bits: 1,
	}];
	for (const form of forms) {
		const output = place.path(JSON.stringify(form).replaceAll(/\W/g, ""));
		const { record } = await place.run({ output, stages: ["download", { rtn: form }, PACK] });
		assert.deepEqual(Object.keys(contents(output)).includes("calibration.safetensors"), false);
		using original = openCheckpoint(place.model);
		using packed = PlainWeights.open(denoFolder(record.packed!.folder));
		const kind = form.bits === 1 ? "mean" : "range";
		for (const { name, rows, cols } of record.layers![0].linears) {
			const weights = original.readFloat32(`${name}.weight`);
			const found = [...packed.chunks(`${name}.weight`, 1 << 20)][0];
			const size = form["group-size"] ?? cols;
			const perRow = Math.ceil(cols / size);
			for (let i = 0; i < rows * perRow; i++) {
				const row = Math.floor(i / perRow) * cols;
				const first = row + i % perRow * size;
				const group = [...weights.subarray(first, Math.min(first + size, row + cols))];
				const grid = fitGridReference(kind, form.bits, group);
				const values = gridValues(kind, form.bits, grid);
				const expected = group.map((weight) => values[nearestCode(weight, values)]);
				// Ties, and one place of f16 in means and scales that f32 sums tip.
				const off = group.map((weight, k) =>
					Math.abs(weight - found[first + k]) - Math.abs(weight - expected[k])
				);
				assert.ok(Math.max(...off.map(Math.abs)) < grid.scale * 2e-3 * 2 ** form.bits, name);
			}
		}
	}
});

const ROWS = 7;

/** Quantizes a random linear layer with one stage and a random factor. */
async function quantizeRandom(stage: LinearStage | BlockStage, options: object, cols: number) {
	const weight = normals(ROWS * cols, 1);
	const factor = randomFactor(cols);
	const linear = linearOnGpu(gpu, weight, ROWS);
	using store = new ArtifactStore();
	const costs = Float32Array.from({ length: cols }, (_, i) => factor[i * cols + i] ** -2);
	store.set("factor", gpu.upload(factor, [cols, cols]));
	store.set("column-costs", gpu.upload(costs, [cols]));
	const order = Uint32Array.from({ length: cols }, (_, i) => (37 * i + 11) % cols);
	const places = new Uint32Array(cols);
	order.forEach((column, place) => places[column] = place);
	store.set("column-order", gpu.upload(order, [cols]));
	store.set("column-places", gpu.upload(places, [cols]));
	store.set("ordered-factor", gpu.upload(factor, [cols, cols]));
	store.set("ordered-costs", gpu.upload(costs, [cols]));
	const identity = Float32Array.from({ length: cols ** 2 }, (_, i) => i % (cols + 1) ? 0 : 2);
	store.set("hessian", gpu.upload(identity, [cols, cols]));
	const context = { gpu, blockSize: 64, ...access(store) } as unknown as GroupContext;
	await quantizeLinear(
		context,
		store,
		linear,
		[planned(stage, { ...options })],
		new StageClock(gpu),
	);
	const quantized = await gpu.read(linear.quantized);
	return {
		weight,
		factor,
		order,
		costs,
		quantized,
		host: await downloadGrid((linear.draft as GridDraft).codes),
	};
}

/**
 * The errors E with W - Q = E · U: what each column was quantized from is q + E_j U_jj.
 *
 * @param factor Upper triangular U, f32 `[cols, cols]`.
 * @returns f64 `[ROWS, cols]`.
 */
function errorsOf(weight: Float32Array, quantized: Float32Array, factor: Float32Array) {
	const cols = Math.sqrt(factor.length);
	const errors = Float64Array.from(weight, (w, i) => w - quantized[i]);
	for (let row = 0; row < ROWS; row++) {
		const left = errors.subarray(row * cols, (row + 1) * cols);
		for (let j = 0; j < cols; j++) {
			left[j] /= factor[j * cols + j];
			for (let k = j + 1; k < cols; k++) left[k] -= left[j] * factor[j * cols + k];
		}
	}
	return errors;
}

/** Checks that each weight as compensated got the nearest value of its grid. */
function checkNearest(
	errors: Float64Array,
	factor: Float32Array,
	quantized: Float32Array,
	valuesOf: (row: number, col: number) => number[],
): void {
	const cols = Math.sqrt(factor.length);
	for (let i = 0; i < ROWS * cols; i++) {
		const [row, col] = [Math.floor(i / cols), i % cols];
		const off = errors[i] * factor[col * cols + col];
		const values = valuesOf(row, col);
		const nearest = values[nearestCode(quantized[i] + off, values)];
		const excess = Math.abs(off) - Math.abs(quantized[i] + off - nearest);
		assert.ok(excess < 1e-3, `row ${row}, column ${col}: ${quantized[i]}, expected ${nearest}`);
	}
}

for (const cols of [100, 1100]) {
	for (const groupSize of [64, "row"] as const) {
		for (const feedback of ["column", "block"]) {
			Deno.test(`gptq: ${cols} columns, groups of ${groupSize}, feedback ${feedback}`, async () => {
				const form = { bits: 3, "group-size": groupSize, grid: "range", order: "none" };
				const found = await quantizeRandom(gptq as LinearStage, { ...form, feedback }, cols);
				const { weight, factor, quantized, host } = found;
				const seen = seenFactor(factor, 64, feedback);
				const errors = errorsOf(weight, quantized, seen);
				assert.deepEqual(dequantizeGridHost(host), quantized);

				// A group's grid is that of the weights as they are when its first column is reached.
				const size = groupSize === "row" ? cols : groupSize;
				const groups = Math.ceil(cols / size);
				checkNearest(errors, seen, quantized, (row, col) => {
					const [scale, offset] = host.fits.subarray(2 * (row * groups + Math.floor(col / size)));
					return gridValues("range", 3, { scale, offset });
				});
				for (let row = 0; row < ROWS; row++) {
					for (let group = 0; group < groups; group++) {
						const first = group * size;
						const end = Math.min(first + size, cols);
						const left = [...weight.subarray(row * cols + first, row * cols + end)];
						for (let col = first; col < end; col++) {
							for (let k = 0; k < first; k++) {
								left[col - first] -= errors[row * cols + k] * factor[k * cols + col];
							}
						}
						const expected = fitGridReference("range", 3, left);
						const [scale, zero] = host.fits.subarray((row * groups + group) * 2);
						assertClose([scale], [expected.scale], { rel: 2 ** -10, what: "scale" });
						assert.ok(Math.abs(zero - expected.offset) <= 1, `zero ${zero}, ${expected.offset}`);
					}
				}
			});
		}
	}
}

Deno.test("gptq visits columns in their order, with scale groups of places or of columns", async () => {
	const cols = 200; // a whole multiple of no group
	const forms = [
		{ order: "falling", zeros: "free", bits: 3, "group-size": 64 },
		{ order: "falling", zeros: "middle", bits: 2, "group-size": "row", feedback: "block" },
		{ order: "static", zeros: "half", bits: 2, "group-size": 64 },
		{ order: "static", zeros: "any", bits: 8, "group-size": 64, feedback: "block" },
		{ order: "static", grid: "mean", bits: 1, "group-size": "row" },
		{ order: "falling", zeros: "free", bits: 2, "group-size": 64, refit: 2 },
	];
	for (const { refit = 0, ...form } of forms) {
		const found = await quantizeRandom(gptq as LinearStage, { ...form, refit }, cols);
		const { weight, factor, order, quantized, host } = found;
		const what = JSON.stringify(form);
		assert.deepEqual(dequantizeGridHost(host), quantized, what);
		assert.deepEqual(host.order, form.order === "falling" ? order : undefined, what);
		if (refit > 0) { // codes are no longer those of the nearest levels
			const plain = await quantizeRandom(gptq as LinearStage, form, cols);
			assert.deepEqual(host.codes, plain.host.codes);
			assert.notDeepEqual(host.fits, plain.host.fits);
			// H is a multiple of the identity: the error of the weights themselves falls.
			const loss = (q: Float32Array) => sum([...q].map((value, i) => (weight[i] - value) ** 2));
			assert.ok(loss(quantized) < 0.99 * loss(plain.quantized));
			continue;
		}
		const visited = (values: Float32Array) =>
			values.map((_, i) => values[i - i % cols + order[i % cols]]);
		const seen = seenFactor(factor, 64, form.feedback);
		const inOrder = visited(quantized);
		const size = form["group-size"] === "row" ? cols : 64;
		const groups = Math.ceil(cols / size);
		checkNearest(errorsOf(visited(weight), inOrder, seen), seen, inOrder, (row, place) => {
			const column = form.order === "static" ? order[place] : place;
			const fit = 2 * (row * groups + Math.floor(column / size));
			const [scale, offset] = host.fits.subarray(fit);
			return gridValues(host.grid, form.bits, { scale, offset });
		});
	}
});

for (const metric of ["hessian", "magnitude"]) {
	Deno.test(`pb-llm: the most salient weights of the whole matrix by ${metric} have eight bits`, async () => {
		const cols = 200;
		const options = { metric, fraction: 0.1, "group-size": "row" };
		const { weight, costs, quantized, host } = await quantizeRandom(
			pbLlm as BlockStage,
			options,
			cols,
		);
		assert.deepEqual(dequantizeGridHost(host), quantized);
		const saliency = weight.map((w, i) =>
			metric === "hessian" ? w * w * costs[i % cols] : Math.abs(w)
		);
		const sorted = [...saliency].sort((a, b) => b - a);
		const least = sorted[Math.round(0.1 * saliency.length)];
		const values = new Set<number>(); // of the others in row 0
		saliency.forEach((value, i) => {
			const [row, col] = [Math.floor(i / cols), i % cols];
			const marked = (host.mask![row * Math.ceil(cols / 32) + (col >> 5)] >>> (col & 31)) & 1;
			if (Math.abs(value / least - 1) < 1e-5) return; // at the threshold itself
			assert.equal(marked, Number(value > least), `${i}`);
			if (row === 0 && !marked) values.add(quantized[i]);
		});
		const isMarked = (col: number) => ((host.mask![col >> 5] >>> (col & 31)) & 1) === 1;
		const others = [...weight.subarray(0, cols)].filter((_, col) => !isMarked(col));
		const othersCosts = [...costs].filter((_, col) => !isMarked(col));
		const scale = sum(others.map((w, i) => othersCosts[i] * Math.abs(w))) / sum(othersCosts);
		assert.equal(values.size, 2);
		assertClose([...values].sort((a, b) => a - b), [-scale, scale], { rel: 2 ** -10 });
	});
}

for (
	const [what, stage, calibrated] of [
		["rtn, which needs no calibration,", { rtn: { bits: 2 } }, false],
		["pb-llm", { "pb-llm": { "group-size": 32 } }, true],
	] as const
) {
	Deno.test(`${what} goes on after an interruption and ends in the same bytes`, async () => {
		using place = new Workplace({ layers: 3 });
		const stages = stagesWith(place, stage, calibrated).with(-2, { pack: { flags: "entropy" } });
		await place.run({ output: place.path("whole"), stages });
		const controller = new AbortController();
		const fields = { output: place.path("again"), stages };
		await assert.rejects(place.run(fields, {
			signal: controller.signal,
			emit: (event) => {
				if (event.type === "layer" && event.layer === 1) controller.abort();
			},
		}));
		const { events } = await place.run(fields);
		assert.ok(events.some((event) => event.type === "start" && event.resumedLayers === 2));
		assert.deepEqual(
			contents(place.path("again", "model")),
			contents(place.path("whole", "model")),
		);
	});
}

Deno.test("pb-llm: which weights are salient is stored as is smallest, or as entropy code", async () => {
	using place = new Workplace({ layers: 1 });
	const run = async (fraction: number, flags: string) => {
		const { record } = await place.run({
			output: place.path(`${fraction}${flags}`),
			stages: [
				"download",
				{ "pb-llm": { fraction, metric: "magnitude", feedback: "none" } },
				{ pack: { flags, embeddings: "stored" } },
			],
		});
		const { folder, storedBitsByPart } = record.packed!;
		using checkpoint = openCheckpoint(folder);
		using weights = PlainWeights.open(denoFolder(folder));
		const name = "model.layers.0.mlp.up_proj";
		const values = [...weights.chunks(`${name}.weight`, 1 << 20)][0].slice();
		const parts = ["mask", "places", "counts"].filter((p) => checkpoint.has(`${name}.grid_${p}`));
		return { parts, values, bits: storedBitsByPart["salient-mask"] };
	};
	const few = await run(0.01, "plain");
	assert.deepEqual(few.parts, ["places", "counts"]);
	assert.ok(few.bits < 16 * 0.01 + 16 / 64 + 0.01, `${few.bits}`);
	const many = await run(0.2, "plain");
	assert.deepEqual(many.parts, ["mask"]);
	assert.ok(many.bits >= 1 && many.bits < 1.1, `${many.bits}: rows are padded to words`);
	for (const [fraction, plain] of [[0.01, few], [0.2, many]] as const) {
		const coded = await run(fraction, "entropy");
		assert.deepEqual(coded.parts, ["mask"]);
		assert.deepEqual(coded.values, plain.values);
		const entropy = -fraction * Math.log2(fraction) - (1 - fraction) * Math.log2(1 - fraction);
		// Each module has 64 columns and few rows: what a stream begins with shows.
		assert.ok(coded.bits > entropy - 0.01 && coded.bits < 1.05 * entropy + 0.05, `${coded.bits}`);
	}
});

Deno.test("inspect and compare work with weights on grids", async () => {
	using place = new Workplace({ layers: 1 });
	const { record } = await place.run({
		stages: stagesWith(place, { "pb-llm": { "group-size": 32 } }, true),
	});
	const { folder } = record.packed!;
	const table = await startTask("inspect", [folder]);
	assert.equal(table.code, 0, table.stderr);
	assert.match(table.stdout, /packed by pb-llm, format version 3, blocks of 32 columns/);
	assert.match(
		table.stdout,
		/linear layer +shape +salient +paper +stored +codes +which +8-bit +scales/,
	);
	assert.ok(table.stdout.split("\n").slice(1).every((line) => line.length <= 100));
	const { stdout } = await startTask("inspect", [folder, "--json"]);
	const report = JSON.parse(stdout);
	for (const linear of record.layers![0].linears) {
		const found = report.linears.find(({ name }: { name: string }) => name === linear.name);
		assert.deepEqual(found.storedBytes, linear.storedBytes);
		assert.equal(found.salientFraction, linear.salientFraction);
		assert.ok(Math.abs(found.salientFraction - 0.1) < 0.02);
		assert.equal(found.paperBits, linear.paperBits);
		assert.equal(found.relativeOutputError, linear.relativeOutputError);
	}
	const out = place.path("plain");
	assert.equal((await startTask("dequantize", [folder, out])).code, 0);
	const compared = await startTask("compare", [folder, out, "--json"]);
	for (const { relativeRms } of JSON.parse(compared.stdout).differences) {
		assert.ok(relativeRms < 2 ** -10, "f16 of the dequantized model");
	}
	const different = JSON.parse(
		(await startTask("compare", [folder, place.model, "--json"])).stdout,
	);
	assert.equal(different.differences.length, record.layers![0].linears.length);
});

Deno.test("chains that make no sense are refused before anything runs", async () => {
	using place = new Workplace({ layers: 1 });
	const refusal = async (stages: StageItem[]) => {
		const path = place.pipeline({ stages });
		try {
			await loadPipeline(path, { stages: STAGES });
		} catch (error) {
			assert.ok(error instanceof PipelineFileError);
			return error.message.replaceAll(`${path}:`, "");
		}
		assert.fail("not refused");
	};
	const before = ["download", place.calibrate, "hessian"];
	assert.equal(
		await refusal([...before, "rtn", "compensate", "pack"]),
		'9:5: Stage "compensate" makes no use of "block-error", which stage "rtn" gives; ' +
			"leave one of them out",
	);
	assert.equal(
		await refusal([...before, "salient-select", "gptq", "pack"]),
		'9:5: Stage "gptq" makes no use of "salient-columns", which stage "salient-select" gives; ' +
			"leave one of them out",
	);
	assert.equal(
		await refusal(["download", "gptq", "pack"]),
		'6:5: Stage "gptq" needs "ordered-factor", which stage "hessian" gives; put hessian before it',
	);
	assert.equal(
		await refusal(["download", { rtn: { bits: 5, "group-size": 48 } }, "pack"]),
		"6:20: rtn.bits must be one of 1, 2, 3, 4, 8, found 5\n" +
			'6:35: rtn.group-size must be one of 32, 64, 128, 256, "row", found 48',
	);
	assert.match(
		await refusal(["download", { rtn: { bits: 2, grid: "mean" } }, "pack"]),
		/rtn.grid must be search or range with more than 1 bit, found "mean"/,
	);
	assert.match(
		await refusal(["download", { rtn: { bits: 2, grid: "range", zeros: "any" } }, "pack"]),
		/rtn.zeros must be absent without grid: search, found "any"/,
	);
});

Deno.test("a packed model whose codes do not fit is refused", async () => {
	using place = new Workplace({ layers: 1 });
	const { record } = await place.run({
		stages: ["download", { rtn: { bits: 2, zeros: "any" } }, PACK],
	});
	const path = join(record.packed!.folder, "config.json");
	const config = JSON.parse(await Deno.readTextFile(path));
	config.quantization_config.columns["mlp.up_proj"] = 128;
	await Deno.writeTextFile(path, JSON.stringify(config));
	using weights = PlainWeights.open(denoFolder(record.packed!.folder));
	const { rows } = record.layers![0].linears.find(({ name }) => name.endsWith("up_proj"))!;
	assert.throws(
		() => [...weights.chunks("model.layers.0.mlp.up_proj.weight", 1 << 20)],
		new RegExp(
			`up_proj.grid_zeros" is U32|up_proj.grid_codes" is \\[${rows}, 4\\], expected|N = 1, 2`,
		),
	);
});
