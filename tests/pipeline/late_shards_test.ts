// Runs with `download: { keep: false }`, on models from a hub on loopback.

import assert from "node:assert/strict";
import { existsSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LoopbackHub } from "../hub/loopback_hub.ts";
import { shardedFiles, shardFile } from "../hub/sharded_files.ts";
import {
	contents,
	LEFT,
	type MicroModelOptions,
	type StageItem,
	Workplace,
} from "../micro_model.ts";
import { Environment } from "../environment.ts";
import { normals } from "../reference/random.ts";
import { runInProcess } from "../run_in_process.ts";
import { startTask, type TaskOptions } from "../start_task.ts";

const SHARDS = 7;
const LAYERS = 5;

/**
 * The embedding in a shard of its own, then a shard for each layer, but the second half of layer 1 is
 * with layer 2; the final norm last.
 */
function shardOf(name: string): number {
	const layer = Number(/\.layers\.(\d+)\./.exec(name)?.[1] ?? NaN);
	if (layer === 1 && name.includes("mlp")) return 3;
	if (layer >= 0) return layer + 1;
	return name.includes("embed") ? 0 : SHARDS - 1;
}

/** The model of most tests. */
const micro = new Workplace({ layers: LAYERS });
Deno.test.afterAll(() => micro[Symbol.dispose]());

/** The packed models of runs without a hub, by their stages, which name the place of their texts. */
const wholes = new Map<string, Record<string, string>>();

let places = 0;

class Place implements AsyncDisposable {
	readonly hub = new LoopbackHub();
	readonly place: Workplace;
	/** The folder of what runs leave. */
	readonly folder: string;
	readonly output: string;

	constructor(options?: MicroModelOptions, shard = shardOf) {
		this.place = options ? new Workplace({ layers: LAYERS, ...options }) : micro;
		this.folder = this.place.path(`place-${places++}`);
		this.output = this.path("late");
		const files = shardedFiles(this.place.model, SHARDS, shard);
		const lfs = (path: string) => path.endsWith(".safetensors");
		this.hub.add("model", "someone/micro", files, { lfs });
	}

	path(...names: string[]): string {
		return join(this.folder, ...names);
	}

	stages(method: StageItem[] = this.place.method, keep = false): StageItem[] {
		return [{ download: { keep } }, ...method.slice(1)];
	}

	async quantize(
		stages = this.stages(),
		options: TaskOptions = {},
		output = this.output,
		name = "micro",
	) {
		const file = this.place.pipeline({ model: `someone/${name}`, stages, output });
		const env = {
			HF_ENDPOINT: this.hub.url,
			HF_HOME: this.path("hf"),
			HF_HUB_OFFLINE: "",
			HF_TOKEN: "",
			...options.env,
		};
		if (Object.keys(options).some((option) => option !== "env")) {
			return await startTask("quantize", [file], { ...options, env });
		}
		using _ = new Environment({ NO_COLOR: "1", INIT_CWD: "", ...env });
		return await runInProcess("quantize", [file]); // with kernels that are compiled already
	}

	/** Runs as without keep: false, from the folder. */
	async expected(stages = this.place.method): Promise<Record<string, string>> {
		const key = JSON.stringify(stages);
		let whole = wholes.get(key);
		if (whole) return whole;
		const output = this.path("whole");
		await this.place.run({ output, stages });
		whole = contents(join(output, "model"));
		wholes.set(key, whole);
		return whole;
	}

	get model(): Record<string, string> {
		return contents(join(this.output, "model"));
	}

	/** The names in the folder of shards; none without one. */
	get names(): string[] {
		const folder = join(this.output, "shards");
		try {
			return readdirSync(folder).sort();
		} catch {
			return []; // not there yet, or removed since
		}
	}

