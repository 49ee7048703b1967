// Files of models, runs and pipelines with any value at any place, and with damaged bytes: the right result,
// or one error for the user.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openGpu } from "../hosts/deno_gpu.ts";
import { generate, ResidentModel } from "../models/generation/generation.ts";
import { ModelFiles } from "../models/model_files.ts";
import { PlainWeights } from "../models/plain_weights.ts";
import { requireTensors } from "../models/required_tensors.ts";
import { TextTokenizer } from "../models/tokenizers/tokenizer.ts";
import type { RunEvent } from "../pipeline/run/events.ts";
import { RunFolder } from "../pipeline/run/run_folder.ts";
import { loadGrid } from "../pipeline/grid/load_grid.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { contents, type StageItem, Workplace } from "./micro_model.ts";
import { damaged, endsWell, type Json, mutationsOf } from "./mutations.ts";

const place = new Workplace({ layers: 2 });
globalThis.addEventListener("unload", () => place[Symbol.dispose]());

const stages: StageItem[] = [
	"download",
	{ rtn: { bits: 4, "group-size": 32 } },
	"pack",
	place.evaluate,
];
const { record: finished } = await place.run({ stages, output: place.path("done") });

/** The folder of a run that was interrupted after its first layer. */
const half = place.path("half");
const controller = new AbortController();
const emit = ({ type }: RunEvent) => {
	if (type === "layer") controller.abort();
};
await assert.rejects(
	place.run({ stages, output: half }, { emit, signal: controller.signal }),
	{ name: "AbortError" },
);

const packed = place.path("done", "model");
const work = place.path("work");

/** A fresh copy of a folder, to be spoiled. */
function copy(from: string): string {
	rmSync(work, { recursive: true, force: true });
	cpSync(from, work, { recursive: true });
	return work;
}

function readJson(...names: string[]): Json {
	return JSON.parse(readFileSync(join(...names), "utf8"));
}

/** The hash of all weights of a model as `dequantize` writes them. */
function weightsOf(folder: string): string {
	using files = ModelFiles.open(denoFolder(folder));
	requireTensors(files);
	using weights = PlainWeights.open(denoFolder(folder));
	const hash = createHash("sha256");
	for (const { name, shape } of weights.tensors.values()) {
		hash.update(JSON.stringify([name, shape]));
		for (const chunk of weights.chunks(name, 1 << 20)) {
			hash.update(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength));
		}
	}
	return hash.digest("hex");
}

Deno.test("packed shards with damaged bytes are refused", async () => {
	const folder = copy(packed);
	const right = weightsOf(folder);
	for (
		const name of Object.keys(contents(packed)).filter((name) => name.endsWith(".safetensors"))
	) {
		const path = join(folder, name);
		const bytes = readFileSync(path);
		const whole = new Uint8Array(bytes);
		for (const { what, bytes } of damaged(whole, 80)) {
			writeFileSync(path, bytes);
			const found = await endsWell(`${name}: ${what}`, () => weightsOf(folder));
			assert.ok(found === undefined || found === right, `${name}: ${what}`);
		}
		writeFileSync(path, whole);
	}
});

Deno.test("headers of packed shards with any value at any place are refused, or say the same", async () => {
	const folder = copy(packed);
	const right = weightsOf(folder);
	const [name] = Object.keys(contents(packed)).filter((name) => /00002-of/.test(name));
	const path = join(folder, name);
	const whole = new Uint8Array(readFileSync(path));
	const length = Number(new DataView(whole.buffer).getBigUint64(0, true));
	const header = JSON.parse(new TextDecoder().decode(whole.subarray(8, 8 + length)));
	for (const { what, text } of mutationsOf(header, 300)) {
		const changed = new TextEncoder().encode(text);
		const bytes = new Uint8Array(8 + changed.length + whole.length - 8 - length);
		new DataView(bytes.buffer).setBigUint64(0, BigInt(changed.length), true);
		bytes.set(changed, 8);
		bytes.set(whole.subarray(8 + length), 8 + changed.length);
		writeFileSync(path, bytes);
		const found = await endsWell(what, () => weightsOf(folder));
		assert.ok(found === undefined || found === right, what);
	}
});

Deno.test("config.json of a packed model with any value at any place", async () => {
	const folder = copy(packed);
	const path = join(folder, "config.json");
	const config = readJson(path);
	await using gpu = await openGpu();
	let ran = 0;
	let refused = 0;
	for (const { what, text } of mutationsOf(config, 260)) {
		writeFileSync(path, text);
		const found = await endsWell(what, async () => {
			weightsOf(folder);
			using files = ModelFiles.open(denoFolder(folder));
			using model = await ResidentModel.load(gpu, files);
			const ids: number[] = [];
			for await (const { id } of generate(model, { prompt: "The", maxTokens: 2 })) ids.push(id);
			return ids;
		});
		if (found) ran++;
		else refused++;
		for (const id of found ?? []) assert.ok(Number.isInteger(id) && id >= 0 && id < 4096, what);
	}
	assert.ok(ran > 20 && refused > 50, `${ran} ran, ${refused} were refused`);
});

