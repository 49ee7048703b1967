import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { dequantizeBillm } from "../../../codecs/billm/host.ts";
import type { BillmLayout } from "../../../codecs/billm/quantize_block.ts";
import { loadBillm } from "../../../codecs/billm/store.ts";
import {
	dequantizeEmbeddingOnHost,
	isPackedEmbedding,
} from "../../../codecs/embedding/embedding.ts";
import { packedLinears } from "../../../codecs/mod.ts";
import { openDataset } from "../../../data/datasets.ts";
import { readText } from "../../../data/texts.ts";
import { consecutiveWindows } from "../../../data/windows.ts";
import { openGpu } from "../../../hosts/deno_gpu.ts";
import { Decoder } from "../../../models/decoder.ts";
import { LayerPlan } from "../../../models/layer_plan.ts";
import { divergence } from "../../../models/metrics/divergence.ts";
import { finalStates, perplexity } from "../../../models/metrics/perplexity.ts";
import { ModelFiles } from "../../../models/model_files.ts";
import type { Registers } from "../../../models/registers.ts";
import { loadPipeline } from "../../../pipeline/config/config.ts";
import type { RunEvent } from "../../../pipeline/run/events.ts";
import type { RunRecord } from "../../../pipeline/run/record.ts";
import { defineStage, type GroupContext } from "../../../pipeline/stage.ts";
import { runPipeline } from "../../../report/run_with_report.ts";
import { STAGES } from "../../../stages/mod.ts";
import { denoFolder } from "../../../storage/deno_folder.ts";
import { writeSafetensors } from "../../../storage/write_safetensors.ts";
import { assertClose } from "../../assert_close.ts";
import { storedParts } from "../../codecs/billm/stored_parts.ts";
import {
	contents,
	LEFT,
	sha256,
	type StageItem,
	Workplace,
	writeMicroModel,
} from "../../micro_model.ts";

/** Every linear layer of a packed model. */
function linearNames({ architecture }: ModelFiles): string[] {
	const modules = new LayerPlan(architecture, 0).modules;
	return Array.from({ length: architecture.layers }, (_, i) => architecture.names.layer(i))
		.flatMap((prefix) => modules.map((module) => prefix + module));
}

function unpack(packed: ModelFiles, name: string) {
	const { columns, block_size } = packed.quantization!;
	const module = Object.keys(columns).find((module) => name.endsWith(`.${module}`))!;
	return loadBillm(packed.checkpoint, name, { cols: columns[module], blockSize: block_size });
}

