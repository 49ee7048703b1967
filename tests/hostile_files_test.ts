// Files that are made to take all time or memory, or to overflow a stack: refused soon, with a message that
// says the limit.

import assert from "node:assert/strict";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ModelFiles } from "../models/model_files.ts";
import { requireTensors } from "../models/required_tensors.ts";
import { loadGrid } from "../pipeline/grid/load_grid.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import { denoFile, denoFolder } from "../storage/deno_folder.ts";
import { parsePythonJson, readJson } from "../storage/json.ts";
import { readHeader } from "../storage/safetensors.ts";
import { Workplace } from "./micro_model.ts";
import type { Json } from "./mutations.ts";
import { TemporaryFolder } from "./temporary_folder.ts";

/** Checks that work is refused within ten seconds, in 21 lines and 12,000 letters at most. */
async function refuses(what: string, work: () => unknown, message: RegExp): Promise<void> {
	const start = performance.now();
	await assert.rejects(async () => await work(), (error: Error) => {
		assert.match(error.name, /^(UserError|PipelineFileError)$/, `${what}: ${error.stack}`);
		assert.match(error.message, message, what);
		assert.ok(error.message.split("\n").length <= 21 && error.message.length < 12_000, what);
		return true;
	}, what);
	assert.ok(performance.now() - start < 10_000, `${what} took ${performance.now() - start} ms`);
}

const times = (count: number, line: (i: number) => string, separator = "\n") =>
	Array.from({ length: count }, (_, i) => line(i)).join(separator);

const HEAD = "name: a\nmodel: b\n";
const DOWNLOAD = `${HEAD}stages: [download]\n`;
const MANY = 20_000;
const DEEP = /:\d+:\d+: Nested too deep: more than 200 lists and maps within each other$/;

