import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { continueTokens, ResidentModel } from "~/models/generation/generation.ts";
import { KeyValueCache } from "~/models/generation/kv_cache.ts";
import { PlainWeights } from "~/models/plain_weights.ts";
import { denoFile, denoFolder } from "~/storage/deno_folder.ts";
import { readJson } from "~/storage/json.ts";
import { assertClose } from "../../assert_close.ts";
import { contents, type MicroTensor, Workplace } from "../../micro_model.ts";
import { openCheckpoint, openModel } from "../../open.ts";
import { forwardReference } from "../../reference/decoder.ts";
import { normals } from "../../reference/random.ts";
import { startTask } from "../../start_task.ts";
import { LoadedModel } from "../loaded_model.ts";
import { randomWindows } from "../random_model.ts";
import { TOY_WINDOW } from "./toy_architecture.ts";

const gpu = await openGpu({ adapter: "software" });
const preload = join(import.meta.dirname!, "toy_architecture.ts");

const LAYERS = 3;
const ROWS = { q: 64, k: 32, v: 32, gate: 100, up: 100 };

/** Adds biases and makes one tensor each of q, k and v, and of gate and up. */
function fuse(tensors: Map<string, MicroTensor>): void {
	const join = (parts: string[], fused: string) => {
		const all = parts.map((part) => tensors.get(part)!);
		for (const part of parts) tensors.delete(part);
		const values = Float32Array.from(all.flatMap(({ values }) => [...values]));
		const [, ...rest] = all[0].shape;
		tensors.set(fused, { shape: [values.length / (rest[0] ?? 1), ...rest], values });
	};
	for (let i = 0; i < LAYERS; i++) {
		const layer = `model.layers.${i}`;
		for (const [n, part] of (["q", "k", "v"] as const).entries()) {
			const values = normals(ROWS[part], 50 + 3 * i + n, 0.2);
			tensors.set(`${layer}.self_attn.${part}_proj.bias`, { shape: [ROWS[part]], values });
		}
		for (const what of ["weight", "bias"]) {
			const parts = ["q", "k", "v"].map((part) => `${layer}.self_attn.${part}_proj.${what}`);
			join(parts, `${layer}.self_attn.qkv_proj.${what}`);
		}
		const parts = ["gate", "up"].map((part) => `${layer}.mlp.${part}_proj.weight`);
		join(parts, `${layer}.mlp.gate_up_proj.weight`);
	}
}

function workplace(): Workplace {
	const config = { model_type: "toy", architectures: ["ToyForCausalLM"] };
	return new Workplace({ layers: LAYERS, config, alter: fuse });
}

/** Logits of a model folder in f64, row after row; its fused tensors are taken apart. */
function logitsReference(folder: string, ids: Int32Array): number[] {
	using checkpoint = openCheckpoint(folder);
	const tensors = new Map<string, { shape: number[]; data: Float32Array }>();
	for (const [name, { shape }] of checkpoint.tensors) {
		const data = checkpoint.readFloat32(name);
		const fused = /^(.*\.)(qkv|gate_up)(_proj\.\w+)$/.exec(name);
		if (!fused) {
			tensors.set(name, { shape, data });
			continue;
		}
		const [, before, parts, after] = fused;
		const cols = shape[1] ?? 1;
		let start = 0;
		for (const part of parts === "qkv" ? ["q", "k", "v"] as const : ["gate", "up"] as const) {
			const end = start + ROWS[part] * cols;
			const partShape = [ROWS[part], ...shape.slice(1)];
			tensors.set(before + part + after, { shape: partShape, data: data.subarray(start, end) });
			start = end;
		}
	}
	const odd = Array.from({ length: LAYERS }, (_, i) => i % 2 === 1);
	const config = {
		...readJson(denoFile(join(folder, "config.json"))),
		model_type: "llama",
		use_sliding_window: true,
		sliding_window: TOY_WINDOW,
		layer_types: odd.map((isOdd) => isOdd ? "sliding_attention" : "full_attention"),
		no_rope_layers: odd.map((isOdd) => isOdd ? 0 : 1),
	};
	return forwardReference(config, tensors, ids).logits.flatMap((row) => [...row]);
}

Deno.test("layers that differ, and fused tensors, compute what the reference does", async () => {
	using place = workplace();
	const [text] = randomWindows(1, 20, 4096, 1);
	const expected = logitsReference(place.model, text);
	using loaded = await LoadedModel.open(gpu, place.model);
	assertClose(await loaded.logits([text]), expected, { abs: 5e-5, rel: 1e-5, what: "a window" });
	using model = await ResidentModel.load(gpu, loaded.model);
	for (const prompt of [1, 9]) {
		using cache = new KeyValueCache(gpu, model.files.architecture, text.length, "f32");
		for (let done = 0; done < text.length;) {
			const next = done === 0 ? prompt : 1;
			using logits = (await model.logits(text.subarray(done, done + next), cache))!;
			done += next;
			const row = expected.slice((done - 1) * 4096, done * 4096);
			assertClose(await gpu.read(logits), row, { abs: 5e-5, rel: 1e-5, what: `token ${done - 1}` });
		}
	}
});