/** Checks a packed model against its record and the formula of what it takes. */
function checkPacked(record: RunRecord, form: Pick<BillmLayout, "zones" | "planes">): void {
	const { packed, layers } = record;
	using model = ModelFiles.open(denoFolder(packed!.folder));
	using original = ModelFiles.open(denoFolder(record.model));
	const records = new Map(layers!.flatMap(({ linears }) => linears.map((l) => [l.name, l])));
	assert.deepEqual([...records.keys()], linearNames(model));
	const sums: Record<string, number> = { headers: 0 };
	let weights = 0;
	for (const [name, linear] of records) {
		const host = unpack(model, name);
		const { rows, cols, blockSize, zones, planes } = host;
		assert.deepEqual({ zones, planes }, form, name);
		assert.deepEqual([rows, cols], original.checkpoint.get(`${name}.weight`).shape, name);
		const salient = linear.salientColumns.reduce((sum, count) => sum + count, 0);
		assert.equal(linear.salientColumns.length, Math.ceil(cols / blockSize), name);
		assert.ok(planes > 0 ? salient > 0 : salient === 0, name);
		assert.ok(zones === 2 ? linear.highFraction > 0 : linear.highFraction === 0, name);
		const stored = packedLinears(model.checkpoint).get(name)!.parts;
		assert.deepEqual(linear.storedBytes, stored, name);
		// Entropy-coded flags take about what they hold, and leave second signs to lie apart.
		const plain = storedParts(host, salient, host.codes ? 8 : 16);
		const signs = 4 * (planes - 1) * Math.ceil(rows * salient / 32);
		const isCoded = zones === 2 && model.checkpoint.get(`${name}.flags`).dtype === "U16";
		const parts = isCoded
			? { ...plain, flags: stored.flags, "salient-signs": Math.max(0, signs) }
			: plain;
		assert.deepEqual(stored, parts, name);
		assert.ok(stored.flags <= plain.flags + 32, name);
		for (const [part, bytes] of Object.entries(stored)) {
			if (bytes > 0) sums[part] = (sums[part] ?? 0) + bytes;
		}
		weights += rows * cols;
		assert.equal(linear.paperBits, 1 + Math.max(0, planes - 1) * salient / cols, name);
		const values = dequantizeBillm(host);
		const source = original.checkpoint.readFloat32(`${name}.weight`);
		let error = 0;
		let total = 0;
		for (let i = 0; i < values.length; i++) {
			error += (values[i] - source[i]) ** 2;
			total += source[i] ** 2;
		}
		assert.ok(error < 0.75 * total, `${name}: its squared error is ${error} of ${total}`);
		if (linear.relativeOutputError !== undefined) {
			assert.ok(linear.relativeOutputError > 0 && linear.relativeOutputError < 0.75, name);
		}
	}
	for (const { file, bytes, sha256: hash, layer } of layers!) {
		const path = join(packed!.folder, file);
		assert.deepEqual([statSync(path).size, sha256(path)], [bytes, hash]);
		const tensors = [...model.checkpoint.tensors.values()].filter((t) => t.file === path);
		assert.ok(tensors.every(({ name }) => name.includes(`.layers.${layer}.`)));
		sums.headers += bytes - tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
	}
	assert.equal(packed!.weights, weights);
	const bits = Object.entries(sums).map(([part, bytes]) => [part, 8 * bytes / weights]);
	assert.deepEqual(packed!.storedBitsByPart, Object.fromEntries(bits));
	const storedBits = 8 * Object.values(sums).reduce((sum, bytes) => sum + bytes, 0) / weights;
	assert.equal(packed!.storedBits, storedBits);
	const onDisk = readdirSync(packed!.folder);
	assert.deepEqual(packed!.files.map(({ name }) => name).sort(), onDisk.sort());
	for (const { name, bytes, sha256: hash } of packed!.files) {
		const path = join(packed!.folder, name);
		assert.deepEqual([statSync(path).size, sha256(path)], [bytes, hash], name);
	}
	const weightFiles = onDisk.filter((name) => name.endsWith(".safetensors"));
	const bytes = weightFiles.reduce((sum, n) => sum + statSync(join(packed!.folder, n)).size, 0);
	assert.equal(packed!.bytes, bytes);
	const source = join(record.model, "model.safetensors");
	assert.equal(packed!.originalBytes, statSync(source).size);
	// All but the linear layers and the tables is as it was.
	for (const [name, tensor] of original.checkpoint.tensors) {
		const module = name.replace(/\.weight$/, "");
		if (records.has(module)) continue;
		if (isPackedEmbedding(model.checkpoint, module)) {
			assert.match(module, /embed|lm_head/);
			const [rows] = tensor.shape;
			const values = dequantizeEmbeddingOnHost(model.checkpoint, module, 0, rows);
			const source = original.checkpoint.readFloat32(name);
			const top = source.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
			assert.ok(values.every((value, i) => Math.abs(value - source[i]) < top / 200), name);
			continue;
		}
		const { dtype, shape } = model.checkpoint.get(name);
		assert.deepEqual([dtype, shape], [tensor.dtype, tensor.shape], name);
		assert.deepEqual(model.checkpoint.readBytes(name), original.checkpoint.readBytes(name), name);
	}
}

/** The kinds of events, each with how often it comes in a row. */
function sequence(events: RunEvent[]): string[] {
	const runs: { kind: string; count: number }[] = [];
	for (const event of events) {
		const kind = "stage" in event ? `${event.type} ${event.stage}` : event.type;
		if (runs.at(-1)?.kind === kind) runs.at(-1)!.count++;
		else runs.push({ kind, count: 1 });
	}
	return runs.map(({ kind, count }) => count > 1 ? `${kind} x ${count}` : kind);
}

