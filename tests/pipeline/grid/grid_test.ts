import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CellResult, chooseCell } from "../../../pipeline/grid/grid.ts";
import { runGrid } from "../../../report/run_with_report.ts";
import { loadGrid } from "../../../pipeline/grid/load_grid.ts";
import type { RunEvent } from "../../../pipeline/run/events.ts";
import type { CellRecord } from "../../../pipeline/run/record.ts";
import { STAGES } from "../../../stages/mod.ts";
import { contents, runFile, Workplace } from "../../micro_model.ts";
import { startTask } from "../../start_task.ts";

/** Measures and no more: fast. */
const measure = (place: Workplace) => ["download", place.evaluateWith({ windows: 1 })];

/** The method without a measurement. */
const method = (place: Workplace) =>
	place.method.slice(0, -1).with(1, place.calibrateWith({ samples: 2 }));

const PLANES = { name: "planes", "stages.residual-binarize.planes": 3 };

/** Runs all cells of a pipeline file. */
async function run(
	file: string,
	options: { signal?: AbortSignal; onEvent?: (event: RunEvent) => void; overwrite?: boolean } = {},
): Promise<{ results: CellResult[]; events: RunEvent[] }> {
	const events: RunEvent[] = [];
	const report = (event: RunEvent) => {
		events.push(event);
		options.onEvent?.(event);
	};
	const grid = await loadGrid(file, { stages: STAGES });
	const results = await runGrid(grid, { ...options, emit: report });
	return { results, events };
}

function cellRecord(...path: string[]): CellRecord {
	return JSON.parse(readFileSync(join(...path, "cell.json"), "utf8"));
}

const typesOf = (events: RunEvent[]) => events.map(({ type }) => type);

Deno.test("a cell that fails does not stop the others, and is all that runs again", async () => {
	using place = new Workplace({ layers: 1 });
	const out = place.path("out");
	const method = [
		{ name: "plain" },
		{
			name: "broken",
			"stages.evaluate.perplexity": [
				{ dataset: "no-such-file.txt", "sequence-length": 32, windows: 1 },
			],
		},
		{ name: "seed" },
	];
	const include = [{ method: "seed", seed: 5 }];
	const file = place.pipeline({ stages: measure(place), matrix: { method, include } });
	const started = Date.now();
	const { results, events } = await run(file);
	assert.deepEqual(results.map(({ record }) => record.status), ["done", "failed", "done"]);
	assert.deepEqual(results.map(({ run }) => run?.status), ["done", undefined, "done"]);
	assert.deepEqual(readdirSync(out).sort(), ["broken", "plain", "seed"]);
	assert.deepEqual(
		events.filter(({ type }) => type === "cell"),
		method.map(({ name }, i) => ({ type: "cell", cell: name, index: i + 1, cells: 3 })),
	);
	for (const { record } of results) {
		const { started: begin, finished, ...rest } = cellRecord(out, record.cell);
		assert.deepEqual({ started: begin, finished, ...rest }, record);
		assert.ok(started - 1000 <= Date.parse(begin) && begin <= finished);
		assert.ok(Date.parse(finished) <= Date.now());
	}
	const { started: _, finished: __, error, ...broken } = cellRecord(out, "broken");
	assert.deepEqual(broken, {
		grid: "micro",
		cell: "broken",
		index: 2,
		cells: 3,
		values: { method: "broken" },
		status: "failed",
	});
	assert.match(error!, /no-such-file\.txt/);
	assert.deepEqual(
		events.filter(({ type }) => type === "cell-failed"),
		[{ type: "cell-failed", cell: "broken", error }],
	);
	assert.deepEqual(cellRecord(out, "seed").values, { method: "seed", seed: 5 });

	// What was wrong is put right: the same command runs this cell and no other.
	const before = contents(out);
	writeFileSync(file, readFileSync(file, "utf8").replace("no-such-file.txt", place.evaluation));
	const again = await run(file);
	assert.deepEqual(again.results.map(({ record }) => record.status), ["done", "done", "done"]);
	const count = (type: string) => typesOf(again.events).filter((other) => other === type).length;
	assert.deepEqual([count("already-done"), count("start"), count("end")], [2, 1, 1]);
	const after = contents(out);
	for (const [path, hash] of Object.entries(before)) {
		if (!path.startsWith("broken/")) assert.equal(after[path], hash, path);
	}
	assert.deepEqual(cellRecord(out, "broken").status, "done");
	assert.ok(existsSync(join(out, "broken/run.json")));
});

