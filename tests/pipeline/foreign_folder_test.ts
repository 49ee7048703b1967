// Folders of others are left alone, whatever they hold; of a run's own folder only its files go.

import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { RunEvent } from "../../pipeline/run/events.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";

const place = new Workplace({ layers: 2 });
globalThis.addEventListener("unload", () => place[Symbol.dispose]());

const stages: StageItem[] = ["download", { rtn: { bits: 4 } }, "pack", place.evaluate];
await place.run({ stages, output: place.path("done") });

/** The folder of a run that was interrupted after its first layer. */
async function interrupt(): Promise<void> {
	const controller = new AbortController();
	const emit = ({ type }: RunEvent) => {
		if (type === "layer") controller.abort();
	};
	const { signal } = controller;
	await assert.rejects(place.run({ stages, output: place.path("half") }, { emit, signal }));
}
await interrupt();

// deno-lint-ignore no-explicit-any -- JSON of any form
type Json = any;

function recordOf(folder: string): Json {
	return JSON.parse(readFileSync(place.path(folder, "run.json"), "utf8"));
}

/** What other programs, or a hand, may have left as run.json. */
function foreignRecords(): [string, string][] {
	const texts: [string, string][] = [
		["a job of others", '{"status":"running","job":42}'],
		["a list", "[]"],
		["nothing", ""],
		["null", "null"],
		["a number", "3"],
		["no JSON", "status: running"],
		["a status", '{"status":"running"}'],
		["an identity that is no hash", JSON.stringify({ ...recordOf("half"), identity: "x" })],
		["stages of another form", JSON.stringify({ ...recordOf("half"), stages: ["download"] })],
		["no stages", JSON.stringify({ ...recordOf("half"), stages: [] })],
		["inputs of another form", JSON.stringify({ ...recordOf("half"), inputs: { a: 1 } })],
		["files outside", JSON.stringify(withFile(recordOf("done"), "../../evaluation.txt"))],
	];
	for (
		const key of [
			"status",
			"identity",
			"billm",
			"name",
			"model",
			"mode",
			"seed",
			"stages",
			"inputs",
			"started",
		]
	) {
		for (const state of ["half", "done"]) {
			const { [key]: _, ...rest } = recordOf(state);
			texts.push([`the record of a ${state} run without ${key}`, JSON.stringify(rest)]);
			const other = { ...rest, [key]: key === "seed" ? "0" : null };
			texts.push([`a ${state} run with another kind of ${key}`, JSON.stringify(other)]);
		}
	}
	return texts;
}

function withFile(record: Json, name: string): Json {
	const { packed } = record;
	return {
		...record,
		packed: { ...packed, files: [...packed.files, { ...packed.files[0], name }] },
	};
}

/** What somebody may have in such a folder. */
const PRECIOUS = ["model/precious.bin", "layers/notes.txt", "model/config.json", "thesis.tex"];

Deno.test("a folder whose run.json is not that of a run keeps all its files", async () => {
	for (const [what, text] of foreignRecords()) {
		for (const overwrite of [false, true]) {
			const out = place.path(`foreign ${what}`);
			for (const name of PRECIOUS) {
				mkdirSync(dirname(join(out, name)), { recursive: true });
				writeFileSync(join(out, name), "precious");
			}
			writeFileSync(join(out, "run.json"), text);
			const before = contents(out);
			await assert.rejects(place.run({ stages, output: out }, { overwrite }), {
				name: "UserError",
				message: `The output folder "${out}" holds a run.json that is not that of a run of this ` +
					`program, or a damaged one; choose another output, or empty it`,
			}, what);
			assert.deepEqual(contents(out), before, what);
		}
	}
});

Deno.test("a folder without a run keeps all its files", async () => {
	for (const name of [...PRECIOUS, "x.tmp", "model/x.tmp", "layers/00000.json", "report.html"]) {
		const out = place.path(`holds ${name.replace("/", " ")}`);
		mkdirSync(dirname(join(out, name)), { recursive: true });
		writeFileSync(join(out, name), "precious");
		for (const overwrite of [false, true]) {
			await assert.rejects(place.run({ stages, output: out }, { overwrite }), {
				name: "UserError",
				message:
					`The output folder "${out}" is not empty and holds no run; choose another output, ` +
					`or empty it`,
			});
			assert.deepEqual(Object.keys(contents(out)), [name]);
		}
	}
});

for (const state of ["half", "done"]) {
	Deno.test(`files of others in the folder of a ${state} run outlive it`, async () => {
		const out = place.path(`shared ${state}`);
		cpSync(place.path(state), out, { recursive: true });
		const others = [
			"thesis.tex",
			"x.tmp",
			"model/README.md",
			"model/x.tmp",
			"model/notes/a.txt",
			"model/adapter.safetensors",
			"layers/notes.txt",
			"report.html.bak",
		];
		for (const name of others) {
			mkdirSync(dirname(join(out, name)), { recursive: true });
			writeFileSync(join(out, name), "precious");
		}
		const other = stages.with(1, { rtn: { bits: 3 } });
		await assert.rejects(place.run({ stages: other, output: out }), /holds a different run/);
		await place.run({ stages: other, output: out }, { overwrite: true });
		for (const name of others) assert.equal(readFileSync(join(out, name), "utf8"), "precious");
		const record = JSON.parse(readFileSync(join(out, "run.json"), "utf8"));
		assert.equal(record.stages[1].options.bits, 3);
		// The same again and again, which also tidies up.
		await place.run({ stages: other, output: out });
		for (const name of others) assert.equal(readFileSync(join(out, name), "utf8"), "precious");
	});
}

Deno.test("links in the place of a run's folders are not followed", async () => {
	for (const name of ["model", "layers"]) {
		const out = place.path(`linked ${name}`);
		cpSync(place.path("half"), out, { recursive: true });
		const elsewhere = place.path(`elsewhere ${name}`);
		cpSync(join(out, name), elsewhere, { recursive: true });
		const before = contents(elsewhere);
		Deno.removeSync(join(out, name), { recursive: true });
		symlinkSync(elsewhere, join(out, name));
		for (const seed of [0, 1]) {
			await assert.rejects(place.run({ stages, seed, output: out }, { overwrite: true }), {
				name: "UserError",
				message: `Cannot write to "${join(out, name)}": it is a symbolic link; remove it, or ` +
					`choose another output`,
			});
		}
		assert.deepEqual(contents(elsewhere), before);
	}
});

Deno.test("links in the place of a run's files are replaced, and what they lead to is kept", async () => {
	const out = place.path("linked files");
	cpSync(place.path("half"), out, { recursive: true });
	const victim = place.path("victim");
	writeFileSync(victim, "precious");
	const names = [
		"report.html",
		"histograms.json",
		"pipeline.yaml",
		"run.json.tmp",
		"report.html.tmp",
		"model/config.json",
		"model/tokenizer.json",
		"model/model-00001-of-00003.safetensors",
		"model/model-00003-of-00003.safetensors",
		"model/model-00003-of-00003.safetensors.tmp",
		"layers/00001.json",
		"layers/00001.json.tmp",
	];
	for (const name of names) {
		if (existsSync(join(out, name))) Deno.removeSync(join(out, name));
		symlinkSync(victim, join(out, name));
	}
	await place.run({ stages, output: out });
	assert.equal(readFileSync(victim, "utf8"), "precious");
	assert.deepEqual(contents(join(out, "model")), contents(place.path("done/model")));
});