Deno.test("a run of the whole method and what it leaves", async (t) => {
	using place = new Workplace();
	const out = place.path("out");
	const { record, events } = await place.run();
	const first = contents(out);

	await t.step("leaves the packed model, the record and the file, and nothing else", () => {
		assert.deepEqual(Object.keys(first), [
			"calibration.safetensors",
			"histograms.json",
			"model/config.json",
			"model/generation_config.json",
			"model/model-00001-of-00005.safetensors",
			"model/model-00002-of-00005.safetensors",
			"model/model-00003-of-00005.safetensors",
			"model/model-00004-of-00005.safetensors",
			"model/model-00005-of-00005.safetensors",
			"model/model.safetensors.index.json",
			"model/tokenizer.json",
			"model/tokenizer_config.json",
			"pipeline.yaml",
			"report.html",
			"run.json",
		]);
		assert.deepEqual(readdirSync(out).sort(), LEFT);
		assert.deepEqual(
			readFileSync(join(out, "pipeline.yaml"), "utf8"),
			readFileSync(place.path("pipeline0.yaml"), "utf8"),
		);
	});

	await t.step("writes the record that it returns", () => {
		const written = JSON.parse(readFileSync(join(out, "run.json"), "utf8"));
		assert.deepEqual(written, JSON.parse(JSON.stringify(record)));
		assert.equal(record.status, "done");
		assert.match(record.identity, /^[0-9a-f]{64}$/);
		const { name, model, mode, seed, deno } = record;
		assert.deepEqual([name, model, mode, seed, deno], [
			"micro",
			place.model,
			"default",
			0,
			Deno.version.deno,
		]);
		const small = ["config.json", "generation_config.json", "tokenizer.json"];
		const files = [...small, "tokenizer_config.json", "model.safetensors"]
			.map((file) => join(place.model, file));
		assert.deepEqual(
			record.inputs,
			Object.fromEntries(
				[...files, place.calibration, place.evaluation].map((path) => [path, sha256(path)]),
			),
		);
		assert.deepEqual(record.stages.map(({ name }) => name), [
			"download",
			"calibrate",
			"hessian",
			"salient-select",
			"residual-binarize",
			"split-search",
			"compensate",
			"pack",
			"evaluate",
		]);
		assert.deepEqual(record.stages[5].options, { candidates: 9, search: "weight" });
		assert.deepEqual(Object.keys(record.secondsByStage!).sort(), [
			...[...record.stages.map(({ name }) => name), "factor", "output-error"].sort(),
		]);
		const spent = Object.values(record.secondsByStage!).reduce((sum, part) => sum + part, 0);
		assert.ok(spent > 0 && spent < record.seconds!);
		assert.ok(Date.parse(record.finished!) > Date.parse(record.started));
		assert.ok(record.layers!.every(({ peakGpuBytes }) => peakGpuBytes <= record.peakGpuBytes!));
		assert.deepEqual(record.layers!.map(({ layer }) => layer), [0, 1, 2, 3]);
	});

	await t.step("packs every linear layer in the bytes that the form takes", () => {
		checkPacked(record, { zones: 2, planes: 2 });
	});

	await t.step("says what it does, in this order", () => {
		assert.deepEqual(sequence(events), [
			"stage download",
			"stage needs",
			"start",
			"plan",
			"stage calibrate",
			...[0, 1, 2, 3].flatMap(() => ["progress layers x 8", "linear x 7", "layer"]),
			"progress evaluate x 5",
			"metric evaluate",
			"progress evaluate x 6", // the last one is of the comparison with the original
			"metric evaluate x 4",
			"end",
		]);
		const [start] = events.filter((event) => event.type === "start");
		assert.deepEqual([start.name, start.output, start.resumedLayers], ["micro", out, 0]);
		assert.equal(start.adapter, record.adapter);
		const [{ steps }] = events.filter((event) => event.type === "plan");
		const texts = new Set(
			events.flatMap((event) => event.type === "progress" ? [event.stage, event.text] : []),
		);
		assert.ok(steps.every(({ stage, text, seconds }) => texts.has(text ?? stage) && seconds > 0));
		assert.equal(steps.length, 4, "layers, both models and their comparison");
		const layers = events.filter((event) => event.type === "layer");
		assert.deepEqual(
			layers,
			record.layers!.map((layer) => ({ type: "layer", layers: 4, ...layer })),
		);
		const linears = events.filter((event) => event.type === "linear");
		assert.deepEqual(
			linears,
			record.layers!.flatMap((layer) => layer.linears.map((l) => ({ type: "linear", ...l }))),
		);
		const progress = events.filter((event) => event.type === "progress");
		const [before, after] = [progress.slice(32, 37), progress.slice(37, 42)];
		const layerProgress = progress.slice(0, 32).map(({ done, total, text }) =>
			`${done}/${total} ${text}`
		);
		assert.deepEqual(layerProgress.slice(8, 11), [
			"7/28 layer 2",
			"7/28 layer 2, self_attn.q_proj",
			"8/28 layer 2, self_attn.k_proj",
		]);
		for (const part of [before, after]) {
			assert.deepEqual(part.map(({ done, total }) => [done, total]), [
				[1, 5],
				[2, 5],
				[3, 5],
				[4, 5],
				[5, 5],
			]);
		}
		const metrics = events.filter((event) => event.type === "metric");
		const [packed] = record.evaluation!.packed!;
		assert.deepEqual(
			metrics.map(({ name, value }) => [name, value]),
			[
				["perplexity of the original model", record.evaluation!.original[0].perplexity],
				["perplexity of the packed model", packed.perplexity],
				["ln ratio of the packed model", packed.lnRatio],
				["KL divergence of the packed model", packed.divergence!.kl],
				["same top token of the packed model", packed.divergence!.agreement],
			],
		);
	});

	await t.step("measures the packed files: the same as a plain model of their values", async () => {
		const { packed: [packed], original: [original] } = record.evaluation as Required<
			NonNullable<RunRecord["evaluation"]>
		>;
		assert.ok(original.perplexity > 1000 && original.perplexity < 10000, "no better than chance");
		assert.notEqual(packed.perplexity, original.perplexity);
		assert.equal(packed.perplexity, Math.exp(packed.loss));
		using model = ModelFiles.open(denoFolder(record.packed!.folder));
		await using gpu = await openGpu();
		const ids = model.tokenizer.encode(readText(place.evaluation));
		const windows = consecutiveWindows(ids, 32, { limit: 4 });
		const again = await perplexity(gpu, model, { windows, dataset: place.evaluation });
		const { lnRatio, divergence: _, ...figure } = packed;
		assert.deepEqual(again, figure);
		assert.equal(lnRatio, packed.loss - original.loss);
		const plain = writeMicroModel(place.path("plain"), {
			dtype: "F32",
			alter(tensors) {
				const { checkpoint } = model;
				for (const [name, tensor] of tensors) {
					const linear = name.replace(/\.weight$/, "");
					tensor.values = checkpoint.has(`${linear}.signs`)
						? dequantizeBillm(unpack(model, linear))
						: isPackedEmbedding(checkpoint, linear)
						? dequantizeEmbeddingOnHost(checkpoint, linear, 0, tensor.shape[0])
						: checkpoint.readFloat32(name);
				}
			},
		});
		using dequantized = ModelFiles.open(denoFolder(plain));
		const measured = await perplexity(gpu, dequantized, { windows, dataset: place.evaluation });
		assert.equal(measured.loss, packed.loss);
		// Each with its own head, one in 8 bits and one in f32.
		const [one, other] = [
			{ model, states: await finalStates(gpu, model, [0, 3], { windows }) },
			{ model: dequantized, states: await finalStates(gpu, dequantized, [0, 3], { windows }) },
		];
		const same = await divergence(gpu, one, other, { dataset: place.evaluation });
		assert.deepEqual(same, { windows: 2, kl: 0, agreement: 1 });
	});

	await t.step("is recognised when it is finished, and nothing is written", async () => {
		const stamps = () =>
			["", ...Object.keys(first)].map((name) => {
				const { mtimeMs, ino } = statSync(join(out, name));
				return [name, mtimeMs, ino];
			});
		const before = stamps();
		const again = await place.run();
		assert.deepEqual(sequence(again.events), ["stage download", "already-done"]);
		assert.deepEqual(again.events[1], { type: "already-done", output: out });
		assert.deepEqual(again.record, JSON.parse(JSON.stringify(record)));
		assert.deepEqual(stamps(), before);
		assert.deepEqual(readdirSync(out).sort(), LEFT);
	});

	await t.step("cleans up after a run that was killed when it was already done", async () => {
		mkdirSync(join(out, "layers"));
		writeFileSync(join(out, "layers/00000.json"), "{}");
		writeFileSync(join(out, "run.json.tmp"), "{");
		const { events } = await place.run();
		assert.deepEqual(sequence(events), ["stage download", "already-done"]);
		assert.deepEqual(contents(out), first);
		assert.deepEqual(readdirSync(out).sort(), LEFT);
	});

	const model = (folder: string) => contents(join(folder, "model"));
	const whole = model(out);

	await t.step("gives the same bytes in another folder", async () => {
		const other = place.path("elsewhere");
		const { record: twin } = await place.run({ name: "other", output: other });
		assert.deepEqual(model(other), whole);
		assert.equal(twin.identity, record.identity);
		assert.deepEqual(twin.evaluation, record.evaluation);
	});

	await t.step("runs again if a packed file is damaged or missing", async () => {
		const file = join(out, "model/model-00003-of-00005.safetensors");
		const bytes = readFileSync(file);
		bytes[bytes.length - 1] ^= 1;
		writeFileSync(file, bytes);
		const { record: mended, events } = await place.run();
		assert.equal(sequence(events).at(-1), "end");
		assert.deepEqual(model(out), whole);
		assert.equal(mended.status, "done");
		rmSync(join(out, "model/config.json"));
		assert.equal(sequence((await place.run()).events).at(-1), "end");
		assert.deepEqual(model(out), whole);
	});

	await t.step("is not replaced by a different one, unless told so", async () => {
		const different = { seed: 1 };
		await assert.rejects(
			place.run(different),
			new UserError(
				`The output folder "${out}" holds a different run: seed was 0 and is 1 now; ` +
					`choose another output, or give --overwrite to replace it`,
			),
		);
		assert.deepEqual(model(out), whole);
		writeFileSync(join(out, "model/notes.txt"), "of the user");
		const { record: replaced } = await place.run(different, { overwrite: true });
		assert.equal(replaced.seed, 1);
		assert.notEqual(replaced.identity, record.identity);
		rmSync(join(out, "model/notes.txt")); // it has stayed
		assert.deepEqual(Object.keys(model(out)), Object.keys(whole));
		assert.notDeepEqual(model(out), whole);
		checkPacked(replaced, { zones: 2, planes: 2 });
	});
});

