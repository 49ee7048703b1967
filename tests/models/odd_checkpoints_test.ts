// Checkpoints in which config.json, index and tensors do not agree, or that are not whole.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ModelFiles } from "~/models/model_files.ts";
import { PlainWeights } from "~/models/plain_weights.ts";
import { requireTensors } from "~/models/required_tensors.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { parsePythonJson } from "~/storage/json.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { type MicroTensor, type StageItem, Workplace, writeMicroModel } from "../micro_model.ts";
import { openCheckpoint, openModel } from "../open.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

type Tensors = Map<string, MicroTensor>;

const EMBEDDING = {
	llama: "model.embed_tokens.weight",
	opt: "model.decoder.embed_tokens.weight",
} as const;

/** Other values of the same shape. */
function others({ shape, values }: MicroTensor): MicroTensor {
	return { shape, values: values.map((value, i) => i % 3 === 0 ? -value : value) };
}

/** Puts the tensors of a model into two shards with an index. */
function shard(folder: string, listed: Record<string, string> = {}): void {
	const single = join(folder, "model.safetensors");
	const weightMap: Record<string, string> = { ...listed };
	{
		using checkpoint = openCheckpoint(folder);
		const names = [...checkpoint.tensors.keys()];
		for (const i of [0, 1]) {
			const file = `model-0000${i + 1}-of-00002.safetensors`;
			const part = names.filter((_, j) => j % 2 === i);
			for (const name of part) weightMap[name] = file;
			writeSafetensors(
				join(folder, file),
				part.map((name) => {
					const { dtype, shape } = checkpoint.get(name);
					return { name, dtype, shape, data: checkpoint.readBytes(name) };
				}),
			);
		}
	}
	rmSync(single);
	const index = { metadata: {}, weight_map: weightMap };
	writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify(index));
}

/** The perplexities of a model, and of what quantizing makes of it. */
async function perplexities(place: Workplace, model: string, name: string): Promise<number[]> {
	const stages: StageItem[] = ["download", { rtn: { bits: 4 } }, "pack", place.evaluate];
	const { record } = await place.run({ model, stages, output: place.path(`out-${name}`) });
	const { original, packed } = record.evaluation!;
	return [...original, ...packed!].map(({ perplexity }) => perplexity);
}

for (const family of ["llama", "opt"] as const) {
	Deno.test(`either of two tied tensors may be stored, or both, ${family}`, async () => {
		using place = new Workplace({ family, layers: 1 });
		const embedding = EMBEDDING[family];
		const stored: [string, (tensors: Tensors) => void][] = [
			["the embedding", () => {}],
			["the head", (tensors) => {
				tensors.set("lm_head.weight", tensors.get(embedding)!);
				tensors.delete(embedding);
			}],
			["both", (tensors) => void tensors.set("lm_head.weight", tensors.get(embedding)!)],
		];
		let expected: number[] | undefined;
		for (const [what, alter] of stored) {
			for (const isSharded of [false, true]) {
				const name = `${what}${isSharded}`;
				const folder = writeMicroModel(place.path(name), { family, layers: 1, alter });
				if (isSharded) shard(folder, { "model.layers.0.rotary_emb.inv_freq": FIRST_SHARD });
				{
					using model = openModel(folder);
					requireTensors(model);
					assert.deepEqual(model.warnings, [], what);
				}
				const found = await perplexities(place, folder, name);
				expected ??= found;
				assert.deepEqual(found, expected, name);
			}
		}
	});

	Deno.test(`another head than the tied one is used and told of, ${family}`, async () => {
		using place = new Workplace({ family, layers: 1 });
		const alter = (tensors: Tensors) =>
			void tensors.set("lm_head.weight", others(tensors.get(EMBEDDING[family])!));
		const options = { family, layers: 1, alter };
		const tied = writeMicroModel(place.path("tied"), options);
		const config = { tie_word_embeddings: false };
		const untied = writeMicroModel(place.path("untied"), { ...options, config });
		const expected = await perplexities(place, untied, "untied");
		assert.deepEqual(await perplexities(place, tied, "tied"), expected);
		using model = openModel(tied);
		assert.deepEqual(model.warnings, [
			`"${tied}": config.json ties the head to the embedding, but the files hold another ` +
			'"lm_head.weight"; it is used, as in version 5 of transformers',
		]);
		using packed = openModel(place.path("out-tied/model"));
		assert.equal(packed.config.tie_word_embeddings, false);
		assert.deepEqual(packed.warnings, []);
	});
}

const FIRST_SHARD = "model-00001-of-00002.safetensors";

