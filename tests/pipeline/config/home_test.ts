import assert from "node:assert/strict";
import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { loadGrid } from "../../../pipeline/grid/load_grid.ts";
import { RECIPES, STAGES } from "../../../stages/mod.ts";
import { inHome } from "../../../storage/home.ts";
import { Environment } from "../../environment.ts";
import { Workplace } from "../../micro_model.ts";
import { startTask } from "../../start_task.ts";

Deno.test("~ at the start of a path, alone or before a slash, is the home", () => {
	const cases: [string, string][] = [
		["~", "/home/kim"],
		["~/x", "/home/kim/x"],
		["~\\x", "/home/kim\\x"],
		["~kim/x", "~kim/x"],
		["a/~/x", "a/~/x"],
		["./~", "./~"],
		["", ""],
	];
	for (const [path, expected] of cases) assert.equal(inHome(path, "/home/kim"), expected);
	assert.equal(inHome("~/$&", "/$1"), "/$1/$&");
	assert.equal(inHome("~/x", null), "~/x");
});

Deno.test("all paths of pipeline files may begin with ~", async () => {
	using place = new Workplace({ layers: 1 });
	using _ = new Environment({ HOME: place.folder });
	const calibrate = place.calibrateWith({ dataset: "~/calibration.txt" });
	const evaluate = place.evaluateWith({ dataset: "~/evaluation.txt" });
	const stages = ["download", calibrate, "hessian", { gptq: { bits: 4 } }, "pack", evaluate];
	const { record } = await place.run({ model: "~/model", output: "~/tilde", stages });
	assert.equal(record.model, place.model);
	assert.ok(existsSync(place.path("tilde/run.json")) && !existsSync("~"));
	assert.equal(record.evaluation!.original[0].dataset, place.evaluation);

	// A module, a grid, sensitivities and zero-shot data.
	const modules: string[] = [];
	const importStage = (path: string) => {
		modules.push(path);
		return Promise.resolve({ ...STAGES.find(({ name }) => name === "download")!, name: "mine" });
	};
	const text = JSON.stringify({
		name: "a",
		model: "~/model",
		output: "~/grid",
		matrix: { seed: [1, 2] },
		stages: [
			{ use: "~/stage.ts" },
			calibrate,
			{ allocate: { "target-bits": 3, sensitivities: "~/s.json" } },
			"hessian",
			{ gptq: {} },
			{ evaluate: { "zero-shot": [{ task: "piqa", dataset: "~/piqa.jsonl" }] } },
		],
	});
	const options = { stages: STAGES, recipes: RECIPES, text, importStage };
	const { output, cells: [{ config }] } = await loadGrid("p.yaml", options);
	assert.equal(output, place.path("grid"));
	assert.ok(config.output.startsWith(place.path("grid")));
	assert.deepEqual(modules, [place.path("stage.ts")]);
	const optionsOf = (name: string) =>
		config.stages.find(({ stage }) => stage.name === name)!.options;
	assert.equal(optionsOf("allocate").sensitivities, place.path("s.json"));
	assert.equal(optionsOf("evaluate")["zero-shot"][0].dataset, place.path("piqa.jsonl"));
});

Deno.test("all paths in the arguments of tasks may begin with ~", async () => {
	using place = new Workplace({ layers: 1 });
	await place.run({ stages: ["download", { rtn: { bits: 4 } }, "pack", place.evaluate] });
	const info = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).output();
	const { denoDir } = JSON.parse(new TextDecoder().decode(info.stdout)); // else within the home
	const env = { HOME: place.folder, DENO_DIR: denoDir };
	const at = (name: string) => `~/${name}`;
	mkdirSync(place.path("pages"));
	const arguments_ = ["~/out", "--output=~/pages/a.html", "--markdown=~/pages/a.md"];
	const report = await startTask("report", arguments_, { env });
	assert.deepEqual([report.code, report.stderr], [0, ""]);
	assert.ok(existsSync(place.path("pages/a.html")) && existsSync(place.path("pages/a.md")));
	const plain = await startTask("dequantize", [at("out"), at("plain")], { env });
	assert.deepEqual([plain.code, plain.stderr], [0, ""]);
	assert.ok(existsSync(place.path("plain/config.json")));
	copyFileSync(place.pipeline(), place.path("p.yaml"));
	const check = ["~/p.yaml", "--set", "output=~/x", "--check"];
	const quantize = await startTask("quantize", check, { env });
	assert.equal(quantize.code, 0, quantize.stderr);
	assert.ok(quantize.stdout.includes(`output ${join(place.folder, "x")}`), quantize.stdout);
});
