import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";

const quantize = (args: string[]) => startTask("quantize", args);

/** A grid of three cells that only measure; the second one fails. */
function gridFile(place: Workplace): string {
	const method = [
		{ name: "plain" },
		{ name: "broken", "stages.evaluate.perplexity": [{ dataset: "no-such-file.txt" }] },
		{ name: "seed", seed: 5 },
	];
	const stages = ["download", place.evaluateWith({ windows: 1 })];
	return place.pipeline({ stages, matrix: { method } });
}

Deno.test("quantize --check prints the cells of a grid, with --cell the plan of one", async () => {
	using place = new Workplace({ layers: 1 });
	const file = gridFile(place);
	const out = place.path("out");
	const { code, stdout, stderr } = await quantize([file, "--check"]);
	assert.deepEqual([code, stderr], [0, ""]);
	assert.equal(
		stdout,
		`${file} is valid (models and data not checked).
name micro, 3 cells, each into its folder in ${out}
  cell  name    values
  1/3   plain   method: plain
  2/3   broken  method: broken
  3/3   seed    method: seed
`,
	);
	const one = await quantize([file, "--check", "--cell", "3/3"]);
	assert.deepEqual([one.code, one.stderr], [0, ""]);
	assert.match(one.stdout, new RegExp(`output ${join(out, "seed")}, mode default, seed 5\n`));
	const json = await quantize([file, "--check", "--json", "--cell", "seed", "--cell", "1/3"]);
	const { name, output, count, cells } = JSON.parse(json.stdout);
	const plans = cells as { cell: string; index: number; values: unknown; plan: { seed: number } }[];
	assert.deepEqual([name, output, count], ["micro", out, 3]);
	assert.deepEqual(
		plans.map(({ cell, index, values, plan }) => [cell, index, values, plan.seed]),
		[
			["seed", 3, { method: "seed" }, 5],
			["plain", 1, { method: "plain" }, 0],
		],
	);
	assert.ok(!existsSync(out));
});

Deno.test("quantize runs a grid, says in a table which cell failed and why, and ends with code 1", async () => {
	using place = new Workplace({ layers: 1 });
	const file = gridFile(place);
	const { code, stdout, stderr } = await quantize([file]);
	assert.equal(code, 1);
	assert.equal(
		stderr,
		"Error: 1 of 3 cells failed; the same command retries unfinished cells\n",
	);
	const table = stdout.slice(stdout.lastIndexOf("\n\n") + 2).trimEnd().split("\n");
	assert.match(
		table[0],
		/^Cell +state +time +size +bits +perplexity +before +ln ratio +KL +same top$/,
	);
	const record = (cell: string) =>
		JSON.parse(readFileSync(place.path("out", cell, "run.json"), "utf8"));
	const perplexity = record("plain").evaluation.original[0].perplexity.toFixed(2);
	assert.match(table[1], new RegExp(`^plain +done +\\d+:\\d\\d +${perplexity} *$`));
	assert.match(table[2], /^broken +failed +.*"no-such-file\.txt"/);
	assert.match(table[3], /^seed +done /);
	assert.equal(table.length, 4);
	assert.equal(record("seed").seed, 5);

	const json = await quantize([file, "--json"]);
	assert.equal(json.code, 1);
	const events = json.stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
	const results = events.filter(({ type }) => type === "result");
	assert.deepEqual(results.map(({ record }) => record.status), ["done", "failed", "done"]);
	assert.deepEqual(results.map(({ run }) => run?.status), ["done", undefined, "done"]);
	assert.deepEqual(events.slice(-3), results);
});

Deno.test("quantize --cell runs one cell; a file without a matrix has one", async () => {
	using place = new Workplace({ layers: 1 });
	const file = gridFile(place);
	const done = await quantize([file, "--cell", "1/3"]);
	assert.deepEqual([done.code, done.stderr], [0, ""]);
	assert.match(done.stdout, /^Perplexity {7}[\d.]+ on /m);
	assert.ok(existsSync(place.path("out/plain/cell.json")));
	assert.ok(!existsSync(place.path("out/seed")) && !existsSync(place.path("out/broken")));
	const failed = await quantize([file, "--cell", "broken"]);
	assert.deepEqual(
		[failed.code, failed.stderr],
		[1, "Error: The cell failed; the same command retries unfinished cells\n"],
	);
	const wrong = await quantize([file, "--cell", "4/4"]);
	assert.deepEqual(
		[wrong.code, wrong.stdout, wrong.stderr],
		[2, "", "--cell 4/4: The grid has 3 cells, not 4; --check prints them\n"],
	);

	const single = place.pipeline({ stages: ["download"], output: place.path("single") });
	const { code, stderr } = await quantize([single, "--cell", "1/1"]);
	assert.deepEqual([code, stderr], [0, ""]);
	const cell = JSON.parse(readFileSync(place.path("single/micro/cell.json"), "utf8"));
	assert.deepEqual([cell.cell, cell.index, cell.cells, cell.status], ["micro", 1, 1, "done"]);
});

Deno.test("SIGINT ends a grid, not only the cell", async () => {
	using place = new Workplace({ layers: 2 });
	const file = place.pipeline({ stages: place.method.slice(0, -1), matrix: { seed: [1, 2] } });
	let sent = false;
	const { code, stderr } = await startTask("quantize", [file], {
		onOutput(text, child) {
			if (sent || !text.includes("layer 1/2")) return;
			sent = true;
			child.kill("SIGINT");
		},
	});
	assert.deepEqual(
		[code, stderr],
		[130, "\nInterrupted. The same command resumes where this one stopped.\n"],
	);
	assert.ok(
		!existsSync(place.path("out/seed-1/cell.json")) && !existsSync(place.path("out/seed-2")),
	);
});

Deno.test("matrix prints what strategy.matrix takes", async () => {
	using place = new Workplace({ layers: 1 });
	const file = gridFile(place);
	const matrix = (...args: string[]) => startTask("matrix", args);
	const { code, stdout, stderr } = await matrix(file);
	assert.deepEqual([code, stderr], [0, ""]);
	assert.equal(
		stdout,
		'{"include":[{"cell":"1/3","name":"plain","key":"plain"},{"cell":"2/3","name":"broken","key":"broken"},' +
			'{"cell":"3/3","name":"seed","key":"seed"}]}\n',
	);
	const one = await matrix(place.pipeline());
	assert.equal(one.stdout, '{"include":[{"cell":"1/1","name":"micro","key":"micro"}]}\n');
	const fewer = await matrix(file, "--set", "matrix.method=[{name: a}]");
	assert.equal(fewer.stdout, '{"include":[{"cell":"1/1","name":"a","key":"a"}]}\n');

	const seeds = Array.from({ length: 257 }, (_, i) => i);
	const large = place.pipeline({ matrix: { seed: seeds } });
	const refused = await matrix(large);
	assert.deepEqual([refused.code, refused.stdout], [2, ""]);
	assert.equal(
		refused.stderr,
		`${large}: The grid has 257 cells, and GitHub Actions runs at most 256 jobs of a matrix; ` +
			"split the grid into several files\n",
	);
	assert.match((await matrix("--help")).stdout, /^Usage: deno task matrix PIPELINE\.yaml/);
});