	/** How often the content of each shard was asked for, without headers. */
	get transfers(): number[] {
		return Array.from(
			{ length: SHARDS },
			(_, shard) =>
				this.hub.transfers(shardFile(shard, SHARDS)).filter(({ to }) => to === undefined).length,
		);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.hub[Symbol.asyncDispose]();
		if (this.place !== micro) this.place[Symbol.dispose]();
	}
}

/** The stages of a method that reads the model once. */
function quantizing({ place }: Place): StageItem[] {
	return place.method.slice(0, -1);
}

const HEAD = { shape: [4096, 64], values: normals(4096 * 64, 5, 0.1) };
const MODELS: Record<string, MicroModelOptions | undefined> = {
	llama: undefined,
	opt: { family: "opt" },
	"a head of its own": {
		config: { tie_word_embeddings: false },
		alter: (tensors) => void tensors.set("lm_head.weight", HEAD),
	},
};

for (const [what, options] of Object.entries(MODELS)) {
	Deno.test(`shards come when they are needed, and go: ${what}`, async () => {
		await using place = new Place(options);
		const expected = await place.expected();
		let most = 0;
		const seen = new Set<string>();
		const look = () => {
			most = Math.max(most, place.names.length);
			for (const name of place.names) seen.add(name);
		};
		place.hub.intercept = look;
		const timer = setInterval(look, 2);
		const { code, stdout, stderr } = await place.quantize();
		clearInterval(timer);
		assert.deepEqual([code, stderr], [0, ""]);
		assert.deepEqual(place.model, expected);
		// The embedding, the norm, and the two or three shards of two adjacent layers.
		assert.ok(most >= 3 && most <= 5, `${most} files at a time`);
		assert.match(
			stdout,
			/^download {3}someone\/micro: .* in 7 shards come when they are needed, /m,
		);
		assert.deepEqual(readdirSync(place.output).sort(), LEFT);
		const ours = /^(?:model-0000\d-of-00007\.safetensors|[0-9a-f]{64}(?:\.incomplete)?)$/;
		assert.ok([...seen].every((name) => ours.test(name)), [...seen].join());
		const shared = readdirSync(place.path("hf/hub"), { recursive: true }).map(String);
		assert.ok(!shared.some((path) => path.endsWith(".safetensors")));
		// What is read again: each layer by `evaluate`, three by the report; the ends stay.
		assert.deepEqual([place.transfers[0], place.transfers[6]], [1, 1]);
		assert.ok(place.transfers.every((count) => count <= 3), `${place.transfers}`);

		const [late, whole] = [place.output, place.path("whole")].map((folder) => {
			const text = (name: string) => Deno.readTextFileSync(join(folder, name));
			const { inputs, evaluation } = JSON.parse(text("run.json"));
			return { inputs, evaluation, histograms: text("histograms.json") };
		});
		assert.deepEqual([late.evaluation, late.histograms], [whole.evaluation, whole.histograms]);
		if (!options) {
			const kept = place.path("kept");
			const again = await place.quantize(place.stages(undefined, true), {}, kept);
			assert.deepEqual([again.code, again.stderr], [0, ""]);
			const { inputs } = JSON.parse(Deno.readTextFileSync(join(kept, "run.json")));
			assert.deepEqual(inputs, late.inputs);
			assert.deepEqual(contents(join(kept, "model")), expected);
		}

		const before = place.transfers;
		const third = await place.quantize();
		assert.match(third.stdout, /^Nothing to do: /m);
		assert.deepEqual(place.transfers, before);
	});
}