Deno.test("a fused tensor that does not fit is refused by its name", async () => {
	const name = "model.layers.1.self_attn.qkv_proj.weight";
	const refused = async (change: (tensor: MicroTensor) => void, problem: string) => {
		const alter = (tensors: Map<string, MicroTensor>) => {
			fuse(tensors);
			change(tensors.get(name)!);
		};
		using place = new Workplace({ layers: LAYERS, config: { model_type: "toy" }, alter });
		await assert.rejects(
			LoadedModel.open(gpu, place.model),
			new UserError(`"${place.model}": "${name}" ${problem}`),
		);
	};
	await refused((tensor) => {
		tensor.shape = [120, 64];
		tensor.values = tensor.values.slice(0, 120 * 64);
	}, "has the shape [120, 64], expected [128, 64]; the weights do not fit config.json");
	await refused(
		({ values }) => values.fill(NaN, 100 * 64, 100 * 64 + 2),
		"holds 2 values that are NaN or infinite; the model is damaged, get it again",
	);
});

Deno.test("a toy is quantized, packed, evaluated, resumed, inspected, dequantized and compared", async () => {
	using place = workplace();
	const controller = new AbortController();
	const emit = ({ type }: { type: string }) => {
		if (type === "layer") controller.abort();
	};
	const gpuOptions = { gpu: { adapter: "software" } };
	const { record } = await place.run(gpuOptions);
	const before = contents(place.path("out/model"));
	rmSync(place.path("out"), { recursive: true });
	await assert.rejects(place.run(gpuOptions, { emit, signal: controller.signal }));
	await place.run(gpuOptions);
	assert.deepEqual(contents(place.path("out/model")), before, "resumed after a layer");

	const { original, packed } = record.evaluation!;
	assert.ok(packed![0].loss > original![0].loss && packed![0].loss < original![0].loss + 2);
	const parts = record.layers!.flatMap(({ linears }) => linears.map(({ name }) => name));
	assert.deepEqual(parts.slice(0, 7).map((name) => name.replace("model.layers.0.", "")), [
		"self_attn.q_proj",
		"self_attn.k_proj",
		"self_attn.v_proj",
		"self_attn.o_proj",
		"mlp.gate_proj",
		"mlp.up_proj",
		"mlp.down_proj",
	]);

	const folder = place.path("out/model");
	const config = readJson(denoFile(join(folder, "config.json")));
	assert.deepEqual((config.quantization_config as Record<string, unknown>).fused, {
		"self_attn.qkv_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
		"mlp.gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"],
	});
	{
		using checkpoint = openCheckpoint(folder);
		const names = [...checkpoint.tensors.keys()].filter((name) => name.includes("layers.1."));
		assert.deepEqual(names.filter((name) => /qkv|gate_up/.test(name)), [
			"model.layers.1.self_attn.qkv_proj.bias",
		]);
		assert.ok(names.includes("model.layers.1.self_attn.k_proj.signs"));
		using original = openCheckpoint(place.model);
		using plain = PlainWeights.open(denoFolder(folder));
		assert.deepEqual(new Set(plain.tensors.keys()), new Set(original.tensors.keys()));
		const fused = "model.layers.2.self_attn.qkv_proj.weight";
		assert.deepEqual(plain.get(fused).shape, [128, 64]);
		const whole = [...plain.chunks(fused, 1000)].flatMap((chunk) => [...chunk]);
		assert.deepEqual([...plain.rowsOf(fused)(60, 40)], whole.slice(60 * 64, 100 * 64));
		assert.deepEqual(plain.placeOf("model.layers.2.self_attn.v_proj"), {
			name: fused,
			part: { first: 96, rows: 32 },
		});
		const { histograms } = JSON.parse(readFileSync(place.path("out/histograms.json"), "utf8"));
		assert.ok(histograms.some(({ name }: { name: string }) => name.endsWith(".up_proj")));
	}

	const out = place.path("plain");
	const written = await startTask("dequantize", [folder, out]);
	assert.deepEqual([written.code, written.stderr], [0, ""]);
	{
		using plain = openCheckpoint(out);
		using original = openCheckpoint(place.model);
		for (const [name, { shape }] of original.tensors) {
			assert.deepEqual(plain.get(name).shape, shape, name);
		}
		assert.equal(plain.tensors.size, original.tensors.size);
		const [text] = randomWindows(1, 20, 4096, 2);
		using dequantized = await LoadedModel.open(gpu, out);
		using quantized = await LoadedModel.open(gpu, folder);
		// Weights in f16 are off by up to 2^-11.
		const options = { abs: 0.01, what: "logits" };
		assertClose(await dequantized.logits([text]), await quantized.logits([text]), options);
	}

	const compared = await startTask("compare", [place.model, folder]);
	assert.equal(compared.code, 1);
	assert.match(compared.stdout, /model\.layers\.0\.self_attn\.qkv_proj\.weight/);
	assert.doesNotMatch(compared.stdout, /only in|_proj\.bias/);

	const inspected = await startTask("inspect", [folder], { preload });
	assert.deepEqual([inspected.code, inspected.stderr], [0, ""]);
	assert.match(inspected.stdout, /0\.self_attn\.v_proj +32x64/);

	const task = await startTask(
		"generate",
		[folder, "--prompt", "The city", "--max-tokens", "5", "--seed", "1"],
		{ preload, env: { BILLM_ADAPTER: "software" } },
	);
	assert.equal(task.code, 0, task.stderr);
	using files = openModel(folder);
	using model = await ResidentModel.load(gpu, files);
	const ids: number[] = [];
	for await (const { id } of continueTokens(model, [5, 9, 77], { maxTokens: 12 })) ids.push(id);
	assert.equal(ids.length, 12);
	assert.ok(existsSync(place.path("out/report.html")));
});
