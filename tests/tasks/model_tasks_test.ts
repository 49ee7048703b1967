import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { dequantizeBillm } from "../../codecs/billm/host.ts";
import { loadBillm } from "../../codecs/billm/store.ts";
import { dequantizeEmbeddingOnHost } from "../../codecs/embedding/embedding.ts";
import { ModelFiles } from "../../models/model_files.ts";
import type { RunRecord } from "../../pipeline/run/record.ts";
import { Checkpoint } from "../../storage/checkpoint.ts";
import { denoFile, denoFolder } from "../../storage/deno_folder.ts";
import { readJson } from "../../storage/json.ts";
import { readHeader, type TensorToWrite } from "../../storage/safetensors.ts";
import { writeSafetensors } from "../../storage/write_safetensors.ts";
import { storedParts } from "../codecs/billm/stored_parts.ts";
import { contents, Workplace } from "../micro_model.ts";
import { startTask, type TaskResult } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

/** A packed micro model, for tests that only read it. */
const place = new Workplace({ layers: 2 });
// Python tells floats from integers, and spells them in its own way.
const SPELLED = ['"rope_theta": 10000.0', '"rms_norm_eps": 1e-05'];
const configFile = join(place.model, "config.json");
writeFileSync(
	configFile,
	readFileSync(configFile, "utf8").replace(/"rope_theta": [^,]*/, SPELLED[0])
		.replace(/"rms_norm_eps": [^,]*/, SPELLED[1]),
);
const { record } = await place.run();
const packed = record.packed!.folder;
globalThis.addEventListener("unload", () => place[Symbol.dispose]());

function assertFails({ code, stdout, stderr }: TaskResult, exit: number, text: string): void {
	assert.deepEqual({ code, stdout, stderr }, { code: exit, stdout: "", stderr: `${text}\n` });
}

/** A copy of the packed model, and of its run.json beside it. */
function copyOf(folder: TemporaryFolder): string {
	const copy = join(folder.path, "model");
	mkdirSync(copy);
	for (const name of readdirSync(packed)) {
		writeFileSync(join(copy, name), readFileSync(join(packed, name)));
	}
	return copy;
}

/** Turns one bit of a tensor round; the path of its file. */
function damage(model: string, name: string): string {
	using checkpoint = Checkpoint.open(denoFolder(model));
	const { file, offset } = checkpoint.get(name);
	const content = readFileSync(file);
	content[offset] ^= 1;
	writeFileSync(file, content);
	return file;
}

for (const task of ["inspect", "dequantize", "compare"] as const) {
	Deno.test(`${task} --help prints the usage`, async () => {
		const help = await startTask(task, ["--help"]);
		assert.deepEqual([help.code, help.stderr], [0, ""]);
		assert.match(help.stdout, new RegExp(`^Usage: deno task ${task} `));
	});

	Deno.test(`${task} names the file and the tensor that are damaged`, async () => {
		using folder = new TemporaryFolder();
		const model = copyOf(folder);
		const tensor = "model.layers.1.mlp.up_proj.flags";
		const file = damage(model, tensor);
		const out = join(folder.path, "out");
		const args = { inspect: [model], dequantize: [model, out], compare: [packed, model] }[task];
		const { code, stdout, stderr } = await startTask(task, args);
		assert.equal(code, 1);
		assert.ok(task === "dequantize" || stdout === "");
		const sums = /has the checksum ([0-9a-f]{8}), not ([0-9a-f]{8})/.exec(stderr)!;
		assert.equal(
			stderr,
			`Error: Cannot read "${file}": tensor "${tensor}" has the checksum ${sums[1]}, not ` +
				`${sums[2]}; the file is damaged\n`,
		);
		assert.deepEqual(readdirSync(folder.path), ["model"], "no output, no rest of one");
	});

	Deno.test(`${task} refuses a model of a later version, or without a shard`, async () => {
		using folder = new TemporaryFolder();
		const model = copyOf(folder);
		const out = join(folder.path, "out");
		const args = { inspect: [model], dequantize: [model, out], compare: [packed, model] }[task];
		const path = join(model, "config.json");
		const config = JSON.parse(readFileSync(path, "utf8"));
		assert.equal(config.quantization_config.format_version, 2);
		config.quantization_config.format_version = 7;
		writeFileSync(path, JSON.stringify(config));
		assertFails(
			await startTask(task, args),
			1,
			`Error: "${path}": the packed format has version 7, this program reads versions up to 6; ` +
				"use a later program",
		);
		config.quantization_config.format_version = 2;
		writeFileSync(path, JSON.stringify(config));
		rmSync(join(model, "model-00003-of-00003.safetensors"));
		assertFails(
			await startTask(task, args),
			1,
			`Error: Cannot open "${model}": the index puts "model.layers.1.input_layernorm.weight" in ` +
				`"model-00003-of-00003.safetensors", which is not there; download the missing file`,
		);
		assert.deepEqual(readdirSync(folder.path), ["model"]);
	});
}