Deno.test("a single file wins over an index, safetensors over PyTorch", () => {
	using place = new TemporaryFolder();
	const folder = writeMicroModel(join(place.path, "model"), { layers: 1 });
	const index = "model.safetensors.index.json";
	for (const shards of [{ a: "gone.safetensors" }, { "model.norm.weight": "model.safetensors" }]) {
		writeFileSync(join(folder, index), JSON.stringify({ weight_map: shards }));
		writeFileSync(join(folder, "pytorch_model.bin"), "not read");
		writeFileSync(join(folder, "pytorch_model.bin.index.json"), "not read");
		using checkpoint = openCheckpoint(folder);
		assert.deepEqual(checkpoint.files, ["model.safetensors"]);
	}
});

Deno.test("tensors that the index lists but no shard has are missed only where they are needed", () => {
	using place = new TemporaryFolder();
	const folder = writeMicroModel(join(place.path, "model"), { layers: 1 });
	shard(folder, {
		"lm_head.weight": FIRST_SHARD,
		"model.layers.0.self_attn.rotary_emb.inv_freq": FIRST_SHARD,
	});
	const path = join(folder, "model.safetensors.index.json");
	{
		using model = openModel(folder);
		requireTensors(model);
		assert.deepEqual(model.warnings, []);
	}
	const index = JSON.parse(readFileSync(path, "utf8"));
	for (const name of Object.keys(index.weight_map)) {
		if (/lm_head|inv_freq/.test(name)) continue;
		const other = index.weight_map[name] === FIRST_SHARD
			? "model-00002-of-00002.safetensors"
			: FIRST_SHARD;
		const weight_map = { ...index.weight_map, [name]: other };
		writeFileSync(path, JSON.stringify({ weight_map }));
		using model = openModel(folder);
		assert.throws(() => requireTensors(model), {
			name: "UserError",
			message:
				`Cannot open "${folder}": "${other}" has no tensor "${name}", which the index puts ` +
				"there; download both again",
		});
	}
});

Deno.test("what the files hold beyond config.json is told of once", () => {
	using place = new TemporaryFolder();
	const open = (name: string, options: Parameters<typeof writeMicroModel>[1]) => {
		using model = openModel(writeMicroModel(join(place.path, name), options));
		return model.warnings.map((warning) => warning.replace(place.path, "PLACE"));
	};
	for (const family of ["llama", "opt"] as const) {
		for (const layers of [1, 2]) {
			const config = { num_hidden_layers: layers };
			assert.deepEqual(open(`${family}${layers}`, { family, layers: 3, config }), [
				`"PLACE/${family}${layers}": its files hold 3 decoder layers, but config.json has ` +
				`num_hidden_layers ${layers}: the others are left out`,
			]);
		}
	}
	const alter = (names: string[]) => (tensors: Tensors) => {
		for (const name of names) tensors.set(name, { shape: [1], values: new Float32Array(1) });
	};
	const computed = ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"];
	assert.deepEqual(open("computed", { layers: 1, alter: alter(computed) }), []);
	const four = ["a", "b", "c", "d"].map((name) => `score.${name}`);
	assert.deepEqual(open("foreign", { layers: 1, alter: alter(four) }), [
		'"PLACE/foreign": nothing reads its "score.a", "score.b", "score.c" and 1 more',
	]);
});

const place = new Workplace({ layers: 2 });
globalThis.addEventListener("unload", () => place[Symbol.dispose]());
await place.run({ stages: ["download", { rtn: { bits: 4 } }, "pack"] });
const packed = place.path("out/model");

Deno.test("a packed model that lacks anything is refused by whoever opens it", async () => {
	const index = JSON.parse(readFileSync(join(packed, "model.safetensors.index.json"), "utf8"));
	const folder = place.path("lacking");
	const lack = (name: string) => {
		rmSync(folder, { recursive: true, force: true });
		cpSync(packed, folder, { recursive: true });
		const { [name]: _, ...weight_map } = index.weight_map;
		writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
	};
	for (const name of Object.keys(index.weight_map)) {
		lack(name);
		assert.throws(
			() => {
				using model = openModel(folder);
				requireTensors(model);
				using weights = PlainWeights.open(denoFolder(folder)); // finds the parts of linear layers
				for (const tensor of weights.tensors.keys()) [...weights.chunks(tensor, 1 << 16)];
			},
			{ name: "UserError" },
			name,
		);
	}
	for (const name of ["model.norm.weight", "model.layers.1.input_layernorm.weight"]) {
		lack(name);
		const out = place.path("plain");
		const commands = [
			["dequantize", folder, out],
			["inspect", folder],
			["compare", folder, folder],
			["generate", folder, "--prompt", "a"],
		];
		for (const [task, ...args] of commands) {
			const { code, stderr } = await startTask(task, args);
			assert.equal(code, 1, `${task} without ${name}: ${stderr}`);
			assert.match(stderr, new RegExp(`^Error: Cannot find tensor "${name}" in "`), task);
		}
		assert.ok(!existsSync(out));
	}
});