Deno.test("a folder that holds something else is left alone", async () => {
	using place = new Workplace({ layers: 1 });
	mkdirSync(place.path("out"));
	writeFileSync(place.path("out/thesis.txt"), "mine");
	const refusal = new UserError(
		`The output folder "${place.path("out")}" is not empty and holds no run; ` +
			`choose another output, or empty it`,
	);
	await assert.rejects(place.run(), refusal);
	await assert.rejects(place.run({}, { overwrite: true }), refusal);
	assert.deepEqual(readdirSync(place.path("out")), ["thesis.txt"]);
});

Deno.test("a changed text, model or option makes a different run; name and output do not", async () => {
	using place = new Workplace({ layers: 1 });
	const stages: StageItem[] = ["download", place.evaluate];
	const identityOf = async (
		fields: { seed?: number; stages?: StageItem[]; name?: string } = {},
	) => {
		const output = place.path("out");
		rmSync(output, { recursive: true, force: true });
		return (await place.run({ stages, output, ...fields })).record.identity;
	};
	const identity = await identityOf();
	assert.equal(await identityOf({ name: "another" }), identity);
	const others = [
		await identityOf({ seed: 7 }),
		await identityOf({ stages: ["download", place.evaluateWith({ windows: 3 })] }),
	];
	writeFileSync(place.evaluation, readFileSync(place.evaluation, "utf8") + " more");
	others.push(await identityOf());
	const config = join(place.model, "config.json");
	writeFileSync(config, readFileSync(config, "utf8") + "\n");
	others.push(await identityOf());
	assert.equal(new Set([identity, ...others]).size, 5);
});

