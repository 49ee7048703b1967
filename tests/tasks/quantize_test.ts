import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { RECIPES, STAGES } from "../../stages/mod.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";
import { runInProcess } from "../run_in_process.ts";
import { startTask } from "../start_task.ts";

const quantize = (args: string[], options = {}) => startTask("quantize", args, options);

Deno.test("quantize --help prints the usage, the recipes and the stages", async () => {
	for (const option of ["--help", "-h"]) {
		const { code, stdout, stderr } = await quantize([option]);
		assert.deepEqual([code, stderr], [0, ""]);
		assert.match(stdout, /^Usage: deno task quantize PIPELINE\.yaml \[options\]\n/);
		for (
			const word of [
				"--set PATH=VALUE",
				"--cell CELL",
				"--check",
				"--json",
				"--overwrite",
				"--help",
			]
		) {
			assert.ok(stdout.includes(`\n  ${word} `), word);
		}
		const stages = STAGES.filter(({ completes }) => !completes);
		for (const { name, summary } of [...RECIPES, ...stages]) {
			assert.ok(stdout.includes(`\n  ${name.padEnd(18)} ${summary}\n`), name);
		}
	}
});

Deno.test("quantize --check prints the plan and makes nothing", async () => {
	using place = new Workplace({ layers: 1 });
	const file = place.pipeline();
	const out = place.path("out");
	const sets = ["--set", "stages.calibrate.samples=2", "--set", "mode=reference"];
	const { code, stdout, stderr } = await quantize([file, "--check", ...sets]);
	assert.deepEqual([code, stderr], [0, ""]);
	const needs = /^Needs: GPU memory .*; about \d+:\d\d to quantize\n/m;
	assert.match(stdout, needs);
	assert.equal(
		stdout.replace(needs, ""),
		`${file} is valid (model and data not checked).
name micro, model ${place.model}, output ${out}, mode reference, seed 0
  once per model  download           
                    gives model-files
  once per model  calibrate          dataset: "${place.calibration}", samples: 2, ` +
			`sequence-length: 32, order: "layer", batch-tokens: 8192, activations: "f32"
                    takes model-files; gives calibration
  once per group  hessian            damping: 0.01
                    takes calibration; gives hessian, factor, column-costs, column-order, ` +
			`column-places, ordered-factor, ordered-costs
  once per block  salient-select     metric: "hessian", max-columns: 49, norm: "l1", search: "saliency"
                    takes calibration, column-costs; gives salient-columns, saliency
  once per block  residual-binarize  planes: 2
                    takes salient-columns; gives salient-fit
  once per block  split-search       candidates: 9, search: "saliency"
                    takes calibration, saliency; gives zones, zone-fits
  once per block  compensate         block-size: 32, feedback: "block", assign: "fit"
                    takes factor; gives block-error
  once per group  pack               scales: "f16", flags: "plain", embeddings: "stored"
                    takes model-files; gives packed-model
  once per model  evaluate           perplexity: ` +
			`[{"dataset":"${place.evaluation}","sequence-length":32,"windows":4,"kl-windows":16}], ` +
			`original: true, cache: false, sample: false, batch-tokens: 8192
                    takes model-files; gives evaluation
Size: not known before the run with these stages
`,
	);
	assert.equal(existsSync(out), false);

	const json = await quantize([file, "--check", "--json"]);
	const plan = JSON.parse(json.stdout);
	assert.deepEqual(
		[plan.name, plan.model, plan.output, plan.mode, plan.seed],
		["micro", place.model, out, "default", 0],
	);
	assert.deepEqual(plan.stages[1], {
		name: "calibrate",
		scope: "model",
		options: {
			dataset: place.calibration,
			samples: 4,
			"sequence-length": 32,
			order: "module",
			"batch-tokens": 8192,
			"activations": "f32",
		},
	});
});