Deno.test("a cell's run is that of its pipeline file alone", async () => {
	using place = new Workplace({ layers: 1 });
	const { results } = await run(
		place.pipeline({ stages: method(place), matrix: { method: [PLANES] } }),
	);
	const folder = place.path("out/planes");
	const text = readFileSync(join(folder, "pipeline.yaml"), "utf8");
	const file = place.path("alone.yaml");
	writeFileSync(file, text.replace(folder, place.path("alone")));
	const { record } = await runFile(file);
	assert.deepEqual(contents(join(folder, "model")), contents(place.path("alone/model")));
	assert.equal(record.identity, results[0].run!.identity);
	const planes = record.stages.find(({ name }) => name === "residual-binarize");
	assert.deepEqual(planes!.options, { planes: 3 });
});

Deno.test("an interrupted grid says nothing of the cell it was in, and goes on with it", async () => {
	using place = new Workplace({ layers: 2 });
	const file = place.pipeline({ stages: method(place), matrix: { seed: [1, 2] } });
	const controller = new AbortController();
	let cell = 0;
	const onEvent = (event: RunEvent) => {
		if (event.type === "cell") cell = event.index;
		if (event.type === "layer" && cell === 2) controller.abort();
	};
	await assert.rejects(run(file, { signal: controller.signal, onEvent }), { name: "AbortError" });
	const out = place.path("out");
	assert.deepEqual(readdirSync(out).sort(), ["seed-1", "seed-2"]);
	assert.equal(cellRecord(out, "seed-1").status, "done");
	assert.ok(!existsSync(join(out, "seed-2/cell.json")));

	const { results, events } = await run(file);
	assert.deepEqual(results.map(({ record }) => record.status), ["done", "done"]);
	const starts = events.filter((event) => event.type === "start");
	assert.deepEqual(
		[typesOf(events).filter((type) => type === "already-done").length, starts.length],
		[1, 1],
	);
	assert.equal(starts[0].resumedLayers, 1);
});

Deno.test("a grid that is killed in the middle goes on and ends in the same bytes", async () => {
	using place = new Workplace({ layers: 2 });
	const fields = { stages: method(place), matrix: { method: [{ name: "plain" }, PLANES] } };
	await run(place.pipeline({ ...fields, output: place.path("whole") }));
	const file = place.pipeline(fields);
	let killed = false;
	const first = await startTask("quantize", [file], {
		onOutput(text, child) {
			if (killed || !/Cell 2\/2 [^]*layer 1\/2/.test(text)) return;
			killed = true;
			child.kill("SIGKILL");
		},
	});
	assert.ok(killed && first.code !== 0);
	const out = place.path("out");
	assert.ok(!existsSync(join(out, "planes/cell.json")));
	assert.equal(cellRecord(out, "plain").status, "done");
	const { code, stdout, stderr } = await startTask("quantize", [file]);
	assert.deepEqual([code, stderr], [0, ""]);
	assert.match(stdout, /Cell 1\/2 {2}plain\n[^]*Nothing to do: \S*plain [^]*Cell 2\/2 {2}planes\n/);
	assert.match(stdout, /; resumes after layer [12], the last complete one\n/);
	for (const cell of ["plain", "planes"]) {
		assert.deepEqual(
			contents(join(out, cell, "model")),
			contents(place.path("whole", cell, "model")),
		);
		assert.equal(cellRecord(out, cell).status, "done");
	}
});

