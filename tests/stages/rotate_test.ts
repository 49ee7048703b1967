import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadLinear } from "~/codecs/mod.ts";
import { Decoder } from "~/models/decoder.ts";
import { KeyValueCache } from "~/models/generation/kv_cache.ts";
import { ModelFiles } from "~/models/model_files.ts";
import { PlainWeights } from "~/models/plain_weights.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { assertClose } from "../assert_close.ts";
import { countWeights } from "~/report/histograms.ts";
import { gpu } from "../gpu/gpu.ts";
import { contents, type MicroTensor, type StageItem, Workplace } from "../micro_model.ts";
import { normals } from "../reference/random.ts";
import { startTask } from "../start_task.ts";

const SOFTWARE = { gpu: { adapter: "software" } };
const SMALL = { layers: 2, intermediate: 96 };

function configOf(place: Workplace) {
	const config = readFileSync(join(place.path("out"), "model/config.json"), "utf8");
	return JSON.parse(config).quantization_config;
}

Deno.test("a rotated model is stored by its seed; resumed, it has the same bytes", async () => {
	using place = new Workplace(SMALL);
	const stages = place.method.toSpliced(2, 0, { rotate: { seed: 7 } });
	const { record } = await place.run({ ...SOFTWARE, stages });
	const { format_version: version, rotation } = configOf(place);
	assert.equal(version, 4);
	assert.deepEqual(rotation, { generator: "hash32", seed: 7, block: 64 });
	const linears = record.layers!.flatMap(({ linears }) => linears);
	assert.equal(linears.length, 14);
	for (const { name, cols, rotation, relativeOutputError } of linears) {
		assert.deepEqual(rotation, { seed: 7, block: cols === 96 ? 32 : 64 }, name);
		assert.ok(relativeOutputError! < 0.5, `${name}: ${relativeOutputError}`);
	}
	const wanted = contents(join(place.path("out"), "model"));
	assert.deepEqual(await place.resumed({ ...SOFTWARE, stages }), wanted);
});

Deno.test("a config.json that does not fit the rotations of the files is refused", async () => {
	using place = new Workplace({ layers: 1 });
	const stages: StageItem[] = ["download", "rotate", { rtn: { bits: 8 } }, "pack"];
	const model = join(place.path("out"), "model");
	const file = join(model, "config.json");
	const refused = (name: string, found: string, wanted: string) => {
		const path = join(model, "model-00002-of-00002.safetensors");
		const message =
			`"${path}": "model.layers.0.${name}" is ${found}, but ${wanted} by config.json; ` +
			"the file does not fit its config.json";
		using weights = PlainWeights.open(denoFolder(model));
		assert.throws(() => weights.rowsOf(`model.layers.0.${name}.weight`), { message });
	};
	await place.run({ ...SOFTWARE, stages });
	const rotated = "rotated with seed 0 in runs of 64";
	const written = readFileSync(file, "utf8");
	for (
		const [change, name, found, wanted] of [
			[{ seed: 1 }, "mlp.gate_proj", rotated, "rotated with seed 1 in runs of 64"],
			[{ block: 32 }, "mlp.gate_proj", rotated, "rotated with seed 0 in runs of 32"],
			[{ modules: ["mlp.gate_proj"] }, "self_attn.q_proj", rotated, "not rotated"],
			[undefined, "mlp.up_proj", rotated, "not rotated"],
		] as const
	) {
		const config = JSON.parse(written);
		const { quantization_config: quantization } = config;
		quantization.rotation = change && { ...quantization.rotation, ...change };
		writeFileSync(file, JSON.stringify(config));
		refused(name, found, wanted);
	}
	await place.run({ ...SOFTWARE, stages: stages.toSpliced(1, 1) }, { overwrite: true });
	const config = JSON.parse(readFileSync(file, "utf8"));
	const rotation = { generator: "hash32", seed: 0, block: 64, modules: ["mlp.gate_proj"] };
	Object.assign(config.quantization_config, { format_version: 4, rotation });
	writeFileSync(file, JSON.stringify(config));
	refused("mlp.gate_proj", "not rotated", rotated);
});

Deno.test("rotate comes before what sees its input or changes its weights", async () => {
	using place = new Workplace(SMALL);
	const { calibrate } = place;
	for (
		const [stages, text] of [
			[["download", calibrate, "hessian", "rotate", "gptq", "pack"], '"hessian"'],
			[["download", "rtn", "rotate", "pack"], '"block-error"'],
		] as const
	) {
		await assert.rejects(place.run({ stages: [...stages] }), (error: Error) => {
			assert.match(
				error.message,
				new RegExp(`Stage "rotate" makes no use of ${text}.* put rotate before it`),
			);
			return true;
		});
	}
});