Deno.test("quantize --check prints the size to be expected", async () => {
	using place = new Workplace({ layers: 2 });
	const sizeOf = async (quantizer: StageItem, ...more: StageItem[]) => {
		const stages = ["download", place.calibrate, ...more, "hessian", quantizer, "pack"];
		const { stdout, stderr } = await quantize([place.pipeline({ stages }), "--check"]);
		assert.equal(stderr, "");
		return stdout.split("\n").find((line) => line.startsWith("Size"))!;
	};
	const line = await sizeOf({ gptq: { bits: 3, "group-size": 32 } });
	assert.match(line, /^Size: weight files of 3\d\d\.\d kB at most, 5\.\d\d bits per weight of/);
	const { record } = await place.run({
		stages: ["download", place.calibrate, "hessian", {
			gptq: { bits: 3, "group-size": 32 },
		}, "pack"],
	});
	const [, expected] = line.match(/files of ([\d.]+) kB/)!;
	const share = record.packed!.bytes / 1000 / Number(expected);
	assert.ok(share <= 1.0005 && share > 0.97, `${share}`);
	const range = await sizeOf({ gptq: { "group-size": 32 } }, { allocate: { "target-bits": 5 } });
	assert.match(range, /^Size: .* kB to .* kB at most, 3\.\d\d to 5\.00 bits per weight/);
	const file = place.pipeline({ model: "somebody/somewhere" });
	assert.match(
		(await quantize([file, "--check"])).stdout,
		/Not there now: model "somebody\/somewhere" .*, so it is sought on the hub\nSize: known once the model is there\n$/,
	);
});

Deno.test("quantize --bits runs a recipe without a file", async () => {
	using place = new Workplace({ layers: 1, intermediate: 128 });
	const { code, stdout, stderr } = await quantize([place.model, "--bits", "2", "--check"]);
	assert.deepEqual([code, stderr], [0, ""]);
	assert.ok(stdout.startsWith(
		`${place.model} --bits 2 is valid (model and data not checked).
name model-2-bit, model ${place.model}, output out/model-2-bit, mode default, seed 0, recipe 2-bit
`,
	));
	assert.match(stdout, /calibrate +dataset: "wikitext2", samples: 128, sequence-length: 128/);
	assert.match(
		stdout,
		/trellis +bits: 2,.*\n.*\n.*pack .*embeddings: 8\n.*\n.*evaluate .*"wikitext2"/,
	);
	const unless = await quantize([place.model, "--check"]);
	const plan = (text: string) => text.replace(/^Needs.*/m, "");
	assert.equal(plan(unless.stdout), plan(stdout), "2 bits unless told");
	const hub = await quantize(["someone/A Model", "--bits=1.6", "--check"]);
	assert.match(
		hub.stdout,
		/^name A-Model-1\.6-bit, model someone\/A Model, output out\/A-Model-1\.6/m,
	);
	assert.match(hub.stdout, /sequence-length: 2048.*\n.*\n.*allocate +target-bits: 1\.62/);

	const sets = [
		`output=${place.path("out")}`,
		`stages.calibrate={dataset: "${place.calibration}", samples: 2, sequence-length: 32}`,
		"stages.trellis.table=8",
		"stages.evaluate=false",
	].flatMap((set) => ["--set", set]);
	const run = await quantize([place.model, "--bits", "2", ...sets]);
	assert.equal(run.code, 0, run.stderr);
	assert.match(run.stdout, /Stored bits +2\.\d\d|Stored bits +3\.\d\d/);
});

Deno.test("quantize --check prints the chain of a recipe with its name", async () => {
	using place = new Workplace({ layers: 1 });
	const file = place.pipeline({ recipe: "rtn", stages: { download: {} } });
	const { code, stdout, stderr } = await quantize([file, "--check", "--set", "stages.rtn.bits=2"]);
	assert.deepEqual([code, stderr], [0, ""]);
	assert.match(stdout, /, mode default, seed 0, recipe rtn\n {2}once per model {2}download /);
	assert.match(stdout, /\n {2}once per linear rtn +bits: 2, group-size: 128/);

	const json = await quantize([file, "--check", "--json", "--set", "recipe=light"]);
	assert.equal(json.code, 2);
	assert.match(
		json.stderr,
		/:3:1: calibrate lacks "dataset"|recipe=light: calibrate lacks "dataset"/,
	);
	const plan = JSON.parse((await quantize([file, "--check", "--json"])).stdout);
	assert.equal(plan.recipe, "rtn");
	assert.deepEqual(
		plan.stages.map(({ name }: { name: string }) => name),
		["download", "rtn", "pack"],
	);
});