for (const order of ["layer", "module"] as const) {
	Deno.test(`calibration, order ${order}, sees what the packed layers before give`, async () => {
		using place = new Workplace({ layers: 2, dtype: "F32" });
		/** The input of each group, all batches one after the other, and its Hessian. */
		const groups: { layer: number; input: number[]; hessian: Float32Array }[] = [];
		const current = new Map<GroupContext, number[]>();
		const probe = defineStage({
			name: "probe",
			scope: "layer",
			summary: "Keep what the linear layers get",
			options: z.strictObject({}),
			needs: ["hessian"],
			gives: [],
			async observe(context, _options, input) {
				const values = [...current.get(context) ?? [], ...await context.gpu.read(input)];
				current.set(context, values);
			},
			async run(context) {
				const hessian = await context.gpu.read(context.get("hessian"));
				const input = current.get(context)!;
				groups.push({ layer: context.layer.index, input, hessian });
			},
		});
		const calibrate = place.calibrateWith({ order, "batch-tokens": 64 });
		const stages = place.method.with(1, calibrate).toSpliced(3, 0, "probe");
		const file = place.pipeline({ stages });
		await runPipeline(await loadPipeline(file, { stages: [...STAGES, probe] }));
		assert.equal(groups.length, 8);

		await using gpu = await openGpu();
		using original = ModelFiles.open(denoFolder(place.model));
		using packed = ModelFiles.open(denoFolder(place.path("out/model")));
		const data = await openDataset(place.calibration, "calibration", () => assert.fail());
		const options = { samples: 4, length: 32, seed: 0 };
		const windows = await data.calibration(() => original.tokenizer, options);
		using decoder = new Decoder(gpu, packed);
		using unquantized = new Decoder(gpu, original);
		let hidden = (await unquantized.embedding.embed([windows]))[0];
		for (let layer = 0; layer < 2; layer++) {
			const quantized = await decoder.loadLayer(layer);
			const seen = order === "layer" ? await unquantized.loadLayer(layer) : quantized;
			for (const [i, { at, from }] of seen.plan.groups.entries()) {
				const registers: Registers = new Map([["hidden", gpu.clone(hidden)]]);
				await decoder.run(seen, registers, 32, 0, at);
				const expected = await gpu.read(registers.get(from)!);
				const { input, hessian, ...group } = groups[4 * layer + i];
				assert.equal(group.layer, layer);
				const what = `input of group ${i} of layer ${layer}`;
				assertClose(input, expected, { abs: 1e-5, rel: 1e-5, what });
				const cols = input.length / 128;
				const diagonal = Array.from({ length: cols }, (_, col) => {
					let sum = 0;
					for (let token = 0; token < 128; token++) sum += input[token * cols + col] ** 2;
					return 2 / windows.length * sum;
				});
				const found = diagonal.map((_, col) => hessian[col * cols + col]);
				assertClose(found, diagonal, { rel: 1e-5, what: `diagonal of its Hessian, ${what}` });
			}
			const registers: Registers = new Map([["hidden", hidden]]);
			await decoder.run(quantized, registers, 32);
			hidden = registers.get("hidden")!;
		}
	});
}