Deno.test("inspect, dequantize and compare take the folder of a run for the model in it", async () => {
	using folder = new TemporaryFolder();
	const out = join(folder.path, "plain");
	const written = () => existsSync(out) ? contents(out) : [];
	const calls = [["inspect"], ["dequantize", out, "--overwrite"], ["compare", out]];
	for (const [task, ...more] of calls) {
		const ofModel = await startTask(task, [packed, ...more]);
		const expected = written();
		const ofRun = await startTask(task, [place.path("out"), ...more]);
		assert.deepEqual(ofRun, ofModel);
		assert.deepEqual(written(), expected);
		assert.equal(ofRun.stderr, "");
		if (task !== "compare") assert.equal(ofRun.code, 0); // which says whether they differ
	}
	assert.ok(existsSync(out));
});

Deno.test("inspect --json says of each linear layer what the run's record says", async () => {
	const { code, stdout, stderr } = await startTask("inspect", [packed, "--json"]);
	assert.deepEqual([code, stderr], [0, ""]);
	const report = JSON.parse(stdout);
	const expected = (record as RunRecord).layers!.flatMap(({ linears }) => linears)
		.map(({ name, rows, cols, salientColumns, storedBytes, ...rest }) => ({
			name,
			rows,
			cols,
			salientColumns: salientColumns.reduce((sum, count) => sum + count, 0),
			highFraction: rest.highFraction,
			paperBits: rest.paperBits,
			storedBits: 8 * Object.values(storedBytes).reduce((a, b) => a + b) / (rows * cols),
			storedBytes,
			relativeOutputError: rest.relativeOutputError,
		})).sort((a, b) => a.name < b.name ? -1 : 1);
	assert.deepEqual(report.linears, expected);
	const { packed: written } = record;
	assert.equal(report.weights, written!.weights);
	assert.equal(report.bytes, written!.bytes);
	assert.ok(Math.abs(report.paperBits - written!.paperBits) < 1e-12);
	const { headers = 0 } = written!.storedBitsByPart;
	assert.ok(Math.abs(report.storedBits + headers - written!.storedBits) < 1e-12);
	assert.deepEqual(report.embeddings, [
		{ name: "model.embed_tokens.codes", dtype: "I8", shape: [4096, 64], bytes: 4096 * 64 },
		{ name: "model.embed_tokens.group_scales", dtype: "F16", shape: [4096, 1], bytes: 4096 * 2 },
	]);
	assert.deepEqual(report.head, []);
	assert.equal(report.other.length, 5); // two norms in each layer and the last one
	assert.deepEqual([report.formatVersion, report.blockSize], [2, 32]);
});

Deno.test("inspect prints a table no wider than 100 columns", async () => {
	const { code, stdout, stderr } = await startTask("inspect", [packed]);
	assert.deepEqual([code, stderr], [0, ""]);
	const lines = stdout.split("\n");
	assert.equal(
		lines[0],
		`${packed}: packed, format version 2, blocks of 32 columns. Bits per weight:`,
	);
	assert.equal(
		lines[2],
		"linear layer          shape  salient   high  paper  stored  signs  flags  salient  scales" +
			"  error",
	);
	assert.ok(lines.slice(2).every((line) => line.length <= 100), stdout);
	assert.match(lines[3], /^0\.mlp\.down_proj +64x100 +\d+ +0\.\d{3} +1\.\d{3} +\d\.\d{3} /);
	const layers = lines.slice(3, 17).map((line) => line.split(" ")[0]);
	assert.equal(layers.length, 2 * 7);
	assert.match(lines[17], /^all .* kB /);
	const sizes = lines.slice(19, 27).map((line) => line.split("  ")[0]);
	assert.deepEqual(sizes, [
		"what",
		"linear layers",
		"embeddings",
		"head",
		"other",
		"headers",
		"weight files",
		"whole folder",
	]);
});