Deno.test("what lies in the way of one cell is told of that cell only", async () => {
	using place = new Workplace({ layers: 1 });
	const file = place.pipeline({
		stages: measure(place),
		matrix: { method: [{ name: "blocked" }, { name: "other" }, { name: "plain" }] },
	});
	mkdirSync(place.path("out/other"), { recursive: true });
	writeFileSync(place.path("out/blocked"), "a file");
	writeFileSync(place.path("out/other/notes.txt"), "of somebody else");
	const { results, events } = await run(file);
	assert.deepEqual(results.map(({ record }) => record.status), ["failed", "failed", "done"]);
	const [blocked, other] = results.map(({ record }) => record.error);
	assert.match(blocked!, /^Cannot make the output folder ".*blocked": /);
	assert.match(other!, /is not empty and holds no run; choose another output, or empty it$/);
	assert.ok(
		events.some((event) =>
			event.type === "warning" &&
			event.message.startsWith(`Cannot write "${place.path("out/blocked")}`)
		),
	);
	rmSync(place.path("out/other/notes.txt"));
	assert.equal((await run(file)).results[1].record.status, "done");
});

Deno.test("a cell whose values have changed is refused, and replaced if told so", async () => {
	using place = new Workplace({ layers: 1 });
	const pipeline = (tokens: number) => {
		const method = [{ name: "measure", "stages.evaluate.batch-tokens": tokens }];
		return place.pipeline({ stages: measure(place), matrix: { method } });
	};
	await run(pipeline(64));
	const { results } = await run(pipeline(128));
	assert.match(
		results[0].record.error!,
		/holds a different run: evaluate\.batch-tokens was 64 and is 128 now; choose another output, or/,
	);
	const replaced = await run(pipeline(128), { overwrite: true });
	assert.equal(replaced.results[0].record.status, "done");
});

Deno.test("a defect in a stage fails its cell, and its stack is told", async () => {
	using place = new Workplace({ layers: 1 });
	const module = `import { z } from ${JSON.stringify(import.meta.resolve("../../../mod.ts"))};
export default {
  name: "defect", scope: "model", summary: "Fails.", needs: [], gives: [],
  options: z.strictObject({ fails: z.boolean().default(false) }),
  run(_, { fails }) { if (fails) throw new TypeError("the defect"); },
};`;
	writeFileSync(place.path("defect.ts"), module);
	const stages = ["download", { use: "./defect.ts" }];
	const matrix = { "stages.defect.fails": [true, false] };
	const { results, events } = await run(place.pipeline({ stages, matrix }));
	assert.deepEqual(results.map(({ record }) => [record.status, record.error]), [
		["failed", `the stage of "${place.path("defect.ts")}" has failed: TypeError: the defect`],
		["done", undefined],
	]);
	const [warning] = events.filter((event) => event.type === "warning");
	assert.match(warning.message, /^TypeError: the defect\n +at /);
});

Deno.test("chooseCell() takes a number with the count, or a name", () => {
	const cells = ["a,x-1", "b,x-1", "1"].map((name) => ({ name }));
	assert.equal(chooseCell(cells, "2/3"), cells[1]);
	assert.equal(chooseCell(cells, "3/3"), cells[2]);
	assert.equal(chooseCell(cells, "a,x-1"), cells[0]);
	assert.equal(chooseCell(cells, "1"), cells[2]);
	for (
		const [argument, message] of [
			["2/4", "The grid has 3 cells, not 4; --check prints them"],
			["0/3", "The cells are numbered from 1 to 3"],
			["4/3", "The cells are numbered from 1 to 3"],
			["a,x-2", 'The grid has no cell "a,x-2"; did you mean "a,x-1"?'],
			["other", 'The grid has no cell "other"; --check prints them'],
			["12", 'The grid has no cell "12"; --check prints them; a cell by its number is 12/3'],
		]
	) {
		assert.throws(() => chooseCell(cells, argument), {
			name: "PipelineFileError",
			message: `--cell ${argument}: ${message}`,
		});
	}
});