Deno.test("order layer and order module differ where a layer's own quantization is seen", async () => {
	using place = new Workplace({ layers: 2 });
	const run = async (order: string) => {
		const stages = place.method.with(1, place.calibrateWith({ order }));
		const { record } = await place.run({ stages, output: place.path(order) });
		checkPacked(record, { zones: 2, planes: 2 });
		return new Map(record.layers!.flatMap(({ linears }) => linears.map((l) => [l.name, l])));
	};
	const [layer, module] = [await run("layer"), await run("module")];
	const error = (name: string) =>
		[layer, module].map((records) => records.get(name)!.relativeOutputError);
	const [q, qOfModule] = error("model.layers.0.self_attn.q_proj");
	assert.equal(q, qOfModule, "nothing before it is quantized");
	for (const name of ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.q_proj"]) {
		const [ofLayer, ofModule] = error(name);
		assert.notEqual(ofLayer, ofModule, name);
	}
});

Deno.test("the size of batches changes no more than rounding", async () => {
	using place = new Workplace({ layers: 1 });
	const run = async (tokens: number) => {
		const output = place.path(`out-${tokens}`);
		const options = { samples: 5, "batch-tokens": tokens };
		const stages = place.method.with(1, place.calibrateWith(options));
		const { record } = await place.run({ stages, output });
		return record.layers![0].linears.map(({ relativeOutputError }) => relativeOutputError!);
	};
	const [one, two] = [await run(32), await run(100)];
	one.forEach((error, i) => {
		assert.ok(Math.abs(error / two[i] - 1) < 0.02, `${error} and ${two[i]}`);
	});
});

Deno.test("a layer that gives nothing but zeros has no relative error", async () => {
	using place = new Workplace({
		layers: 1,
		alter(tensors) {
			tensors.get("model.layers.0.input_layernorm.weight")!.values.fill(0);
			tensors.get("model.layers.0.mlp.down_proj.weight")!.values.fill(0);
		},
	});
	const { record, events } = await place.run();
	const measured = record.layers![0].linears.filter((linear) => "relativeOutputError" in linear);
	assert.deepEqual(measured.map(({ name }) => name), [
		"model.layers.0.mlp.gate_proj",
		"model.layers.0.mlp.up_proj",
	]);
	const text = JSON.stringify([record, events]);
	assert.ok(!text.includes("null"), "no number is NaN");
});

Deno.test("mode reference takes the defaults of the released program", async () => {
	using place = new Workplace({ layers: 1 });
	const stages = place.method.with(5, "split-search").with(6, "compensate");
	const { record } = await place.run({ mode: "reference", stages });
	const options = Object.fromEntries(record.stages.map(({ name, options }) => [name, options]));
	assert.deepEqual([record.mode, options.calibrate], ["reference", {
		dataset: place.calibration,
		samples: 4,
		"sequence-length": 32,
		order: "layer",
		"batch-tokens": 8192,
		"activations": "f32",
	}]);
	assert.deepEqual(options["salient-select"], {
		metric: "hessian",
		"max-columns": 49,
		search: "saliency",
		norm: "l1",
	});
	assert.deepEqual(options["split-search"], { candidates: 81, search: "saliency" });
	assert.deepEqual(options.compensate, {
		"block-size": 128,
		feedback: "block",
		assign: "fit",
	});
	checkPacked(record, { zones: 2, planes: 2 });
});