Deno.test("inspect without a run.json beside the model leaves the errors out", async () => {
	using folder = new TemporaryFolder();
	const { stdout } = await startTask("inspect", [copyOf(folder), "--json"]);
	const { linears } = JSON.parse(stdout);
	assert.equal(linears.length, 14);
	assert.ok(linears.every((linear: object) => !("relativeOutputError" in linear)));
});

Deno.test("inspect prints the tensors of a plain model", async () => {
	using folder = new TemporaryFolder();
	const tensors: TensorToWrite[] = [
		{ name: "layers.10.w", dtype: "F32", shape: [2, 3], data: new Uint8Array(24) },
		{ name: "layers.9.w", dtype: "F16", shape: [4], data: new Uint8Array(8) },
	];
	const { bytes } = writeSafetensors(join(folder.path, "model.safetensors"), tensors);
	const { code, stdout } = await startTask("inspect", [folder.path]);
	assert.equal(code, 0);
	assert.equal(
		stdout,
		`${folder.path}: plain, 2 tensors, weight files of ${bytes} B

tensor       dtype   shape    bits  size
layers.9.w   F16       [4]      16   8 B
layers.10.w  F32    [2, 3]      32  24 B
all                     10  25.600  32 B
`,
	);
	const json = await startTask("inspect", [folder.path, "--json"]);
	assert.deepEqual(JSON.parse(json.stdout), {
		folder: folder.path,
		tensors: [
			{ name: "layers.9.w", dtype: "F16", shape: [4], bytes: 8 },
			{ name: "layers.10.w", dtype: "F32", shape: [2, 3], bytes: 24 },
		],
		elements: 10,
		bytes,
	});
});

/** The weights of the packed model as f16, by name. */
function expectedHalves(): Map<string, { shape: number[]; halves: Float16Array }> {
	using model = ModelFiles.open(denoFolder(packed));
	using original = ModelFiles.open(denoFolder(place.model));
	const { columns, block_size: blockSize } = model.quantization!;
	return new Map(
		[...original.checkpoint.tensors].map(([name, { shape }]) => {
			const linear = name.slice(0, -".weight".length);
			const isPacked = model.checkpoint.has(`${linear}.signs`);
			const module = Object.keys(columns).find((known) => linear.endsWith(`.${known}`))!;
			const values = isPacked
				? dequantizeBillm(
					loadBillm(model.checkpoint, linear, { cols: columns[module], blockSize: blockSize }),
				)
				: name === "model.embed_tokens.weight"
				? dequantizeEmbeddingOnHost(model.checkpoint, linear, 0, shape[0])
				: model.checkpoint.readFloat32(name);
			return [name, { shape, halves: Float16Array.from(values) }];
		}),
	);
}