Deno.test("shards that the shared cache has are used from there and stay", async () => {
	await using place = new Place();
	const expected = await place.expected();
	const whole = await place.quantize(place.stages(undefined, true), {}, place.path("kept"));
	assert.equal(whole.code, 0, whole.stderr);
	assert.deepEqual(place.transfers, Array(SHARDS).fill(1));
	// Two of them go.
	const shared = place.path("hf/hub/models--someone--micro/snapshots");
	const [commit] = readdirSync(shared);
	for (const shard of [2, 4]) {
		const link = join(shared, commit, shardFile(shard, SHARDS));
		rmSync(Deno.realPathSync(link));
		rmSync(link);
	}
	const before = contents(place.path("hf"));
	const { code, stderr, stdout } = await place.quantize();
	assert.deepEqual([code, stderr], [0, ""]);
	assert.match(stdout, / in 2 shards come when they are needed, /);
	assert.deepEqual(place.model, expected);
	assert.deepEqual(contents(place.path("hf")), before);
	assert.deepEqual([0, 1, 3, 5, 6].map((shard) => place.transfers[shard]), Array(5).fill(1));
	assert.ok(place.transfers[2] > 1 && place.transfers[4] > 1, `${place.transfers}`);
});

Deno.test("a killed run does not fetch the shards of finished layers again", async () => {
	for (const moment of ["half a shard", "between layers"]) {
		await using place = new Place();
		const method = quantizing(place);
		const expected = await place.expected(method);
		let child: Deno.ChildProcess | undefined;
		if (moment === "half a shard") {
			place.hub.intercept = (request, reply) => {
				if (request.route !== "lfs" || request.to !== undefined) return;
				if (request.path !== shardFile(4, SHARDS) || request.from !== undefined) return;
				setTimeout(() => child!.kill("SIGKILL"), 3000); // layer 2, which is there, is done by then
				return { ...reply, stallAt: reply.body.length >> 1 };
			};
		}
		const killed = await place.quantize(place.stages(method), {
			onStart: (started) => child = started,
			onOutput(text, child) {
				if (moment === "between layers" && text.includes("layer 3/5")) child.kill("SIGKILL");
			},
		});
		assert.equal(killed.code, 137, killed.stdout + killed.stderr);
		const before = place.transfers;
		const partial = place.names.filter((name) => name.endsWith(".incomplete"));
		if (moment === "half a shard") assert.equal(partial.length, 1, `${place.names}`);
		place.hub.intercept = undefined;

		let atEnd: number[] | undefined; // before the report reads the model
		const { code, stderr, stdout } = await place.quantize(place.stages(method), {
			onOutput(text) {
				if (text.includes("layer 5/5")) atEnd ??= place.transfers;
			},
		});
		assert.deepEqual([code, stderr], [0, ""]);
		assert.match(stdout, /; resumes after layer 3, the last complete one/);
		assert.deepEqual(place.model, expected);
		assert.equal(place.transfers[0], 1, "the embedding is still there");
		const more = atEnd!.map((count, shard) => count - before[shard]);
		assert.deepEqual(more.slice(0, 4), [0, 0, 0, 0]);
		assert.ok(more.slice(4).every((count) => count <= 1), `${more}`);
		if (moment === "half a shard") {
			const resumed = place.hub.transfers(shardFile(4, SHARDS)).some(({ from }) => from! > 0);
			assert.ok(resumed, "the half that was there is not fetched again");
		}
	}
});

Deno.test("a shard that somebody removes or changes is an error, and the same command goes on", async () => {
	const changes: Record<string, (path: string) => void> = {
		removed: (path) => rmSync(path),
		changed: (path) => truncateSync(path, 100),
		replaced: (path) => writeFileSync(path, "something else"),
	};
	for (const [what, change] of Object.entries(changes)) {
		await using place = new Place();
		const method = quantizing(place);
		const expected = await place.expected(method);
		const path = join(place.output, "shards", shardFile(0, SHARDS));
		let isDone = false;
		const { code, stderr } = await place.quantize(place.stages(method), {
			onOutput(text) {
				if (isDone || !text.includes("layer 2/5")) return;
				isDone = true;
				change(path);
			},
		});
		assert.equal(code, 1, what);
		const message = what === "removed" ? "was removed" : "was changed";
		assert.ok(stderr.startsWith(`Error: "${path}" ${message} during the run, `), stderr);
		const again = await place.quantize(place.stages(method));
		assert.equal(again.code, 0, again.stderr);
		assert.match(again.stdout, /; resumes after layer [23], the last complete one/);
		assert.deepEqual(place.model, expected, what);
		assert.equal(place.transfers[0], 2, what);
	}
});

