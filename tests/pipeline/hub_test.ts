// Whole runs with models and data sets from a hub on loopback.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { readText } from "../../data/texts.ts";
import { readTokenIds } from "../../data/windows.ts";
import { ARCHITECTURES } from "../../models/architectures/mod.ts";
import type { RunRecord } from "../../pipeline/run/record.ts";
import { LoopbackHub } from "../hub/loopback_hub.ts";
import { shardedFiles } from "../hub/sharded_files.ts";
import { contents, type MicroModelOptions, type StageItem, Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";

/** The supported model types, as messages list them. */
const MODEL_TYPES = Object.keys(ARCHITECTURES).sort().join(", ");

/** A workplace, a hub that holds its model as "someone/micro", and runs in processes of their own. */
class HubPlace implements AsyncDisposable {
	readonly hub = new LoopbackHub();
	readonly place: Workplace;
	readonly commit: string;

	constructor(options: MicroModelOptions = {}) {
		this.place = new Workplace({ layers: 2, ...options });
		this.commit = this.hub.add("model", "someone/micro", shardedFiles(this.place.model));
	}

	async quantize(
		fields: Record<string, unknown> & { stages?: StageItem[] },
		{ args = [], env = {} }: { args?: string[]; env?: Record<string, string> } = {},
	) {
		return await startTask("quantize", [this.place.pipeline(fields), ...args], {
			env: {
				HF_ENDPOINT: this.hub.url,
				HF_HOME: this.place.path("hf"),
				HF_HUB_OFFLINE: "",
				HF_TOKEN: "",
				...env,
			},
		});
	}

	record(output: string): RunRecord {
		return JSON.parse(readFileSync(this.place.path(output, "run.json"), "utf8"));
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.hub[Symbol.asyncDispose]();
		this.place[Symbol.dispose]();
	}
}

Deno.test("a model from the hub gives the bytes that it gives from its folder, and comes once", async () => {
	await using place = new HubPlace();
	const { hub, commit } = place;
	const folder = await place.quantize({ output: place.place.path("folder") });
	assert.deepEqual([folder.code, folder.stderr], [0, ""]);
	assert.equal(hub.requests.length, 0);

	const fromHub = { model: "someone/micro", output: place.place.path("hub") };
	const first = await place.quantize(fromHub);
	assert.deepEqual([first.code, first.stderr], [0, ""]);
	assert.deepEqual(
		contents(place.place.path("hub/model")),
		contents(place.place.path("folder/model")),
	);
	assert.match(first.stdout, /^download {3}someone\/micro: \d+\.\d kB downloaded, to /m);
	assert.match(
		first.stdout,
		new RegExp(`^download {3}someone/micro@${commit.slice(0, 7)}: llama, 2 layers, 64 wide$`, "m"),
	);
	assert.deepEqual(hub.transfers("model.onnx"), []);
	assert.equal(hub.transfers("model-00001-of-00003.safetensors").length, 1);

	const record = place.record("hub");
	assert.deepEqual(record.commits, { "someone/micro@main": commit });
	assert.equal(place.record("folder").commits, undefined);
	const names = Object.keys(record.inputs).filter((name) => name.startsWith("someone/micro/"));
	assert.ok(names.includes("someone/micro/config.json"));
	assert.ok(names.includes("someone/micro/model-00003-of-00003.safetensors"));

	const before = hub.requests.length;
	const second = await place.quantize(fromHub);
	assert.deepEqual([second.code, second.stderr], [0, ""]);
	assert.match(second.stdout, /^Nothing to do: /m);
	const routes = new Set(hub.requests.slice(before).map(({ route }) => route));
	assert.deepEqual([...routes].filter((route) => !["info", "tree"].includes(route)), []);

	// Neither a new home of the cache nor being offline makes it another run.
	const elsewhere = await place.quantize(fromHub, {
		env: { HF_HUB_CACHE: place.place.path("hf/hub"), HF_HOME: "/nowhere", HF_HUB_OFFLINE: "1" },
	});
	assert.match(elsewhere.stdout, /^Nothing to do: /m, elsewhere.stderr);
});

Deno.test("a revision is resolved to the commit that it names", async () => {
	await using place = new HubPlace({ layers: 1 });
	const files = shardedFiles(place.place.model);
	const older = place.hub.add("model", "someone/micro", { ...files, "new.md": "1" }, {
		revisions: ["v1"],
	});
	place.hub.add("model", "someone/micro", { ...files, "new.md": "2" });
	const stages = place.place.method.with(0, { download: { revision: older } });
	const run = await place.quantize({
		model: "someone/micro",
		stages,
		output: place.place.path("a"),
	});
	assert.deepEqual([run.code, run.stderr], [0, ""]);
	assert.deepEqual(place.record("a").commits, { [`someone/micro@${older}`]: older });
	const folder = await place.quantize({ stages, output: place.place.path("b") });
	assert.deepEqual([folder.code, folder.stderr], [
		1,
		`Error: The model "${place.place.model}" is a folder, so it has no revision "${older}"; ` +
		"leave download.revision out\n",
	]);
});

Deno.test("a name that is neither a folder nor on the hub is refused", async () => {
	await using place = new HubPlace({ layers: 1 });
	const { code, stderr } = await place.quantize({ model: "someone/mirco" });
	assert.equal(code, 1);
	assert.match(stderr, /^Error: Cannot download "someone\/mirco": /);
	assert.match(
		stderr,
		/; a folder "someone\/mirco" is not there either: it is neither in ".*\(.*\.yaml:2:\d+\)\n$/,
	);
	const offline = await place.quantize({ model: "someone/mirco" }, {
		env: { HF_HUB_OFFLINE: "1" },
	});
	assert.equal(offline.code, 1);
	assert.match(offline.stderr, /^Error: Cannot use "someone\/mirco" offline: /);
});

Deno.test("calibration and evaluation on C4 from the hub; token ids are reused", async () => {
	await using place = new HubPlace({ layers: 1 });
	const { hub } = place;
	const book = readText(join(import.meta.dirname!, "../../examples/text/calibration.txt.gz"));
	const lines = (from: number) =>
		Array.from({ length: 40 }, (_, i) => {
			const text = book.slice(from + 700 * i, from + 700 * i + (i % 3 ? 100 : 600));
			return JSON.stringify({ text, timestamp: "2019-04-25T12:57:54Z", url: "http://example.com" });
		}).join("\n") + "\n";
	hub.add("dataset", "allenai/c4", {
		"en/c4-train.00000-of-01024.json.gz": new Uint8Array(gzipSync(lines(0))),
		"en/c4-validation.00000-of-00008.json.gz": new Uint8Array(gzipSync(lines(50_000))),
		"en/c4-train.00001-of-01024.json.gz": new Uint8Array(gzipSync("{}")),
	});
	const stages: StageItem[] = place.place.method
		.with(1, place.place.calibrateWith({ dataset: "c4", samples: 6 }))
		.with(-1, place.place.evaluateWith({ dataset: "c4" }));
	const out = (name: string) => ({ stages, output: place.place.path(name) });
	const first = await place.quantize(out("first"));
	assert.deepEqual([first.code, first.stderr], [0, ""]);
	assert.match(first.stdout, /^calibrate {2}6 windows of 32 tokens of c4$/m);
	assert.deepEqual(hub.transfers("en/c4-train.00001-of-01024.json.gz"), []);
	const record = place.record("first");
	assert.deepEqual(Object.keys(record.commits!), ["allenai/c4@main"]);
	const inputs = Object.keys(record.inputs);
	assert.ok(inputs.includes("allenai/c4/en/c4-train.00000-of-01024.json.gz"));
	assert.ok(inputs.includes("allenai/c4/en/c4-validation.00000-of-00008.json.gz"));

	const saved = place.place.path("first/calibration.safetensors");
	assert.deepEqual(readTokenIds(saved).map((window) => window.length), new Array(6).fill(32));
	const reused = stages.with(1, place.place.calibrateWith({ dataset: saved, samples: 6 }));
	const second = await place.quantize({ stages: reused, output: place.place.path("second") });
	assert.deepEqual([second.code, second.stderr], [0, ""]);
	assert.deepEqual(
		contents(place.place.path("second/model")),
		contents(place.place.path("first/model")),
	);
});

Deno.test("a data set that cannot be had ends the run before the model is downloaded", async () => {
	await using place = new HubPlace({ layers: 1 });
	const stages = place.place.method.with(1, place.place.calibrateWith({ dataset: "ptb" }));
	const { code, stderr } = await place.quantize({ model: "someone/micro", stages });
	assert.equal(code, 1);
	assert.match(stderr, /^Error: Cannot download "ptb-text-only\/ptb_text_only": /);
	assert.deepEqual(place.hub.requests.filter(({ path }) => path?.endsWith(".safetensors")), []);
});

Deno.test("a model that cannot be used is refused before its weights are downloaded", async () => {
	await using place = new HubPlace({ layers: 1, config: { model_type: "mamba" } });
	const { code, stderr } = await place.quantize({ model: "someone/micro" });
	assert.deepEqual([code, stderr], [
		1,
		`Error: "someone/micro/config.json": model_type must be a supported one (${MODEL_TYPES}), ` +
		'found "mamba": its layers are state-space models (Mamba) without attention\n',
	]);
	assert.deepEqual(place.hub.requests.filter(({ path }) => path?.endsWith(".safetensors")), []);
});

Deno.test("texts as JSON lines and folders of texts calibrate and evaluate", async () => {
	await using place = new HubPlace({ layers: 1 });
	const { folder, calibration } = place.place;
	const text = readFileSync(calibration, "utf8");
	const rows = [text.slice(0, 1500), text.slice(1500)].map((text) => JSON.stringify({ text }));
	writeFileSync(join(folder, "rows.jsonl"), rows.join("\n") + "\n");
	const stages: StageItem[] = place.place.method
		.with(1, place.place.calibrateWith({ dataset: join(folder, "rows.jsonl") }))
		.with(-1, place.place.evaluateWith({ dataset: `${folder}/` }));
	const { code, stderr, stdout } = await place.quantize({ stages });
	assert.deepEqual([code, stderr], [0, ""]);
	assert.match(
		stdout,
		/^Perplexity {7}[\d.]+ -> [\d.]+ \([\d.]+ times, ln ratio [-+][\d.]+\) on .*\/; KL /m,
	);
});
