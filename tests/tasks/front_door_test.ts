import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { VERSION } from "../../base/version.ts";
import { namedStages } from "../../pipeline/config/recipes.ts";
import { STAGES } from "../../stages/mod.ts";
import { PROJECT } from "../checkout.ts";
import { Environment } from "../environment.ts";
import { LoopbackHub } from "../hub/loopback_hub.ts";
import { writeMicroModel } from "../micro_model.ts";
import { runInProcess } from "../run_in_process.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const { tasks } = JSON.parse(readFileSync(join(PROJECT, "deno.json"), "utf8"));

Deno.test("help lists each task once, and messages name the program as it was called", async () => {
	using _ = new Environment({ BILLM_COMMAND: "./billm", INIT_CWD: "" });
	const { code, stdout } = await runInProcess("billm", ["help"]);
	assert.equal(code, 0);
	const listed = [...stdout.matchAll(/^ {2}(\S+) {2,}\S/gm)].map(([, name]) => name);
	assert.deepEqual(listed.toSorted(), Object.keys(tasks).sort());
	assert.ok(listed.indexOf("quantize") < listed.indexOf("bench"));
	assert.doesNotMatch(stdout, /deno task/);
	const version = await runInProcess("billm", ["--version"]);
	assert.equal(version.stdout, `billm ${VERSION} (Deno ${Deno.version.deno})\n`);
	assert.match((await runInProcess("synth", ["--help"])).stdout, /^Usage: \.\/billm synth /);
	assert.match((await runInProcess("synth", [])).stderr, /^\.\/billm synth: /);
});

Deno.test("stages describes each stage with all its options", async () => {
	const { stdout: list } = await runInProcess("stages", []);
	for (const { name, scope, summary, options } of namedStages(STAGES)) {
		assert.ok(list.includes(`${name.padEnd(18)} once per ${scope.padEnd(7)} ${summary}\n`));
		const { stdout } = await runInProcess("stages", [name]);
		assert.ok(stdout.startsWith(`${name}: ${summary}\nRuns once per ${scope}\n`));
		for (const key of Object.keys(options.shape)) assert.ok(stdout.includes(`\n  ${key}: `), key);
	}
	const { stdout } = await runInProcess("stages", ["evaluate"]);
	assert.match(stdout, /\n {6}sequence-length: whole number from 2 up to 65535, default 2048\n/);
	assert.ok(
		stdout.split("\n").filter((line) => line.startsWith("    ")).every((line) =>
			line.length <= 100
		),
	);
});

Deno.test("init writes a file that runs, and replaces none unasked", async () => {
	using folder = new TemporaryFolder();
	const options = { cwd: folder.path, env: { HF_HUB_OFFLINE: "1", HF_HOME: folder.path } };
	writeMicroModel(join(folder.path, "A Model"), { layers: 1 });
	mkdirSync(join(folder.path, "files"));
	const first = await startTask("init", ["A Model", "files/a.yaml"], options);
	assert.equal(first.stderr, "");
	assert.match(first.stdout, /^Written: files\/a\.yaml\nRun it with: deno task quantize files/);
	const text = readFileSync(join(folder.path, "files/a.yaml"), "utf8");
	const { name, model, recipe, stages } = parse(text);
	assert.deepEqual([name, model, recipe], ["A-Model-2-bit", "../A Model", "2-bit"]);
	assert.equal(stages.calibrate["sequence-length"], 128, "as long as the model takes");
	const sets = ["stages.calibrate.samples=2", "stages.evaluate.perplexity.0.windows=2"]
		.flatMap((set) => ["--set", set]);
	const { code, stdout, stderr } = await startTask("quantize", ["files/a.yaml", ...sets], options);
	assert.equal(code, 0, stderr);
	assert.match(stdout, /^Try it {11}deno task generate out\/A-Model-2-bit --prompt/m);

	const again = await startTask("init", ["A Model", "files/a.yaml"], options);
	assert.deepEqual([again.code, again.stdout], [1, ""]);
	const other = ["A Model", "files/a.yaml", "--overwrite", "--recipe", "light"];
	assert.equal((await startTask("init", other, options)).code, 0);
	assert.match(readFileSync(join(folder.path, "files/a.yaml"), "utf8"), /^recipe: light$/m);
});

Deno.test("init asks the hub about a model of it", async () => {
	await using hub = new LoopbackHub();
	using folder = new TemporaryFolder();
	hub.addFolder("model", "some/model", writeMicroModel(join(folder.path, "m"), { layers: 3 }));
	const env = { HF_ENDPOINT: hub.url, HF_HOME: folder.path, HF_HUB_OFFLINE: "" };
	const options = { cwd: folder.path, env };
	const { stderr } = await startTask("init", ["some/model"], options);
	assert.equal(stderr, "");
	const text = readFileSync(join(folder.path, "model-2-bit.yaml"), "utf8");
	assert.match(text, /^# some\/model: llama, 3 layers, 64 wide\n/);
	assert.match(text, /\n {4}dataset: wikitext2\n/);
	const none = await startTask("init", ["some/other"], options);
	assert.deepEqual([none.code, none.stdout], [1, ""]);
	assert.match(none.stderr, /^Error: .*"some\/other"/);
});