Deno.test("the next shard is on its way during the first of the layers before it", async () => {
	// Layers 0 to 2 in a shard, the others in the next one.
	await using place = new Place(undefined, (name) => {
		const layer = Number(/\.layers\.(\d+)\./.exec(name)?.[1] ?? NaN);
		return layer >= 3 ? 2 : layer >= 0 ? 1 : 0;
	});
	const stages = place.stages(quantizing(place));
	let after: number[] | undefined;
	const { code, stderr } = await place.quantize(stages, {
		onOutput(text) {
			if (text.includes("layer 1/5")) after ??= place.transfers;
		},
	});
	assert.deepEqual([code, stderr], [0, ""]);
	assert.deepEqual(after, [1, 1, 1, 0, 0, 0, 0]);
});

Deno.test("allocate, which reads the whole model before, gives the same", async () => {
	await using place = new Place();
	const [, calibrate] = place.place.method;
	const stages: StageItem[] = [
		"download",
		calibrate,
		{ allocate: { "target-bits": 6, windows: 1, mode: "cheap", candidates: [2, 4] } },
		"hessian",
		{ gptq: { "group-size": 32 } },
		"pack",
	];
	const expected = await place.expected(stages);
	const { code, stderr } = await place.quantize(place.stages(stages));
	assert.deepEqual([code, stderr], [0, ""]);
	assert.deepEqual(place.model, expected);
});

Deno.test("a run with refit-norm and propagate-error, which read the original again, is the same", async () => {
	await using place = new Place();
	const method = quantizing(place);
	const with2 = method.flatMap((stage): StageItem[] =>
		stage === "hessian"
			? [stage, "propagate-error"]
			: stage === "pack"
			? ["refit-norm", stage]
			: [stage]
	);
	const expected = await place.expected(with2);
	const killed = await place.quantize(place.stages(with2), {
		onOutput(text, child) {
			if (text.includes("layer 2/5")) child.kill("SIGKILL");
		},
	});
	assert.equal(killed.code, 137, killed.stderr);
	const { code, stderr } = await place.quantize(place.stages(with2));
	assert.deepEqual([code, stderr], [0, ""]);
	assert.deepEqual(place.model, expected);
});