Deno.test("tokenizer.json with any value at any place, and with damaged bytes", async () => {
	const folder = place.path("tokenizer");
	mkdirSync(folder, { recursive: true });
	for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
		cpSync(join(place.model, name), join(folder, name));
	}
	const path = join(folder, "tokenizer.json");
	const tokenizer = readJson(path);
	tokenizer.model.merges = tokenizer.model.merges.slice(0, 40);
	const whole = new TextEncoder().encode(JSON.stringify(tokenizer));
	const check = (what: string, bytes: string | Uint8Array) => {
		writeFileSync(path, bytes);
		return endsWell(what, () => {
			const loaded = TextTokenizer.load(denoFolder(folder));
			const ids = [...loaded.encode("The detective, 12 é\n")];
			assert.ok(ids.every((id) => Number.isInteger(id) && id >= 0), what);
			assert.equal(typeof loaded.decode(ids), "string");
		});
	};
	for (const { what, text } of mutationsOf(tokenizer, 300)) await check(what, text);
	for (const { what, bytes } of damaged(whole, 40)) await check(what, bytes);
});

Deno.test("records of layers of any content: those layers are done again", async () => {
	const folder = copy(half);
	const open = () => RunFolder.open(folder, readJson(half, "run.json"), false);
	const path = join(folder, "layers/00000.json");
	const original = readFileSync(path, "utf8");
	{
		using whole = open();
		assert.equal(whole.layers.length, 1);
	}
	const texts = ["", "null", "[]", "5", '"x"', "{}", '{"record":null}', "\0".repeat(100)];
	const mutations = [
		...texts.map((text) => ({ what: text, text })),
		...mutationsOf(JSON.parse(original), 200),
	];
	for (const { what, text } of mutations) {
		writeFileSync(path, text);
		await endsWell(what, () => {
			using run = open();
			assert.equal(run.state, "interrupted");
			// Keys in another order, or more of them beside the record, are no damage.
			const record = JSON.stringify(run.layers[0]);
			assert.ok([undefined, JSON.stringify(JSON.parse(original).record)].includes(record), what);
		});
	}
	// One of them to the end.
	writeFileSync(path, "null");
	const { events } = await place.run({ stages, output: folder });
	assert.equal(events.find((event) => event.type === "start")?.resumedLayers, 0);
	assert.deepEqual(contents(join(folder, "model")), contents(packed));
});

Deno.test("run.json of any content in the folder of a run: refused, or the same run", async () => {
	for (const from of [place.path("done"), half]) {
		const folder = copy(from);
		const planned = readJson(from, "run.json");
		const before = contents(folder);
		delete before["run.json"];
		for (const { what, text } of mutationsOf(planned, 120)) {
			writeFileSync(join(folder, "run.json"), text);
			await endsWell(what, () => {
				using _run = RunFolder.open(folder, planned, false);
			});
			const after = contents(folder);
			assert.equal(readFileSync(join(folder, "run.json"), "utf8"), text, what);
			for (const name of Object.keys(before)) {
				// The records of layers go with a run that is done.
				if (!name.startsWith("layers/")) {
					assert.equal(after[name], before[name], `${what}: ${name}`);
				}
			}
			if (from === half && !existsSync(join(folder, "layers"))) copy(from);
		}
	}
	assert.equal(finished.status, "done");
});

Deno.test("pipeline files with any value at any place, and with damaged bytes", async () => {
	const head = {
		name: "micro",
		model: "a/model",
		output: "out/x",
		mode: "default",
		gpu: { adapter: "auto", memory: "1GB" },
	};
	const perplexity = [{ dataset: "./b.txt", windows: 4 }];
	const list = [
		"download",
		{ calibrate: { dataset: "./a.txt", samples: 4, "sequence-length": 32 } },
		"hessian",
		{ gptq: { bits: 3, overrides: { "*.q_proj": { bits: 4 } }, skip: ["*.k_proj"] } },
		{ pack: { embeddings: 4 } },
		{ evaluate: { perplexity, "zero-shot": ["piqa"] } },
	];
	const matrix = { seed: [1, 2], include: [{ seed: 3 }], exclude: [{ seed: 1 }] };
	const options = {
		calibrate: { dataset: "./a.txt" },
		"refit-norm": false,
		evaluate: { perplexity },
	};
	const pipelines = [
		{ ...head, seed: 1, stages: list },
		{ ...head, stages: list, matrix },
		{ ...head, recipe: "2-bit", stages: options },
	];
	const check = (what: string, text: string) =>
		endsWell(what, () => loadGrid("p.yaml", { stages: STAGES, recipes: RECIPES, text }));
	let good = 0;
	for (const value of pipelines) {
		assert.ok(await check("nothing", JSON.stringify(value)));
		for (const { what, text } of mutationsOf(value, 200)) if (await check(what, text)) good++;
		const yaml = new TextEncoder().encode(JSON.stringify(value, null, 1));
		for (const { what, bytes } of damaged(yaml, 60)) {
			await check(what, new TextDecoder().decode(bytes));
		}
	}
	assert.ok(good > 10, `${good} are valid`);
});
