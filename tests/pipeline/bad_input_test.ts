import assert from "node:assert/strict";
import {
	chmodSync,
	copyFileSync,
	existsSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	rmSync,
	statSync,
	writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fixtureFolder } from "../fixture.ts";
import { ARCHITECTURES } from "../../models/architectures/mod.ts";
import type { RunEvent } from "../../pipeline/run/events.ts";
import { denoFile } from "../../storage/deno_folder.ts";
import { readHeader } from "../../storage/safetensors.ts";
import { writeSafetensors } from "../../storage/write_safetensors.ts";
import { fillDiskFor } from "../full_disk.ts";
import { contents, type MicroModelOptions, type StageItem, Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";

/** The supported model types, as messages list them. */
const MODEL_TYPES = Object.keys(ARCHITECTURES).sort().join(", ");

const CASES = fixtureFolder("safetensors-cases");

/** Checks that every file of a run's folder is complete: half a file would not be readable. */
function checkWhole(folder: string): void {
	if (!existsSync(folder) || !statSync(folder).isDirectory()) return;
	for (const name of readdirSync(folder, { recursive: true }).map(String)) {
		const path = join(folder, name);
		assert.doesNotMatch(name, /\.tmp$/);
		if (name.endsWith(".json")) JSON.parse(readFileSync(path, "utf8"));
		if (name.endsWith(".safetensors")) readHeader(denoFile(path));
	}
}

interface BadInput {
	model?: MicroModelOptions;
	/** Spoils what is there. */
	prepare?: (place: Workplace) => void;
	fields?: (place: Workplace) => Record<string, unknown> & { stages?: StageItem[] };
	/** The whole message; PLACE is the temporary folder. */
	message: string;
	name?: string;
	/** What may have been made in the output folder; nothing if absent. */
	leaves?: "no layers" | "layer 0" | "model";
}

function refuses(what: string, { model, prepare, fields, message, leaves, ...rest }: BadInput) {
	Deno.test(`a run is refused: ${what}`, async () => {
		using place = new Workplace({ layers: 2, ...model });
		prepare?.(place);
		const expected = message.replaceAll("PLACE", place.folder);
		const { name = "UserError" } = rest;
		await assert.rejects(place.run(fields?.(place)), { name, message: expected });
		const out = place.path("out");
		checkWhole(out);
		const made = existsSync(out) && statSync(out).isDirectory() ? Object.keys(contents(out)) : [];
		const shards = made.filter((file) => /^model.*\.safetensors$/.test(file));
		if (!leaves) assert.deepEqual(made, []);
		if (leaves === "no layers") assert.deepEqual(shards, []);
		if (leaves === "layer 0") assert.deepEqual(shards, ["model/model-00002-of-00003.safetensors"]);
	});
}

// --- The model's folder -------------------------------------------------------------------------

refuses("no model folder", {
	fields: (place) => ({ model: place.path("no-model") }),
	message: 'Cannot open the model "PLACE/no-model": there is no such folder; ' +
		"give the folder that holds config.json and the weights, " +
		"or a name on the hub such as facebook/opt-125m",
});
refuses("no config.json", {
	prepare: ({ model }) => rmSync(join(model, "config.json")),
	message: 'Cannot read "PLACE/model/config.json": no such file or folder',
});
refuses("config.json is not JSON", {
	prepare: ({ model }) => writeFileSync(join(model, "config.json"), "{ model_type"),
	message: 'Cannot read "PLACE/model/config.json": it is not JSON; download it again',
});
refuses("config.json is a list", {
	prepare: ({ model }) => writeFileSync(join(model, "config.json"), "[]"),
	message: 'Cannot read "PLACE/model/config.json": it does not hold a JSON object',
});
refuses("an unknown model_type", {
	model: { config: { model_type: "mamba" } },
	message: `"PLACE/model/config.json": model_type must be a supported one (${MODEL_TYPES}), ` +
		'found "mamba": its layers are state-space models (Mamba) without attention',
});
refuses("rotary positions scaled in a way that is not supported", {
	model: { config: { rope_parameters: { rope_type: "ntk", factor: 8 } } },
	message:
		'"PLACE/model/config.json": rope_parameters must be of the type default, linear, llama3, ' +
		'yarn, dynamic or longrope, found {"rope_type":"ntk","factor":8}',
});
refuses("scaled rotary positions without a factor, as older files say it", {
	model: { config: { rope_parameters: undefined, rope_scaling: { type: "linear" } } },
	message: '"PLACE/model/config.json": rope_scaling.factor must be a number above 0, found nothing',
});
refuses("a model that another program has quantized", {
	model: { config: { quantization_config: { quant_method: "gptq" } } },
	message: '"PLACE/model/config.json": the model is quantized with "gptq", which cannot be read; ' +
		"use the original model",
});
refuses("no weights", {
	prepare: ({ model }) => rmSync(join(model, "model.safetensors")),
	message: 'Cannot open "PLACE/model": it has no weights as "model.safetensors" or ' +
		'"pytorch_model.bin", nor an index of such files',
});
for (
	const [file, problem] of Object.entries({
		bad_truncated_data: "it lacks 1 byte of 88; download it again",
		bad_git_lfs_pointer: "it is a Git LFS pointer, not the file itself; run `git lfs pull`",
		bad_overlap: 'tensors "a" and "b" share bytes',
	})
) {
	refuses(`weights like ${file}.safetensors`, {
		prepare: ({ model }) =>
			copyFileSync(join(CASES, `${file}.safetensors`), join(model, "model.safetensors")),
		message: `Cannot read "PLACE/model/model.safetensors": ${problem}`,
	});
}
refuses("no tokenizer", {
	prepare: ({ model }) => rmSync(join(model, "tokenizer.json")),
	message: 'Cannot open the tokenizer of "PLACE/model": it needs "tokenizer.json" ' +
		'for its class TokenizersBackend (found only "tokenizer_config.json"); ' +
		"make one in Python with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
});

// --- Tensors ------------------------------------------------------------------------------------

const without = (name: string): MicroModelOptions => ({ alter: (tensors) => tensors.delete(name) });

for (
	const [name, nearest] of [
		["model.layers.1.mlp.up_proj.weight", [
			"model.layers.0.mlp.up_proj.weight",
			"model.layers.1.mlp.down_proj.weight",
			"model.layers.1.mlp.gate_proj.weight",
		]],
		["model.layers.1.post_attention_layernorm.weight", [
			"model.layers.0.post_attention_layernorm.weight",
			"model.layers.1.input_layernorm.weight",
			"model.layers.0.input_layernorm.weight",
		]],
		["model.embed_tokens.weight", [
			"model.norm.weight",
			"model.layers.0.mlp.up_proj.weight",
			"model.layers.1.mlp.up_proj.weight",
		]],
		["model.norm.weight", [
			"model.embed_tokens.weight",
			"model.layers.0.mlp.up_proj.weight",
			"model.layers.1.mlp.up_proj.weight",
		]],
	] as const
) {
	refuses(`${name} is missing`, {
		model: without(name),
		message: `Cannot find tensor "${name}" in "PLACE/model"; ` +
			`the nearest names are ${nearest.map((known) => `"${known}"`).join(", ")}`,
	});
}
refuses("the head is missing where it is not the embedding", {
	model: { config: { tie_word_embeddings: false } },
	message: 'Cannot find tensor "lm_head.weight" in "PLACE/model"; the nearest names are ' +
		'"model.norm.weight", "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"',
});

for (
	const [name, shape, expected] of [
		["model.layers.0.mlp.up_proj.weight", [90, 64], [100, 64]],
		["model.layers.0.self_attn.q_proj.weight", [64, 60], [64, 64]],
		["model.layers.0.self_attn.q_proj.weight", [64], [64, 64]],
		["model.layers.0.self_attn.k_proj.weight", [64, 64], [32, 64]],
		["model.layers.0.input_layernorm.weight", [60], [64]],
		["model.embed_tokens.weight", [4000, 64], [4096, 64]],
	] as const
) {
	refuses(`${name} has the shape [${shape.join(", ")}]`, {
		model: {
			alter(tensors) {
				const count = shape.reduce<number>((product, length) => product * length, 1);
				tensors.set(name, { shape: [...shape], values: new Float32Array(count).fill(0.1) });
			},
		},
		message: `"PLACE/model": "${name}" has the shape [${shape.join(", ")}], ` +
			`expected [${expected.join(", ")}]; the weights do not fit config.json`,
		leaves: "no layers",
	});
}

const holding = (name: string, ...values: number[]): MicroModelOptions => ({
	alter: (tensors) => tensors.get(name)!.values.set(values, 7),
});
const damaged = (name: string, count = 1) =>
	`"PLACE/model": "${name}" holds ${count} ${count > 1 ? "values that are" : "value that is"} ` +
	`NaN or infinite; the model is damaged, get it again`;

for (
	const [name, values, leaves, options] of [
		["model.layers.0.self_attn.q_proj.weight", [NaN], "no layers", {}],
		["model.layers.1.mlp.down_proj.weight", [Infinity, -Infinity], "layer 0", {}],
		["model.layers.0.post_attention_layernorm.weight", [-Infinity], "no layers", {}],
		["model.embed_tokens.weight", [NaN, 1, Infinity], "no layers", {}],
		["model.embed_tokens.weight", [Infinity], "no layers", { dtype: "F32" }],
		["model.norm.weight", [NaN], "model", { dtype: "BF16" }],
		["model.decoder.embed_positions.weight", [NaN], "no layers", { family: "opt" }],
		["model.decoder.layers.1.fc1.bias", [Infinity], "layer 0", { family: "opt" }],
		["model.decoder.final_layer_norm.bias", [Infinity], "model", { family: "opt" }],
	] as [string, number[], BadInput["leaves"], MicroModelOptions][]
) {
	refuses(`${name} holds ${values.join(", ")}`, {
		model: { ...holding(name, ...values), ...options },
		message: damaged(name, values.filter((value) => !Number.isFinite(value)).length),
		leaves,
	});
}
refuses("the head holds NaN", {
	model: {
		config: { tie_word_embeddings: false },
		alter(tensors) {
			const values = new Float32Array(4096 * 64).fill(0.1);
			values[4096 * 64 - 1] = NaN;
			tensors.set("lm_head.weight", { shape: [4096, 64], values });
		},
	},
	message: damaged("lm_head.weight"),
	leaves: "model",
});
refuses("a plain file in what config.json says is a packed model", {
	prepare(place) {
		const config = JSON.parse(readFileSync(join(place.model, "config.json"), "utf8"));
		config.quantization_config = {
			quant_method: "billm",
			format_version: 1,
			block_size: 128,
			columns: {},
		};
		writeFileSync(join(place.model, "config.json"), JSON.stringify(config));
	},
	message: 'Cannot read "PLACE/model/model.safetensors": it is no file of a packed model, as ' +
		"config.json says; the file is damaged, get it again",
});

Deno.test("a run is refused: a packed model is to be packed again", async () => {
	using place = new Workplace({ layers: 1 });
	await place.run({ stages: ["download", { rtn: { bits: 4 } }, "pack"] });
	const model = place.path("out/model");
	const message = `The model "${model}" is quantized already; give the original one`;
	for (
		const stages of [undefined, ["download", { rtn: { bits: 3 } }, "pack"], ["download", "pack"]]
	) {
		const fields = { model, output: place.path("again"), ...(stages && { stages }) };
		await assert.rejects(place.run(fields), { name: "UserError", message });
		if (stages?.length === 2) continue; // the command refuses the chain
		const { code, stderr } = await startTask("quantize", [place.pipeline(fields), "--check"]);
		assert.deepEqual([code, stderr], [1, `Error: ${message}\n`]);
	}
});

// --- Data ---------------------------------------------------------------------------------------

refuses("no calibration text", {
	prepare: ({ calibration }) => rmSync(calibration),
	message: 'Cannot read "PLACE/calibration.txt": no such file or folder',
});
refuses("an empty folder as evaluation text", {
	prepare({ evaluation }) {
		rmSync(evaluation);
		mkdirSync(evaluation);
	},
	message:
		'Cannot read "PLACE/evaluation.txt": the folder has no file that ends in .txt, .txt.gz, .raw, ' +
		".jsonl, .jsonl.gz, .json.gz, .parquet; its subfolders are not searched",
});
refuses("a calibration text that is not UTF-8", {
	prepare: ({ calibration }) => writeFileSync(calibration, new Uint8Array([0x63, 0xe9, 0x63])),
	message: 'Cannot read the text "PLACE/calibration.txt": it is not UTF-8; ' +
		"convert it, for example with iconv",
	leaves: "no layers",
});
refuses("a calibration text shorter than one window", {
	prepare: ({ calibration }) => writeFileSync(calibration, "the law of the sea"),
	message: 'The text "calibration.txt" has 6 tokens, fewer than one window of 32; ' +
		"use a longer text or a smaller sequence-length",
	leaves: "no layers",
});
refuses("an evaluation text shorter than one window", {
	prepare: ({ evaluation }) => writeFileSync(evaluation, "the law of the sea"),
	message: 'The text "evaluation.txt" has 6 tokens, fewer than one window of 32; ' +
		"use a longer text or a smaller sequence-length",
});
refuses("windows of calibration longer than the model takes", {
	fields: (place) => ({
		stages: place.method.with(1, place.calibrateWith({ "sequence-length": 129 })),
	}),
	message: 'Windows of sequence-length 129 exceed the maximum length of the model "PLACE/model" ' +
		"(128 tokens); use a smaller sequence-length",
	leaves: "no layers",
});
refuses("windows of evaluation longer than the model takes", {
	fields: (place) => ({
		stages: place.method.with(8, place.evaluateWith({ "sequence-length": 129 })),
	}),
	message: 'Windows of sequence-length 129 exceed the maximum length of the model "PLACE/model" ' +
		"(128 tokens); use a smaller sequence-length",
});

/** Calibration on a file of token ids, [windows, length]. */
const onIds = (place: Workplace, options = {}) => ({
	stages: place.method.with(
		1,
		place.calibrateWith({ dataset: place.path("ids.safetensors"), samples: 2, ...options }),
	),
});
const writeIds = (place: Workplace, ids: number[], shape: number[]) => {
	const data = new Uint8Array(Int32Array.from(ids).buffer);
	writeSafetensors(place.path("ids.safetensors"), [{ name: "ids", dtype: "I32", shape, data }]);
};
const someIds = Array.from({ length: 2 * 32 }, (_, i) => i % 50);

refuses("a token id that the model does not know", {
	prepare: (place) => writeIds(place, someIds.with(40, 4096), [2, 32]),
	fields: onIds,
	message: 'Token id 4096 is not in the vocabulary of "PLACE/model" (4096 ids); ' +
		"do the tokens belong to this model?",
	leaves: "no layers",
});
refuses("a negative token id", {
	prepare: (place) => writeIds(place, someIds.with(3, -1), [2, 32]),
	fields: onIds,
	message: 'Cannot read token ids from "PLACE/ids.safetensors": -1 is no token id',
});
refuses("token windows shorter than the sequence-length", {
	prepare: (place) => writeIds(place, someIds, [4, 16]),
	fields: onIds,
	message:
		'The token windows of "ids.safetensors" have 16 tokens, fewer than sequence-length 32; ' +
		"use a smaller sequence-length",
});
refuses("fewer token windows than samples", {
	prepare: (place) => writeIds(place, someIds, [2, 32]),
	fields: (place) => onIds(place, { samples: 3 }),
	message: '"ids.safetensors" holds 2 windows, fewer than samples 3; ' +
		"use a smaller number of samples",
});
refuses("a vocabulary smaller than the tokenizer's", {
	model: { vocabulary: 5 },
	prepare: ({ calibration }) => writeFileSync(calibration, "sea ".repeat(200)),
	message: 'Token id 1585 is not in the vocabulary of "PLACE/model" (5 ids); ' +
		"do the tokens belong to this model?",
	leaves: "no layers",
});

Deno.test("a run is refused: a Hessian of fewer tokens than columns, without damping", async () => {
	using place = new Workplace({ layers: 1 });
	const stages = place.method
		.with(1, place.calibrateWith({ samples: 1 }))
		.with(2, { hessian: { damping: 0 } });
	const names = ["q", "k", "v"].map((letter) => `model.layers.0.self_attn.${letter}_proj`);
	// Where exactly rounding makes a pivot negative depends on the adapter.
	await assert.rejects(place.run({ stages }), (error: Error) => {
		assert.equal(error.name, "UserError");
		const [, column] = error.message.match(/at column (\d+) of 64/)!;
		assert.ok(Math.abs(Number(column) - 32) <= 8, "32 tokens determine about as many columns");
		assert.equal(
			error.message,
			`The Hessian of ${names.join(", ")} cannot be factored: with damping 0 it is not positive ` +
				`definite at column ${column} of 64; use more damping or more calibration text`,
		);
		return true;
	});
	checkWhole(place.path("out"));
});

// --- Chains that --check cannot refuse or that are refused before the run -----------------------

refuses("nothing has turned the layer into bits", {
	fields: (place) => ({ stages: ["download", place.calibrate, "pack", place.evaluate] }),
	message:
		'Cannot pack "model.layers.0.self_attn.q_proj": no stage before pack has quantized it; ' +
		"put a stage that does, such as compensate, before pack",
	leaves: "no layers",
});
refuses("pack stands before the stages that make bits", {
	fields: (place) => ({
		stages: ["download", place.calibrate, "pack", "split-search", place.evaluate],
	}),
	message:
		'Cannot pack "model.layers.0.self_attn.q_proj": no stage before pack has quantized it; ' +
		"put a stage that does, such as compensate, before pack",
	leaves: "no layers",
});
refuses("no stage makes calibration data", {
	fields: (place) => ({ stages: ["download", "split-search", place.evaluate] }),
	name: "PipelineFileError",
	message: 'PLACE/pipeline0.yaml:6:5: Stage "split-search" needs "calibration", which stage ' +
		'"calibrate" gives; put calibrate before it',
});

// --- The output folder --------------------------------------------------------------------------

refuses("a file in the place of the output folder", {
	prepare: (place) => writeFileSync(place.path("out"), "mine"),
	message: 'Cannot make the output folder "PLACE/out": a file is in the way',
});
refuses("a file in the place of a parent of the output folder", {
	prepare: (place) => writeFileSync(place.path("file"), "mine"),
	fields: (place) => ({ output: place.path("file/out") }),
	message: 'Cannot make the output folder "PLACE/file/out": a part of the path is a file',
});
refuses("the model's own folder as output", {
	fields: (place) => ({ output: place.model }),
	message: 'The output folder "PLACE/model" is not empty and holds no run; ' +
		"choose another output, or empty it",
});
if (Deno.build.os === "linux") {
	refuses("an output folder where none can be made", {
		fields: () => ({ output: "/proc/billm/out" }),
		message: 'Cannot make the output folder "/proc/billm/out": no such file or folder',
	});
}

for (
	const [name, moment] of [
		["model/model-00003-of-00003.safetensors", "start"],
		["layers/00001.json", "start"],
		["model/model-00001-of-00003.safetensors", "start"],
		["model/tokenizer.json", "start"],
		["model/config.json", "start"],
		["model/model.safetensors.index.json", "start"],
		["run.json", "metric"],
	]
) {
	Deno.test({
		name: `the disk is full when ${name} is written: the run goes on when there is room`,
		ignore: Deno.build.os !== "linux",
		async fn() {
			using place = new Workplace({ layers: 2 });
			const path = place.path("out", name);
			const fullDisk = new DisposableStack();
			let full = false;
			const report = (event: RunEvent) => {
				if (full || event.type !== moment) return;
				fullDisk.use(fillDiskFor(path));
				full = true;
			};
			let message = "";
			await assert.rejects(place.run({}, { emit: report }), (error: Error) => {
				assert.equal(error.name, "UserError");
				message = error.message;
				return true;
			});
			fullDisk.dispose();
			checkWhole(place.path("out"));
			assert.equal(existsSync(path), name === "run.json", "the file from before, or none");
			const { record } = await place.run();
			assert.equal(record.status, "done");
			checkWhole(place.path("out"));
			const needed = name.endsWith(".safetensors")
				? ` (needed ${(statSync(path).size / 1000).toFixed(1)} kB)`
				: "";
			assert.equal(message, `Cannot write "${path}": no space left on the device${needed}`);
		},
	});
}

/** Mounts an empty file system in memory; undefined where that is not allowed. */
function mountEmpty(folder: string, options: string): Disposable | undefined {
	mkdirSync(folder);
	const run = (command: string, args: string[]) => {
		try {
			return new Deno.Command(command, { args, stderr: "null" }).outputSync().success;
		} catch {
			return false; // no such command
		}
	};
	if (Deno.build.os !== "linux" || Deno.uid() !== 0) return undefined;
	if (!run("mount", ["-t", "tmpfs", "-o", options, "tmpfs", folder])) return undefined;
	return { [Symbol.dispose]: () => void run("umount", [folder]) };
}

Deno.test("a disk that becomes really full, where one can be mounted", async () => {
	using place = new Workplace({ layers: 2 });
	using mounted = mountEmpty(place.path("disk"), "size=1000000");
	if (!mounted) return;
	const output = place.path("disk/out");
	const emit = ({ type }: RunEvent) => {
		if (type === "start") writeFileSync(place.path("disk/others"), new Uint8Array(970_000));
	};
	await assert.rejects(place.run({ output }, { emit }), (error: Error) => {
		assert.equal(error.name, "UserError");
		assert.equal(
			error.message.replace(/ [\d.]+ kB/, " N kB").replace(/-0000\d-/, "-N-"),
			`Cannot write "${output}/model/model-N-of-00003.safetensors": ` +
				"no space left on the device (needed N kB)",
		);
		return true;
	});
	checkWhole(output);
	rmSync(place.path("disk/others"));
	const { record } = await place.run({ output });
	assert.equal(record.status, "done");
});

Deno.test("a disk that is read-only, where one can be mounted", async () => {
	using place = new Workplace({ layers: 1 });
	using mounted = mountEmpty(place.path("disk"), "ro");
	if (!mounted) return;
	const output = place.path("disk/out");
	await assert.rejects(place.run({ output }), {
		name: "UserError",
		message: `Cannot make the output folder "${output}": the file system is read-only`,
	});
});

Deno.test({
	name: "a folder that only others may write, for users who are not root",
	ignore: Deno.build.os === "windows" || Deno.uid() === 0,
	async fn() {
		using place = new Workplace({ layers: 1 });
		mkdirSync(place.path("locked"), { mode: 0o555 });
		const output = place.path("locked/out");
		await assert.rejects(place.run({ output }), {
			name: "UserError",
			message: `Cannot make the output folder "${output}": permission denied`,
		});
		chmodSync(place.path("locked"), 0o755);
	},
});

// --- What a user sees ---------------------------------------------------------------------------

/** Checks what the command prints for an error, and how it ends. */
async function checkCommand(args: string[], code: number, stderr: string): Promise<void> {
	const result = await startTask("quantize", args);
	assert.equal(result.stderr, stderr);
	assert.equal(result.code, code);
	assert.doesNotMatch(result.stdout, /Done/);
}

Deno.test("quantize ends with 2 if the pipeline file is not there or not YAML", async () => {
	using place = new Workplace({ layers: 1 });
	const file = place.path("none.yaml");
	await checkCommand(
		[file],
		2,
		`deno task quantize: There is no pipeline file "${file}"; deno task init MODEL writes one\n`,
	);
	const bad = place.path("bad.yaml");
	writeFileSync(bad, "name: x\nstages: [download\n");
	await checkCommand(
		[bad],
		2,
		`${bad}:3:1: Not valid YAML: Flow sequence in block collection must be sufficiently indented ` +
			"and end with a ]\n",
	);
});

Deno.test("quantize ends with 2 and all that is wrong in the pipeline file", async () => {
	using place = new Workplace({ layers: 1 });
	const file = place.path("wrong.yaml");
	writeFileSync(
		file,
		`name: wrong
model: ${place.model}
outptu: here
stages:
  - download
  - compensate: { block-size: 100 }
  - calibrate: { dataset: a.txt, samples: many }
  - hessian: { damping: 11 }
  - salient-selct
  - residual-binarize: { planes: 5, plane: 1 }
  - evaluate: { perplexity: [{ dataset: 3 }] }
`,
	);
	await checkCommand(
		[file, "--set", "seed=-1"],
		2,
		[
			`${file}:3:1: Unknown key "outptu" in the pipeline; did you mean "output"?`,
			`${file}:6:5: Stage "compensate" needs "factor", which stage "hessian" gives; ` +
			`put hessian before it`,
			`${file}:6:31: compensate.block-size must be one of 32, 64, 128, 256, found 100`,
			`${file}:7:5: Stage "calibrate" runs once per model and cannot stand between the stages of a ` +
			'layer; put it before "compensate" or after "residual-binarize"',
			`${file}:7:43: calibrate.samples must be a whole number, found "many"`,
			`${file}:8:25: hessian.damping must be at most 10, found 11`,
			`${file}:9:5: Unknown stage "salient-selct"; did you mean "salient-select"? Known stages: ` +
			"download, calibrate, allocate, rotate, hessian, propagate-error, salient-select, residual-binarize, " +
			"split-search, compensate, arb, hbllm, row-search, rtn, gptq, levels, pb-llm, sign, trellis, " +
			"refit-norm, pack, export, evaluate",
			`${file}:10:5: Stage "residual-binarize" makes no use of "block-error", which stage ` +
			'"compensate" gives; put residual-binarize before it',
			`${file}:10:34: residual-binarize.planes must be at most 4, found 5`,
			`${file}:10:37: Unknown key "plane" in residual-binarize; did you mean "planes"?`,
			`${file}:11:41: evaluate.perplexity.0.dataset must be a string, found 3`,
			"--set seed=-1: seed must be at least 0, found -1",
			"",
		].join("\n"),
	);
	assert.equal(existsSync(place.path("out")), false);
});

Deno.test("quantize ends with 1 and one line if the input is bad", async () => {
	using place = new Workplace({ layers: 2, ...holding("model.layers.1.mlp.up_proj.weight", NaN) });
	const pipeline = place.pipeline();
	const line = damaged("model.layers.1.mlp.up_proj.weight").replace("PLACE", place.folder);
	await checkCommand([pipeline], 1, `Error: ${line}\n`);
	await checkCommand(
		[pipeline, "--set", "model=./no/model", "--json"],
		1,
		'Error: Cannot open the model "./no/model": there is no such folder; ' +
			"give the folder that holds config.json and the weights, " +
			"or a name on the hub such as facebook/opt-125m\n",
	);
	await checkCommand(
		[pipeline, "--set", "seed=5"],
		1,
		`Error: The output folder "${
			place.path("out")
		}" holds a different run: seed was 0 and is 5 now; ` +
			"choose another output, or give --overwrite to replace it\n",
	);
});