/** Chains of stages, and the form of the linear layers that each gives. */
const CHAINS: {
	what: string;
	stages: StageItem[];
	zones: 1 | 2;
	planes: number;
	model?: ConstructorParameters<typeof Workplace>[0];
}[] = [
	{
		what: "no compensate",
		stages: ["hessian", "salient-select", "residual-binarize", "split-search", "pack"],
		zones: 2,
		planes: 2,
	},
	{
		what: "no split-search",
		stages: ["hessian", "salient-select", "residual-binarize", "compensate", "pack"],
		zones: 1,
		planes: 2,
	},
	{
		what: "no residual-binarize",
		stages: ["hessian", "salient-select", "split-search", "compensate", "pack"],
		zones: 2,
		planes: 1,
	},
	{
		what: "no salient-select",
		stages: ["hessian", "split-search", "compensate", "pack"],
		zones: 2,
		planes: 0,
	},
	{
		what: "hessian and compensate only",
		stages: ["hessian", "compensate", "pack"],
		zones: 1,
		planes: 0,
	},
	{ what: "split-search only", stages: ["split-search", "pack"], zones: 2, planes: 0 },
	{
		what: "no hessian, metric magnitude",
		stages: [{ "salient-select": { metric: "magnitude" } }, "residual-binarize", "pack"],
		zones: 1,
		planes: 2,
	},
	{
		what: "metric magnitude, all stages",
		stages: [
			"hessian",
			{ "salient-select": { metric: "magnitude", search: "saliency" } },
			"residual-binarize",
			{ "split-search": { search: "saliency" } },
			"compensate",
			"pack",
		],
		zones: 2,
		planes: 2,
	},
	...([[1, 32], [2, 64], [3, 128], [4, 256]] as const).map(([planes, blockSize]) => ({
		what: `${planes} planes, block size ${blockSize}`,
		stages: [
			"hessian",
			"salient-select",
			{ "residual-binarize": { planes } },
			"split-search",
			{ compensate: { "block-size": blockSize } },
			"pack",
		],
		zones: 2 as const,
		planes,
		model: { intermediate: 300 },
	})),
	{
		what: "4 planes, one zone",
		stages: [
			"hessian",
			"salient-select",
			{ "residual-binarize": { planes: 4 } },
			"compensate",
			"pack",
		],
		zones: 1,
		planes: 4,
	},
	{
		what: "OPT, widths that are no multiple of a word",
		stages: [
			"hessian",
			"salient-select",
			{ "residual-binarize": { planes: 3 } },
			"split-search",
			{ compensate: { "block-size": 32, feedback: "block" } },
			"pack",
		],
		zones: 2,
		planes: 3,
		model: { family: "opt", hidden: 72, intermediate: 90 },
	},
	{
		what: "BF16, one head for each key",
		stages: [
			"hessian",
			"salient-select",
			"residual-binarize",
			"split-search",
			{ compensate: { assign: "fit" } },
			"pack",
		],
		zones: 2,
		planes: 2,
		model: { dtype: "BF16", heads: 2, keyValueHeads: 2, hidden: 96 },
	},
];

for (const { what, stages, zones, planes, model } of CHAINS) {
	Deno.test(`chain: ${what}`, async () => {
		using place = new Workplace({ layers: 1, ...model });
		const { record, events } = await place.run({
			stages: ["download", place.calibrate, ...stages, place.evaluate],
		});
		checkPacked(record, { zones, planes } as BillmLayout);
		const { original, packed } = record.evaluation!;
		for (const { perplexity } of [...original, ...packed!]) {
			assert.ok(perplexity > 1000 && perplexity < 10000, String(perplexity));
		}
		assert.equal(sequence(events).at(-1), "end");
		const hasErrors = record.layers![0].linears.every((l) => "relativeOutputError" in l);
		assert.equal(hasErrors, stages.includes("hessian"));
	});
}

Deno.test("each part of the method lowers the error of what the layers give", async () => {
	using place = new Workplace({ layers: 1 });
	const chains: StageItem[][] = [
		[{ "salient-select": { "max-columns": 1 } }],
		["split-search"],
		["salient-select", "residual-binarize", "split-search"],
		["salient-select", "residual-binarize", "split-search", { compensate: { refine: 0 } }],
	];
	const errors: number[] = [];
	for (const [i, chain] of chains.entries()) {
		const { record } = await place.run({
			stages: [
				"download",
				place.calibrateWith({ samples: 16, order: "layer" }),
				"hessian",
				...chain,
				"pack",
			],
			output: place.path(`out-${i}`),
		});
		const linears = record.layers!.flatMap((layer) => layer.linears);
		const sum = linears.reduce((sum, linear) => sum + linear.relativeOutputError!, 0);
		errors.push(sum / linears.length);
	}
	for (let i = 1; i < errors.length; i++) {
		assert.ok(errors[i] < 0.95 * errors[i - 1], `mean errors ${errors.join(", ")}`);
	}
});