const PIPELINES: [what: string, text: string, message: RegExp][] = [
	["maps", times(3000, (i) => `${" ".repeat(i)}a:`) + " 1", DEEP],
	["lists in lists", "a:\n  " + "- ".repeat(5000) + "x", DEEP],
	["flow lists", HEAD + "a: " + "[".repeat(5000) + "]".repeat(5000), DEEP],
	["flow lists without end", HEAD + "a: " + "[".repeat(100_000), DEEP],
	["flow maps", HEAD + "a: " + "{a: ".repeat(5000) + "1" + "}".repeat(5000), DEEP],
	["explicit keys", "? ".repeat(5000) + "x", DEEP],
	[
		"unknown keys",
		DOWNLOAD + times(MANY, (i) => `k${i}: 1`),
		/^p\.yaml:4:1: Unknown key "k0" .*\n[^]*"k9" .*; 19990 more keys of the pipeline are unknown$/,
	],
	[
		"the same key",
		DOWNLOAD + times(MANY, () => "k: 1"),
		/occurs twice .*\n[^]* more problems from/,
	],
	["stages", HEAD + "stages:\n" + times(MANY, () => "  - hessian"), /must have at most 100 items/],
	[
		"unknown stages",
		HEAD + "stages:\n" + times(MANY, (i) => `  - x${i}`),
		/more problems from here/,
	],
	[
		"options",
		HEAD + "stages:\n  - download\n  - hessian:\n" + times(MANY, (i) => `      k${i}: 1`),
		/19990 more keys of hessian are unknown/,
	],
	[
		"keys beside a recipe",
		HEAD + "recipe: 2-bit\nstages:\n" + times(MANY, (i) => `  k${i}: {}`),
		/stages must have at most 100 keys, found 20000/,
	],
	[
		"entries of evaluate",
		HEAD + "stages:\n  - download\n  - evaluate:\n      perplexity:\n" +
		times(MANY, (i) => `        - k${i}`),
		/evaluate\.perplexity\.0 must be a map/,
	],
	[
		"keys of a matrix",
		DOWNLOAD + "matrix:\n" + times(MANY, (i) => `  k${i}: [1]`),
		/Unknown key "k0" in matrix[^]* 19.980 more problems from here on$/,
	],
	[
		"values of a matrix",
		DOWNLOAD + "matrix:\n  seed:\n" + times(MANY, (i) => `    - ${i}`),
		/matrix\.seed has 20000 values; at most 1000 can be run/,
	],
	[
		"entries of include",
		DOWNLOAD + "matrix:\n  include:\n" + times(MANY, (i) => `    - { seed: ${i} }`),
		/matrix\.include has 20000 values; at most 1000/,
	],
	[
		"aliases",
		DOWNLOAD + "a: &x 1\nb: [" + times(MANY, () => "*x", ", ") + "]",
		/More than 500 aliases; write some values out/,
	],
	["a long name", `${HEAD}stages: [${"k".repeat(1e6)}]`, /Unknown stage "k{1900,}…$/],
];

for (const [what, text, message] of PIPELINES) {
	Deno.test(`a pipeline file of very many or deep ${what}`, async () => {
		const options = { stages: STAGES, recipes: RECIPES };
		await refuses(what, () => loadGrid("p.yaml", { ...options, text }), message);
	});
}

Deno.test("overrides that are nested too deep", async () => {
	const options = { stages: STAGES, recipes: RECIPES, text: DOWNLOAD };
	for (const value of ["[".repeat(5000), "- ".repeat(5000) + "x", "{a: ".repeat(5000)]) {
		const sets = [`seed=${value}`];
		await refuses(value, () => loadGrid("p.yaml", { ...options, sets }), /: Nested too deep: /);
	}
});

Deno.test("JSON that is nested too deep, wherever it is", async () => {
	using folder = new TemporaryFolder();
	const path = join(folder.path, "a.json");
	for (const levels of [201, 10_000, 1_000_000]) {
		for (const [open, close] of [["[", "]"], ['{"a":', "}"], ['[{"a":', "}]"]]) {
			const text = `{"x":${open.repeat(levels)}1${close.repeat(levels)}}`;
			writeFileSync(path, text);
			await refuses(
				"JSON",
				() => readJson(denoFile(path)),
				/it is nested too deep: more than 200 lists/,
			);
		}
	}
	// Brackets in texts are none, and 200 levels are allowed.
	const text = JSON.stringify({ a: "[".repeat(1000), 'b\\"{': 1 });
	assert.deepEqual(parsePythonJson(text), JSON.parse(text));
	const deep = "[".repeat(200) + "]".repeat(200);
	assert.deepEqual(parsePythonJson(deep), JSON.parse(deep));
});

Deno.test("headers of safetensors with endless shapes, numbers and nesting", async () => {
	using folder = new TemporaryFolder();
	const path = join(folder.path, "a.safetensors");
	const cases: [shape: string, message: RegExp | undefined][] = [
		["1,".repeat(63) + "1", undefined],
		["1,".repeat(64) + "1", /its header is damaged: it has a list of more than 64 items$/],
		["1,".repeat(5e6) + "1", /its header is damaged: it has a list of more than 64 items$/],
		["[".repeat(1e5), /its header is damaged: it is nested too deep/],
		["1".repeat(2e7), /tensor "a" has the shape \[Infinity\], not a list of whole numbers$/],
	];
	for (const [shape, message] of cases) {
		const text = `{"a":{"dtype":"U8","shape":[${shape}],"data_offsets":[0,1]}}`;
		const bytes = new Uint8Array(8 + text.length + 1);
		new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
		new TextEncoder().encodeInto(text, bytes.subarray(8));
		writeFileSync(path, bytes);
		const read = () => readHeader(denoFile(path));
		if (message) await refuses(shape.slice(0, 20), read, message);
		else assert.equal(read().tensors.size, 1);
	}
});

Deno.test("numbers of config.json and quantization_config outside their ranges", async () => {
	using place = new Workplace({ layers: 1 });
	await place.run({ stages: ["download", { rtn: { bits: 4, "group-size": 32 } }, "pack"] });
	const folder = place.path("x");
	const HUGE = [2 ** 31, 2 ** 32, 2 ** 40, 2 ** 53 - 1, 1e300];
	const sizes = [
		"num_hidden_layers",
		"hidden_size",
		"intermediate_size",
		"num_attention_heads",
		"num_key_value_heads",
		"head_dim",
		"vocab_size",
		"max_position_embeddings",
	];
	const changes: [string, (config: Json) => void][] = [
		...sizes.flatMap((key) =>
			[...HUGE, 0, -1, 0.5].map((value): [string, (config: Json) => void] => [
				`${key} = ${value}`,
				(config) => config[key] = value,
			])
		),
		...sizes.filter((key) => !/positions?_|max_/.test(key)).map((
			key,
		): [string, (config: Json) => void] => [
			`twice the ${key}`,
			(config) =>
				config[key] = 2 * (config[key] ?? config.hidden_size / config.num_attention_heads),
		]),
		...[1e308, 1e-60, 0, -1].flatMap((value): [string, (config: Json) => void][] => [
			[`rms_norm_eps = ${value}`, (config) => config.rms_norm_eps = value],
			[`rope_theta = ${value}`, (config) => config.rope_parameters.rope_theta = value],
		]),
		["rope_theta = 0.5", (config) => config.rope_parameters.rope_theta = 0.5],
		...[...HUGE, 33].flatMap((value): [string, (config: Json) => void][] => [
			[`block_size = ${value}`, ({ quantization_config: q }) => q.block_size = value],
			[`columns = ${value}`, ({ quantization_config: q }) => {
				for (const name of Object.keys(q.columns)) q.columns[name] = value;
			}],
		]),
	];
	for (const from of [place.model, place.path("out/model")]) {
		rmSync(folder, { recursive: true, force: true });
		cpSync(from, folder, { recursive: true });
		const path = join(folder, "config.json");
		const text = readFileSync(path, "utf8");
		for (const [what, change] of changes) {
			const config = JSON.parse(text);
			// Query heads that are half as wide are a model, too.
			if (what === "twice the num_attention_heads") continue;
			if (/block_size|columns/.test(what) && !config.quantization_config) continue;
			change(config);
			writeFileSync(path, JSON.stringify(config));
			await refuses(what, () => {
				using files = ModelFiles.open(denoFolder(folder));
				requireTensors(files);
			}, /./);
		}
	}
});