Deno.test("dequantize writes a plain f16 model, in the same shards and with the tokenizer", async () => {
	using folder = new TemporaryFolder();
	const out = join(folder.path, "plain");
	const { code, stdout, stderr } = await startTask("dequantize", [packed, out]);
	assert.deepEqual([code, stderr], [0, ""]);
	const expected = expectedHalves();
	assert.match(stdout, new RegExp(`^dequantize \\d+ %  model-00001-of-00003.safetensors\\n`));
	assert.ok(stdout.endsWith(`${out}: ${expected.size} tensors, 653.0 kB\n`), stdout);
	assert.deepEqual(readdirSync(folder.path), ["plain"]);
	assert.deepEqual(readdirSync(out).sort(), readdirSync(packed).sort());

	using plain = ModelFiles.open(denoFolder(out));
	assert.equal(plain.quantization, undefined);
	assert.deepEqual([...plain.checkpoint.tensors.keys()].sort(), [...expected.keys()].sort());
	for (const [name, { shape, halves }] of expected) {
		const found = plain.checkpoint.get(name);
		assert.deepEqual([found.dtype, found.shape], ["F16", shape]);
		assert.deepEqual(new Float16Array(plain.checkpoint.readBytes(name).buffer), halves, name);
	}
	const { torch_dtype: dtype, ...config } = plain.config;
	assert.equal(dtype, "float16");
	assert.deepEqual(config, JSON.parse(readFileSync(configFile, "utf8")));
	for (const folder of [place.model, packed, out]) {
		const text = readFileSync(join(folder, "config.json"), "utf8");
		for (const spelled of SPELLED) assert.ok(text.includes(spelled), `${spelled} in ${folder}`);
	}
	const index = JSON.parse(readFileSync(join(out, "model.safetensors.index.json"), "utf8"));
	assert.equal(
		index.metadata.total_size,
		[...expected.values()].reduce((sum, { halves }) => sum + 2 * halves.length, 0),
	);
	for (const shard of new Set(Object.values(index.weight_map) as string[])) {
		assert.deepEqual(readHeader(denoFile(join(out, shard))).metadata, { format: "pt" });
	}
	for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]) {
		assert.deepEqual(readFileSync(join(out, name)), readFileSync(join(place.model, name)));
	}
});

Deno.test("dequantize replaces a model only with --overwrite, and nothing else at all", async () => {
	using folder = new TemporaryFolder();
	const out = join(folder.path, "plain");
	mkdirSync(out); // an empty folder is as good as none
	assert.equal((await startTask("dequantize", [packed, out])).code, 0);
	const before = contents(out);
	const stale = join(out, "model-00009-of-00009.safetensors");
	writeFileSync(stale, "of another model");
	assertFails(
		await startTask("dequantize", [packed, out]),
		1,
		`Error: The folder "${out}" is not empty; give another, or --overwrite to replace what is in it`,
	);
	assert.ok(existsSync(stale));
	assert.equal((await startTask("dequantize", [packed, out, "--overwrite"])).code, 0);
	assert.deepEqual(contents(out), before);
	for (const foreign of ["sub", "notes.txt", "model.bin", "adapter_model.safetensors"]) {
		const path = join(out, foreign);
		if (foreign === "sub") mkdirSync(path);
		else writeFileSync(path, "of the user");
		assertFails(
			await startTask("dequantize", [packed, out, "--overwrite"]),
			1,
			`Error: The folder "${out}" holds something else than a model, "${foreign}"; give another`,
		);
		rmSync(path, { recursive: true });
	}
	assertFails(
		await startTask("dequantize", [packed, folder.path, "--overwrite"]),
		1,
		`Error: The folder "${folder.path}" holds something else than a model, "plain"; give another`,
	);
	assertFails(
		await startTask("dequantize", [packed, packed, "--overwrite"]),
		1,
		`Error: "${packed}" is the packed model itself; give another folder`,
	);
	assertFails(
		await startTask("dequantize", [place.model, join(folder.path, "x")]),
		1,
		`Error: The model "${place.model}" is not packed; there is nothing to dequantize`,
	);
	const file = join(out, "config.json");
	assertFails(
		await startTask("dequantize", [packed, file]),
		1,
		`Error: "${file}" is a file; give a folder`,
	);
});

Deno.test("compare: a packed model and its dequantized copy differ by the rounding to f16, or not at all", async () => {
	using folder = new TemporaryFolder();
	const out = join(folder.path, "plain");
	await startTask("dequantize", [packed, out]);
	const { code, stdout, stderr } = await startTask("compare", [packed, out, "--json"]);
	assert.deepEqual([code, stderr], [1, ""]);
	const { a, b, tensors, differences } = JSON.parse(stdout);
	assert.deepEqual({ a, b, tensors }, { a: packed, b: out, tensors: 20 });
	assert.equal(differences.length, 14 + 1);
	for (const { name, relativeRms } of differences) {
		assert.match(name, /(_proj|embed_tokens)\.weight$/);
		assert.ok(relativeRms > 0 && relativeRms < 2 ** -11, `${name}: ${relativeRms}`);
	}
	const exact = join(folder.path, "exact");
	await startTask("dequantize", [packed, exact, "--dtype", "f32"]);
	assert.equal(readJson(denoFile(join(exact, "config.json"))).torch_dtype, "float32");
	const equal = await startTask("compare", [packed, exact]);
	assert.deepEqual(equal, { code: 0, stdout: "Equal: 20 tensors\n", stderr: "" });
	assertFails(
		await startTask("dequantize", [packed, out, "--dtype", "bf16"]),
		2,
		'deno task dequantize: --dtype takes f16 or f32, found "bf16"',
	);
	for (const same of [packed, out, place.model]) {
		const equal = await startTask("compare", [same, same]);
		assert.deepEqual(equal, { code: 0, stdout: "Equal: 20 tensors\n", stderr: "" });
	}
});