Deno.test("weights in 8 bits are those of the model again; host, GPU and products agree", async () => {
	using place = new Workplace({ ...SMALL, intermediate: 100 });
	const rtn: StageItem[] = ["download", "rotate", { rtn: { bits: 8 } }, "pack", place.evaluate];
	const { record, events } = await place.run({ ...SOFTWARE, seed: 3, stages: rtn });
	const warnings = events.filter((event) => event.type === "warning");
	assert.deepEqual(warnings.map(({ message }) => message), [
		"Not rotated: mlp.down_proj (100 columns, not a multiple of 16)",
	]);
	const { seed, modules } = configOf(place).rotation;
	assert.equal(seed, 3);
	assert.equal(modules.length, 6);
	assert.ok(!modules.includes("mlp.down_proj"));
	const { original: [original], packed } = record.evaluation!;
	assert.ok(Math.abs(packed![0].loss - original.loss) < 1e-3);

	const folder = denoFolder(join(place.path("out"), "model"));
	const inspected = (await startTask("inspect", [folder.path])).stdout;
	assert.match(
		inspected,
		/the inputs of self_attn\.q_proj, .* rotated in runs of up to 64 with seed 3/,
	);
	const [histogram] = await countWeights(place.model, folder.path, record.layers!, [1]);
	assert.equal(histogram.rotated, true);
	assert.ok(histogram.errorRms < 0.01 * histogram.rms, `${histogram.errorRms}`);
	using stored = PlainWeights.open(folder);
	using plain = PlainWeights.open(denoFolder(place.model));
	using model = ModelFiles.open(folder);
	using decoder = new Decoder(gpu, model);
	using layer = await decoder.loadLayer(1);
	using packedLayer = await decoder.loadLayer(1, { packed: true });
	for (const [module, { weight }] of layer.linears) {
		const name = `model.layers.1.${module}.weight`;
		const { shape: [rows, cols] } = stored.get(name);
		const values = stored.rowsOf(name)(0, rows);
		assert.deepEqual(await gpu.read(weight.matrix), values, name);
		const wanted = plain.rowsOf(name)(0, rows);
		const off = values.reduce((sum, value, i) => sum + (value - wanted[i]) ** 2, 0);
		const all = wanted.reduce((sum, value) => sum + value ** 2, 0);
		assert.ok(Math.sqrt(off / all) < 0.01, `${name}: ${Math.sqrt(off / all)}`);
		const isRotated = loadLinear(model.checkpoint, model.quantization!, name.slice(0, -7))!
			.transform !== undefined;
		assert.equal(isRotated, cols === 64);
		using x = gpu.upload(values.slice(0, 3 * cols), [3, cols]);
		using dense = await weight.multiply(x);
		using product = await packedLayer.linear(module).weight.multiply(x);
		const [a, b] = [await gpu.read(dense), await gpu.read(product)];
		a.forEach((value, i) => assert.ok(Math.abs(value - b[i]) < 1e-4, `${name} at ${i}`));
	}
});

/** The same function, with values of the size 2^20. */
function scaleValues(tensors: Map<string, MicroTensor>): void {
	for (const [name, { values }] of tensors) {
		const exponent = name.includes("v_proj") ? 20 : name.includes("o_proj") ? -20 : 0;
		values.forEach((value, i) => values[i] = value * 2 ** exponent);
	}
}

for (
	const { what, alone, ...options } of [
		{ what: "llama", alone: 0, family: "llama" },
		{ what: "opt", alone: 0, family: "opt" },
		// q, k and v have different exponents and are multiplied one by one.
		{ what: "values scaled", alone: 1, family: "llama", dtype: "F32", alter: scaleValues },
	] as const
) {
	Deno.test(`one token through rotated groups agrees with many, ${what}`, async () => {
		using place = new Workplace({ layers: 1, hidden: 128, intermediate: 256, ...options });
		const stages = ["download", place.calibrate, "rotate", "hessian", "salient-select", "pack"];
		await place.run({ ...SOFTWARE, stages });
		using model = ModelFiles.open(denoFolder(join(place.path("out"), "model")));
		using decoder = new Decoder(gpu, model);
		using packed = await decoder.loadLayer(0, { packed: true });
		using dense = await decoder.loadLayer(0);
		assert.equal(packed.groups.size, packed.plan.groups.length - alone);
		const tokens = 3;
		const { hiddenSize } = model.architecture;
		const values = normals(tokens * hiddenSize, 9);
		const many = new Map([["hidden", gpu.upload(values, [tokens, hiddenSize])]]);
		await decoder.run(dense, many, tokens);
		const wanted = await gpu.read(many.get("hidden")!);
		gpu.free(...many.values());
		const whole = new Map([["hidden", gpu.upload(values, [tokens, hiddenSize])]]);
		await decoder.run(packed, whole, tokens);
		assertClose(await gpu.read(whole.get("hidden")!), wanted, { abs: 1e-4, what: "many tokens" });
		gpu.free(...whole.values());
		using cache = new KeyValueCache(gpu, model.architecture, tokens, "f32");
		for (let token = 0; token < tokens; token++) {
			const part = values.slice(token * hiddenSize, (token + 1) * hiddenSize);
			const registers = new Map([["hidden", gpu.upload(part, [1, hiddenSize])]]);
			await decoder.run(packed, registers, cache);
			const found = await gpu.read(registers.get("hidden")!);
			const expected = wanted.subarray(token * hiddenSize, (token + 1) * hiddenSize);
			assertClose(found, expected, { abs: 1e-4, what: `token ${token}` });
			gpu.free(...registers.values());
			cache.length++;
		}
	});
}