Deno.test("the example pipelines are good, and say what they download and need", async () => {
	const project = join(import.meta.dirname!, "../..");
	const examples = ["", "baselines"].flatMap((folder) =>
		readdirSync(join(project, "examples", folder)).map((name) => join(folder, name))
	).filter((name) => name.endsWith(".yaml"));
	assert.ok(examples.length >= 16);
	for (const example of examples) {
		const path = join(project, "examples", example);
		const { code, stderr } = await runInProcess("quantize", [path, "--check"]);
		assert.deepEqual([code, stderr], [0, ""], example);
		const text = readFileSync(path, "utf8");
		if (/^ *model: \[?(examples|out)\//m.test(text)) continue;
		assert.match(
			text,
			/^# Download: [\d.]+ GB .*for the model.*, [\d.]+ [MG]B of (C4|WikiText-2)/m,
			example,
		);
		assert.match(text, /^# (GPU memory: [\d.]+ GB|Uses as much GPU memory as helps)/m, example);
	}
});

Deno.test("quantize takes paths from the folder that it is called in", async () => {
	using place = new Workplace({ layers: 1 });
	const file = place.pipeline({ model: "model", output: "relative" });
	const { code, stderr } = await quantize([basename(file), "--check"], {
		env: { INIT_CWD: place.folder },
	});
	assert.deepEqual([code, stderr], [0, ""]);
	const { INIT_CWD: _, ...env } = Deno.env.toObject();
	const project = join(import.meta.dirname!, "../..");
	const task = await new Deno.Command(Deno.execPath(), {
		args: ["task", "--cwd", project, "quantize", basename(file), "--check"],
		cwd: place.folder,
		env,
		clearEnv: true,
	}).output();
	const text = new TextDecoder().decode(task.stdout);
	assert.ok(text.startsWith(`${basename(file)} is valid (`), new TextDecoder().decode(task.stderr));
});

/** The keys of each kind of event. */
const KEYS: Record<string, string[]> = {
	start: ["name", "output", "adapter", "software", "resumedLayers"],
	stage: ["stage", "text"],
	progress: ["stage", "done", "total", "text"],
	linear: [
		"name",
		"rows",
		"cols",
		"relativeOutputError",
		"salientColumns",
		"highFraction",
		"paperBits",
		"storedBytes",
	],
	layer: [
		"layers",
		"layer",
		"seconds",
		"secondsByStage",
		"peakGpuBytes",
		"peakGpuBytesByStage",
		"file",
		"bytes",
		"sha256",
		"linears",
	],
	metric: ["stage", "name", "value", "text"],
	end: ["output", "seconds"],
	"already-done": ["output"],
	plan: ["steps"],
};

Deno.test("quantize --json prints one event to a line, the record last; --overwrite runs again", async () => {
	using place = new Workplace({ layers: 2 });
	const args = [place.pipeline(), "--json", "--set", "stages.calibrate.samples=2"];
	const run = async (...more: string[]) => {
		const { code, stdout, stderr } = await quantize([...args, ...more]);
		assert.deepEqual([code, stderr], [0, ""]);
		const lines = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
		const { type, ...record } = lines.pop();
		assert.equal(type, "record");
		assert.deepEqual(record, JSON.parse(readFileSync(place.path("out/run.json"), "utf8")));
		for (const { type, ...event } of lines) {
			assert.deepEqual(Object.keys(event).sort(), KEYS[type].toSorted(), type);
		}
		return { types: lines.map(({ type }) => type), record };
	};
	const { types, record } = await run();
	assert.deepEqual([...types.slice(0, 3), types.at(-1)], ["stage", "stage", "start", "end"]);
	for (const type of ["progress", "linear", "layer", "metric"]) assert.ok(types.includes(type));
	assert.equal(record.stages[1].options.samples, 2);
	assert.match(readFileSync(place.path("out/pipeline.yaml"), "utf8"), /"samples": 2,/);
	const files = contents(place.path("out/model"));

	assert.deepEqual((await run()).types, ["stage", "already-done"]);
	assert.equal((await run("--overwrite")).types.at(-1), "end");
	assert.deepEqual(contents(place.path("out/model")), files);
	const other = await run("--overwrite", "--set", "seed=1");
	assert.equal(other.record.seed, 1);
});

Deno.test("quantize prints plain lines where there is no terminal, and a summary", async () => {
	using place = new Workplace({ layers: 2 });
	const file = place.pipeline();
	const first = await quantize([file]);
	assert.deepEqual([first.code, first.stderr], [0, ""]);
	assert.ok(!first.stdout.includes("\x1b") && !first.stdout.includes("\r"));
	const record = JSON.parse(readFileSync(place.path("out/run.json"), "utf8"));
	const [before] = record.evaluation.original;
	const [after] = record.evaluation.packed;
	const ratio = (after.loss > before.loss ? "+" : "") + (after.loss - before.loss).toFixed(3);
	const agreement = `${(100 * after.divergence.agreement).toFixed(2)} %`;
	const on = `on ${place.evaluation}, 4 windows of 32 tokens`;
	const shape = (text: string) =>
		text.replace(/\d+\.\d s$/gm, "S s").replace(/output error [\d.]+ %/g, "output error E %")
			.replace(/, \d+:\d\d left/g, "").replace(/^Done in \d+:\d\d/m, "Done in T");
	const bytes = (count: number) => `${(count / 1000).toFixed(1)} kB`;
	const steps = (model: string) =>
		[33, 66, 100].map((percent) => `evaluate   ${percent} %  ${model}, ${place.evaluation}`);
	const summary = [
		"",
		`Size             ${bytes(record.packed.bytes)} in total, ` +
		`${(100 * record.packed.bytes / record.packed.originalBytes).toFixed(1)} % of ` +
		`${bytes(record.packed.originalBytes)}, ` +
		`${(record.packed.originalBytes / record.packed.bytes).toFixed(1)} times smaller ` +
		"(embeddings and head in 8 bits)",
		`Paper bits       ${
			record.packed.paperBits.toFixed(2)
		} per weight of the linear layers (signs only)`,
		`Stored bits      ${record.packed.storedBits.toFixed(2)} per weight of the linear layers: ` +
		Object.entries(record.packed.storedBitsByPart)
			.map(([part, bits]) => `${part} ${(bits as number).toFixed(3)}`).join(", "),
		`Perplexity       ${before.perplexity.toFixed(2)} -> ${after.perplexity.toFixed(2)} ` +
		`(${
			(Math.exp(after.loss - before.loss)).toFixed(2)
		} times, ln ratio ${ratio}) on ${place.evaluation}; ` +
		`KL ${after.divergence.kl.toFixed(4)} nats, same top token ${agreement}`,
		`Peak GPU memory  ${(record.peakGpuBytes / 1e6).toFixed(1)} MB`,
		`Report           ${place.path("out/report.html")}`,
		`Try it           deno task generate ${
			place.path("out")
		} --prompt "Once upon a time" --temperature 0.8`,
		"",
	];
	const software = /A software adapter/.test(first.stdout)
		? ["  A software adapter: everything works, but slowly"]
		: [];
	const [found, needs, ...rest] = shape(first.stdout).split("\n");
	assert.match(needs, /^needs {6}GPU memory .*; about \d+:\d\d to quantize$/);
	assert.deepEqual([found, ...rest], [
		`download   ${place.model}: llama, 2 layers, 64 wide`,
		`Run "micro" on ${record.adapter}, into ${place.path("out")}`,
		...software,
		`calibrate  4 windows of 32 tokens of ${place.calibration}`,
		...record.layers.map((layer: { bytes: number }, i: number) =>
			`layer ${i + 1}/2  output error E %, ${bytes(layer.bytes)}, S s`
		),
		...steps("original model"),
		`evaluate   perplexity of the original model: ${before.perplexity.toFixed(2)} ${on}`,
		...steps("packed model"),
		`evaluate   100 %  packed model, ${place.evaluation}, KL divergence`,
		`evaluate   perplexity of the packed model: ${after.perplexity.toFixed(2)} ${on}`,
		`evaluate   ln ratio of the packed model: ${ratio} ${on}`,
		`evaluate   KL divergence of the packed model: ${after.divergence.kl.toFixed(4)} nats ${on}`,
		`evaluate   same top token of the packed model: ${agreement} ${on}`,
		`Done in T: ${place.path("out")}`,
		...summary,
	]);

	const again = await quantize([file]);
	assert.deepEqual([again.code, again.stderr], [0, ""]);
	assert.deepEqual(again.stdout.split("\n"), [
		`download   ${place.model}: llama, 2 layers, 64 wide`,
		`Nothing to do: ${place.path("out")} holds the finished run with the same options and ` +
		"inputs (--overwrite runs it again)",
		...summary,
	]);
});

Deno.test("quantize that only measures prints one perplexity", async () => {
	using place = new Workplace({ layers: 1 });
	const { code, stdout } = await quantize([
		place.pipeline({ stages: ["download", place.evaluate] }),
	]);
	assert.equal(code, 0);
	const record = JSON.parse(readFileSync(place.path("out/run.json"), "utf8"));
	const [{ perplexity }] = record.evaluation.original;
	const line = `Perplexity       ${perplexity.toFixed(2)} on ${place.evaluation}`;
	assert.ok(stdout.includes(`\n\n${line}\n`), stdout);
	assert.ok(!stdout.includes("Size"));
});