Deno.test("compare says what is missing, of another shape, and how far numbers are apart", async () => {
	using folder = new TemporaryFolder();
	const write = (name: string, tensors: Record<string, [number[], "F16" | "F32", number[]]>) => {
		const path = join(folder.path, name);
		mkdirSync(path);
		const toWrite = Object.entries(tensors).map(([name, [shape, dtype, values]]) => {
			const array = dtype === "F16" ? Float16Array.from(values) : Float32Array.from(values);
			return { name, dtype, shape, data: new Uint8Array(array.buffer) };
		});
		const ids = { name: "ids", dtype: "I64" as const, shape: [1], data: new Uint8Array(8) };
		if (name === "b") ids.data[1] = 1;
		writeSafetensors(join(path, "model.safetensors"), [...toWrite, ids]);
		return path;
	};
	const a = write("a", {
		same: [[2], "F16", [1, NaN]],
		numbers: [[2, 2], "F32", [3, 0, 0, 4]],
		lost: [[2], "F32", [1, NaN]],
		zero: [[2], "F32", [0, 0]],
		shape: [[2, 1], "F32", [1, 2]],
		onlyA: [[1], "F32", [1]],
	});
	const b = write("b", {
		same: [[2], "F32", [1, NaN]],
		numbers: [[2, 2], "F16", [3, 0, 0, 4.5]],
		lost: [[2], "F32", [1, 2]],
		zero: [[2], "F32", [0, 1]],
		shape: [[1, 2], "F32", [1, 2]],
		onlyB: [[1], "F32", [1]],
	});
	const json = await startTask("compare", [a, b, "--json"]);
	const { differences } = JSON.parse(json.stdout);
	assert.deepEqual(
		new Map(differences.map(({ name, ...rest }: { name: string }) => [name, rest])),
		new Map<string, unknown>([
			["numbers", { count: 1, maxAbsolute: 0.5, rms: 0.25, relativeRms: 0.1 }],
			["lost", { count: 1, maxAbsolute: null, rms: null, relativeRms: null }], // NaN in JSON
			["zero", { count: 1, maxAbsolute: 1, rms: Math.SQRT1_2 }],
			["shape", { shapes: { a: [2, 1], b: [1, 2] } }],
			["onlyA", { missing: "b" }],
			["onlyB", { missing: "a" }],
			["ids", { count: 1 }],
		]),
	);
	const { code, stdout, stderr } = await startTask("compare", [a, b]);
	assert.deepEqual([code, stderr], [1, ""]);
	assert.deepEqual(stdout.split("\n").map((line) => line.trimEnd()).toSorted(), [
		"",
		"",
		"7 of 8 tensors differ, 1 are equal",
		"ids      1 differ, not floating-point numbers",
		"lost         NaN      NaN       NaN %",
		"numbers  5.00e-1  2.50e-1    10.000 %",
		"onlyA    only in A",
		"onlyB    only in B",
		"shape    [2, 1] and [1, 2]",
		"tensor       max      RMS  of A's RMS",
		"zero     1.00e+0  7.07e-1   A is zero",
	]);
});

Deno.test("the tests of storedParts() and of these tasks mean the same parts", () => {
	using model = ModelFiles.open(denoFolder(packed));
	const host = loadBillm(model.checkpoint, "model.layers.0.mlp.up_proj", {
		cols: 64,
		blockSize: 32,
	});
	assert.deepEqual(
		Object.keys(storedParts(host, 3)),
		Object.keys(record.layers![0].linears[0].storedBytes),
	);
});
