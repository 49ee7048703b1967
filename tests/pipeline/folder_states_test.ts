// Any state of an output folder: refused, or made anew where it is the program's own; and what a finished run
// lacks is made again, or said.

import assert from "node:assert/strict";
import {
	cpSync,
	existsSync,
	mkdirSync,
	readFileSync,
	rmSync,
	symlinkSync,
	writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import type { RunEvent } from "../../pipeline/run/events.ts";
import { RunFolder } from "../../pipeline/run/run_folder.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";
import { endsWell } from "../mutations.ts";

const place = new Workplace({ layers: 2 });
globalThis.addEventListener("unload", () => place[Symbol.dispose]());

const stages: StageItem[] = [
	"download",
	place.calibrate,
	{ allocate: { "target-bits": 4.5, candidates: [2, 3, 4], windows: 2 } },
	"hessian",
	{ gptq: { bits: 3, "group-size": 32 } },
	"pack",
	place.evaluate,
];
const done = place.path("done");
const { record } = await place.run({ stages, output: done });

const half = place.path("half");
const controller = new AbortController();
const emit = ({ type }: RunEvent) => {
	if (type === "layer") controller.abort();
};
const interrupted = place.run({ stages, output: half }, { emit, signal: controller.signal });
await assert.rejects(interrupted, { name: "AbortError" });

const TEMPORARY = "123e4567-e89b-42d3-a456-426614174000.tmp";

/** What may be something else than the program has left there. */
const NAMES = [
	"run.json",
	"layers",
	"model",
	"run.lock",
	"cell.json",
	"report.html",
	"histograms.json",
	"pipeline.yaml",
	"calibration.safetensors",
	"sensitivities.json",
	"model/x.tmp",
	"model/config.json",
	"model/tokenizer.json",
	"model/model-00001-of-00003.safetensors",
	"model/model-00002-of-00003.safetensors",
	"model/model.safetensors.index.json",
	"layers/x.tmp",
	"layers/00000.json",
	"layers/00001.json",
	"run.json.tmp",
	`run.json.${TEMPORARY}`,
	`model/config.json.${TEMPORARY}`,
	`layers/00001.json.${TEMPORARY}`,
];

const KINDS: Record<string, (path: string) => void> = {
	"an empty folder": (path) => mkdirSync(path),
	"a folder with a file": (path) => {
		mkdirSync(path);
		writeFileSync(join(path, "precious"), "precious");
	},
	"a file": (path) => writeFileSync(path, "garbage"),
	"a broken link": (path) => symlinkSync("/nowhere/at/all", path),
	"a link to itself": (path) => symlinkSync(path, path),
};

/** A folder in which something else stands in the place of a file. */
function spoil(from: string | undefined, name: string, kind: string): string {
	const out = place.path("spoiled");
	rmSync(out, { recursive: true, force: true });
	if (from) cpSync(from, out, { recursive: true });
	const path = join(out, name);
	mkdirSync(dirname(path), { recursive: true });
	rmSync(path, { recursive: true, force: true });
	KINDS[kind](path);
	return out;
}

Deno.test("anything in the place of any file of a run is refused, or replaced where it is ours", async () => {
	for (const from of [done, half, undefined]) {
		for (const name of NAMES) {
			for (const kind of Object.keys(KINDS)) {
				const out = spoil(from, name, kind);
				for (const overwrite of [false, true]) {
					await endsWell(`${kind} as ${name} in ${from}`, () => {
						using folder = RunFolder.open(out, record, overwrite);
						if (folder.state === "done") return;
						folder.begin();
						folder.savePipeline("name: x");
						folder.saveRecord({ ...record, status: "running" });
					});
				}
				if (kind === "a folder with a file") {
					assert.equal(readFileSync(join(out, name, "precious"), "utf8"), "precious");
				}
			}
		}
	}
});

Deno.test("a run in such a folder ends in the same bytes, or is refused", async () => {
	const cases: [string | undefined, string, string][] = [
		[half, "layers/00000.json", "a folder with a file"],
		[half, "model/x.tmp", "a folder with a file"],
		[half, "model/model-00003-of-00003.safetensors", "an empty folder"],
		[half, "layers", "a file"],
		[half, "model", "a file"],
		[half, "calibration.safetensors", "a file"],
		[undefined, "run.lock", "a file"],
		[undefined, `run.json.${TEMPORARY}`, "a broken link"],
	];
	let ended = 0;
	for (const [from, name, kind] of cases) {
		const out = spoil(from, name, kind);
		const what = `${kind} as ${name}`;
		if (!await endsWell(what, () => place.run({ stages, output: out }))) continue;
		ended++;
		const { "x.tmp/precious": _, ...files } = contents(join(out, "model"));
		assert.deepEqual(files, contents(join(done, "model")), what);
	}
	assert.ok(ended >= 3, `${ended} ended`);
});

Deno.test("what a finished run lacks is made again, the same, or said", async () => {
	const made = ["calibration.safetensors", "histograms.json", "report.html", "pipeline.yaml"];
	const before = contents(done);
	for (const name of made) {
		for (const content of [undefined, "", "{}", '{"histograms":[5]}', "garbage"]) {
			// A page and a pipeline file are texts of any content, but have some.
			if (content && !/json|safetensors/.test(name)) continue;
			rmSync(join(done, name));
			if (content !== undefined) writeFileSync(join(done, name), content);
			const { events } = await place.run({ stages, output: done });
			assert.deepEqual(events.map(({ type }) => type).filter((type) => type !== "stage"), [
				"already-done",
			]);
			assert.ok(existsSync(join(done, name)), name);
			const after = contents(done);
			if (name === "pipeline.yaml") after[name] = before[name]; // the paths of this file
			assert.deepEqual(after, before, `${name}: ${content}`);
		}
	}
	const sensitivities = join(done, "sensitivities.json");
	const text = readFileSync(sensitivities, "utf8");
	rmSync(sensitivities);
	const { events } = await place.run({ stages, output: done });
	writeFileSync(sensitivities, text);
	assert.deepEqual(events.filter(({ type }) => type === "warning"), [{
		type: "warning",
		message:
			`"${sensitivities}" is gone, which the run had measured; --overwrite measures it again`,
	}]);
});