Deno.test("a file of a packed model that is not one by its header is refused", () => {
	const changes: [string, string, RegExp][] = [
		['"format":"billm"', '"format":"billn"', /it is no file of a packed model, as config\.json/],
		['"format":"billm"', '"format":"BILLM"', /it is no file of a packed model, as config\.json/],
		['"format":"billm"', '"formas":"billm"', /it is no file of a packed model, as config\.json/],
		['"__metadata__":', '"__metadate__":', /./],
		['"format_version":"4"', '"format_version":"1"', /tensor ".+" has no checksum; the file/],
		['"format_version":"4"', '"format_version":"5"', /has version 5 .* config\.json has 4; the/],
		['"format_version":"4"', '"format_version":"9"', /version 9, this program reads/],
		['"format_version":"4"', '"format_versiom":"4"', /no version of the packed format/],
		['"checksums":"', '"checksumz":"', /its metadata lacks checksums/],
	];
	const file = "model-00002-of-00003.safetensors";
	const original = readFileSync(join(packed, file));
	const version = /"format_version":"(\d)"/.exec(original.toString("latin1"))![1];
	for (const [from, to, message] of changes) {
		const folder = place.path("changed");
		rmSync(folder, { recursive: true, force: true });
		mkdirSync(folder);
		cpSync(packed, folder, { recursive: true });
		const own = from.replace('"4"', `"${version}"`);
		const text = original.toString("latin1");
		assert.ok(text.includes(own), own);
		const bytes = Buffer.from(text.replace(own, to), "latin1");
		bytes[bytes.length - 7] ^= 4; // in the data
		writeFileSync(join(folder, file), bytes);
		for (const open of [ModelFiles.open, PlainWeights.open]) {
			const opened = () => {
				using model = open(denoFolder(folder));
				const { checkpoint } = model;
				for (const name of checkpoint.tensors.keys()) checkpoint.readBytes(name);
			};
			const wanted = new RegExp(message.source.replace("has 4", `has ${version}`));
			if (version === "5" && to.includes('"5"')) continue;
			assert.throws(opened, { name: "UserError", message: wanted }, to);
		}
	}
});

Deno.test("JSON as Python writes it is read; what is no number is a text", () => {
	const cases: [string, unknown][] = [
		['{"a": NaN, "b": [Infinity, -Infinity]}', { a: "NaN", b: ["Infinity", "-Infinity"] }],
		['\ufeff{"a": 1}', { a: 1 }],
		['{"a": "NaN \\" Infinity", "NaN": NaN}', { a: 'NaN " Infinity', NaN: "NaN" }],
		['{"a": "\\\\", "b": NaN}', { a: "\\", b: "NaN" }],
	];
	for (const [text, value] of cases) assert.deepEqual(parsePythonJson(text), value);
	for (const text of ["NaN NaN", "{NaN}", "[nan]", "[NaNs]", '{"a": NaN', "\ufeff\ufeff1"]) {
		assert.throws(() => parsePythonJson(text), SyntaxError, text);
	}
	using folder = new TemporaryFolder();
	const model = writeMicroModel(folder.file("m"), { layers: 1 });
	const path = join(model, "config.json");
	const config = readFileSync(path, "utf8");
	writeFileSync(path, config.replace("{", '\ufeff{ "extra": NaN,'));
	openModel(model)[Symbol.dispose]();
	writeFileSync(path, config.replace(/"rms_norm_eps": [^,]*/, '"rms_norm_eps": NaN'));
	assert.throws(() => openModel(model), {
		name: "UserError",
		message: /rms_norm_eps must be .*, found "NaN"/,
	});
});

const CASES = "../shared/cases/checkpoints";
const isThere = existsSync(CASES);

Deno.test({
	name: `odd checkpoints give the ids of transformers${isThere ? "" : " (needs ../shared)"}`,
	ignore: !isThere,
	async fn() {
		const expected: Record<string, { prompt: string; ids: number[] }> = JSON.parse(
			readFileSync(join(CASES, "expected.json"), "utf8"),
		);
		for (const [name, { prompt, ids }] of Object.entries(expected)) {
			const { stdout, stderr } = await startTask("generate", [
				...[join(CASES, name), "--prompt", prompt],
				...["--max-tokens", "10", "--json"],
			]);
			assert.deepEqual(JSON.parse(stdout).ids, ids, `${name}: ${stderr}`);
			assert.equal(stderr !== "", /fewer|other/.test(name), `${name}: ${stderr}`);
		}
	},
});