Deno.test("what cannot come shard by shard is refused before anything large is downloaded", async () => {
	await using place = new Place({ layers: 1 });
	const { hub } = place;
	const files = shardedFiles(place.place.model, SHARDS, shardOf);
	const shards = Object.keys(files).filter((name) => name.endsWith(".safetensors"));
	const others = Object.fromEntries(
		Object.entries(files).filter(([name]) => !name.includes(".safetensors")),
	);
	const index = files["model.safetensors.index.json"] as string;
	const lfs = (path: string) => path.endsWith(".safetensors");
	const renamed = Object.fromEntries(
		Object.entries(files).map(([name, content]) => [name.replace(/^model-/, "part-"), content]),
	);
	const headers = {
		"too-long": new Uint8Array(3000).fill(255),
		"beyond-the-end": new Uint8Array([255, 255, 0, 0, 0, 0, 0, 0, 0]),
		"no-json": new Uint8Array([2, 0, 0, 0, 0, 0, 0, 0, 123, 123]),
		"empty": new Uint8Array(0),
		"short": new Uint8Array(5),
		"no-tensors": new Uint8Array([2, 0, 0, 0, 0, 0, 0, 0, 123, 125, 1, 1]),
	};
	const cases: [string, Record<string, Uint8Array | string>, RegExp, object?][] = [
		[
			"single",
			{ ...others, "model.safetensors": new Uint8Array(3000) },
			/its weights are the single file "model.safetensors"; leave download.keep out/,
		],
		[
			"pytorch",
			{ ...others, "pytorch_model.bin": new Uint8Array(3000) },
			/its weights are the single file "pytorch_model.bin"; leave download.keep out/,
		],
		[
			"pytorch-shards",
			{
				...others,
				"pytorch_model.bin.index.json": index.replaceAll(".safetensors", ".bin"),
				"pytorch_model-00001-of-00007.bin": new Uint8Array(3000),
			},
			/its weights are files of PyTorch; leave download.keep out/,
		],
		[
			"names",
			{ ...renamed, "model.safetensors.index.json": index.replaceAll('"model-', '"part-') },
			/"part-00001-of-00007.safetensors" is not named like "model-00001-of-00002.safetensors"/,
		],
		["hashes", files, /is listed without its SHA-256/, { lfs: () => false }],
		...Object.entries(headers).map(([what, bytes]): typeof cases[0] => [
			what,
			{ ...files, [shards[1]]: bytes },
			/Cannot read ".*shards\/model-00002-of-00007.safetensors": /,
		]),
	];
	for (const [name, content, message, options = { lfs }] of cases) {
		hub.add("model", `someone/${name}`, content, options);
		const output = place.path(name);
		const { code, stderr } = await place.quantize(undefined, {}, output, name);
		assert.equal(code, 1, name);
		assert.match(stderr, message);
		assert.match(stderr, /^Error: [^\n]+\n$/, "one line");
		assert.ok(!existsSync(output), name);
	}
	const whole = hub.requests.filter(({ path, route, to }) =>
		/\d\.(?:safetensors|bin)$/.test(path ?? "") && ["lfs", "resolve-cache"].includes(route) &&
		to === undefined
	);
	assert.deepEqual(whole, []);

	// A tied head that is there nevertheless may differ from the embedding.
	await using tied = new Place({
		layers: 1,
		alter: (tensors) => void tensors.set("lm_head.weight", HEAD),
	});
	const { code, stderr } = await tied.quantize();
	assert.equal(code, 1);
	assert.match(
		stderr,
		/^Error: Cannot tell whether "lm_head.weight" of .* leave download.keep out\n$/,
	);
	assert.deepEqual(tied.transfers, Array(SHARDS).fill(0));

	await assert.rejects(
		place.place.run({ stages: place.stages() }),
		/is a folder, of which nothing is downloaded or removed; leave download.keep out/,
	);
});

Deno.test({
	name: "a disk that fills up ends a run with a clear error, and the same command goes on",
	ignore: Deno.build.os === "windows",
	fn: async () => {
		// The last layer's shard is twice as large as any other one.
		await using place = new Place({ layers: 3, intermediate: 2400 }, (name) => {
			const layer = Number(/\.layers\.(\d+)\./.exec(name)?.[1] ?? NaN);
			if (layer === 2) return 5;
			return layer >= 0 ? 1 + 2 * layer + Number(/gate_proj|up_proj/.test(name)) : 0;
		});
		const method = quantizing(place);
		const expected = await place.expected(method);
		const stopped = await place.quantize(place.stages(method), { mostBytes: 700_000 });
		assert.equal(stopped.code, 1, stopped.stdout);
		assert.match(
			stopped.stderr,
			/^Error: Cannot write ".*late\/shards\/[0-9a-f]{64}\.incomplete": files may not be that large here; make room, or choose as output a folder on a larger disk, and run the same command again: it resumes where it stopped\n$/,
		);
		const again = await place.quantize(place.stages(method));
		assert.deepEqual([again.code, again.stderr], [0, ""]);
		assert.match(again.stdout, /; resumes after layer 2, the last complete one/);
		assert.deepEqual(place.model, expected);
		const content = place.hub.transfers(shardFile(5, SHARDS)).filter(({ to }) => to === undefined);
		assert.ok(content.some(({ from }) => from! > 600_000), "what was there is not fetched again");
	},
});