Deno.test("chain: download and evaluate only", async () => {
	using place = new Workplace({ layers: 1 });
	const { record, events } = await place.run({ stages: ["download", place.evaluate] });
	assert.deepEqual(sequence(events), [
		"stage download",
		"start",
		"plan",
		"progress evaluate x 2",
		"metric evaluate",
		"end",
	]);
	assert.equal(record.packed, undefined);
	assert.equal(record.evaluation!.packed, undefined);
	assert.deepEqual(record.layers, []);
	assert.deepEqual(contents(place.path("out/model")), {});
	const again = await place.run({ stages: ["download", place.evaluate] });
	assert.deepEqual(sequence(again.events), ["stage download", "already-done"]);
});

Deno.test("chain: only the packed model is measured, on two texts and on token ids", async () => {
	using place = new Workplace({ layers: 1 });
	const ids = place.path("ids.safetensors");
	using model = ModelFiles.open(denoFolder(place.model));
	const text = consecutiveWindows(model.tokenizer.encode(readText(place.evaluation)), 32);
	const windows = Int32Array.from(text.slice(0, 3).flatMap((window) => [...window]));
	const data = new Uint8Array(windows.buffer);
	writeSafetensors(ids, [{ name: "ids", dtype: "I32", shape: [3, 32], data }]);
	const { evaluation: dataset, calibration } = place;
	const { record, events } = await place.run({
		stages: [
			"download",
			place.calibrate,
			"split-search",
			"pack",
			{
				evaluate: {
					original: false,
					"batch-tokens": 70,
					perplexity: [
						{ dataset, "sequence-length": 32, windows: 3 },
						{ dataset: ids, "sequence-length": 32 },
						{ dataset: calibration, "sequence-length": 128 },
					],
				},
			},
		],
	});
	const { original, packed } = record.evaluation!;
	assert.deepEqual(original, []);
	const [ofText, ofIds, ofOther] = packed!;
	assert.deepEqual(ofIds, { ...ofText, dataset: ids });
	assert.deepEqual([ofText.windows, ofOther.sequenceLength], [3, 128]);
	const tokens = model.tokenizer.encode(readText(calibration)).length;
	assert.equal(ofOther.windows, Math.floor(tokens / 128), "all windows, the rest is dropped");
	assert.equal(events.filter(({ type }) => type === "metric").length, 3);
});

Deno.test("chain: nothing is packed", async () => {
	using place = new Workplace({ layers: 2 });
	const { record } = await place.run({
		stages: ["download", place.calibrate, "hessian", "salient-select", place.evaluate],
	});
	assert.deepEqual(contents(place.path("out/model")), {});
	assert.equal(record.evaluation!.packed, undefined);
	assert.deepEqual(record.layers!.map(({ file, bytes }) => [file, bytes]), [["", 0], ["", 0]]);
});

Deno.test("chain: calibration data that no stage needs do not pass through the layers", async () => {
	using place = new Workplace({ layers: 2 });
	const run = (...stages: StageItem[]) => place.run({ stages }, { overwrite: true });
	const { record: plain } = await run("download", "rtn", "pack");
	const { record: calibrated } = await run("download", place.calibrate, "rtn", "pack");
	assert.deepEqual(calibrated.packed!.files, plain.packed!.files);
	for (const { secondsByStage } of calibrated.layers!) {
		assert.ok(!Object.hasOwn(secondsByStage, "calibrate"));
		assert.ok(Object.hasOwn(secondsByStage, "rtn"));
	}
	const { record: seen } = await run("download", place.calibrate, "rotate", "rtn", "pack");
	for (const { secondsByStage } of seen.layers!) assert.ok(secondsByStage["calibrate"] > 0);
});

Deno.test("chain: a packed model is evaluated without being packed again", async () => {
	using place = new Workplace({ layers: 1 });
	const { record } = await place.run();
	const { record: measured } = await place.run({
		model: place.path("out/model"),
		output: place.path("measured"),
		stages: ["download", place.evaluate],
	});
	const [{ lnRatio: _, divergence: __, ...packed }] = record.evaluation!.packed!;
	assert.deepEqual(measured.evaluation!.original, [packed]);
	const shard = basename(place.path("out/model/model-00002-of-00002.safetensors"));
	assert.ok(Object.keys(measured.inputs).some((path) => basename(path) === shard));
});
