// Any value at any place of run.json, cell.json and histograms.json: the page has the other runs, and names
// the damaged one.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { findRuns, readRuns } from "../../report/cells.ts";
import { MergedReport } from "../../report/merged_report.ts";
import { finishedRun as readFinishedRun, hasRunReport } from "../../report/run_files.ts";
import { runMarkdown, runReport } from "../../report/run_report.ts";
import { linearScale } from "../../report/scale.ts";
import { endsWell, type Json, mutationsOf } from "../mutations.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { finishedRun } from "./runs.ts";

const FILES = ["run.json", "cell.json", "histograms.json"];

/** The content of the files of cell `index`, named "a", "b" ... */
function filesOf(index: number): Record<string, Json> {
	const name = "abc"[index - 1];
	const { record, histograms } = finishedRun({
		name,
		layers: 2,
		divergence: { windows: 4, kl: 0.5, agreement: 0.6 },
	});
	const times = { started: record.started, finished: record.finished };
	return {
		"run.json": record,
		"cell.json": {
			grid: "g",
			cell: name,
			index,
			cells: 3,
			values: { x: 1 },
			status: "done",
			...times,
		},
		"histograms.json": { histograms: histograms!.slice(0, 2) },
	};
}

/** A grid of three finished runs. */
function writeGrid(folder: string): void {
	for (const index of [1, 2, 3]) {
		const files = filesOf(index);
		const run = join(folder, files["cell.json"].cell);
		mkdirSync(run);
		for (const name of FILES) writeFileSync(join(run, name), JSON.stringify(files[name]));
	}
}

const NO_FIGURE = /NaN|Infinity|undefined|\[object/;

/** The reports of the grid and, if it can be read, of its first run. @returns The names of damaged runs. */
function report(folder: string): string[] {
	const comparison = readRuns(findRuns([folder]));
	const merged = new MergedReport(comparison);
	const pages = [merged.page(folder), merged.markdown(), merged.svg() ?? ""];
	const one = join(folder, "a");
	const { done: [run] } = readRuns([one]);
	if (run) {
		try {
			const finished = readFinishedRun(one, run.record);
			pages.push(runReport(finished), runMarkdown(finished));
		} catch (error) {
			if (!(error instanceof UserError)) throw error;
			assert.match(error.message, /histograms\.json/);
			assert.equal(hasRunReport(one, run.record), false);
		}
	}
	for (const page of pages) {
		assert.doesNotMatch(
			/.{0,60}(?:NaN|Infinity|undefined|\[object).{0,60}/.exec(page)?.[0] ?? "",
			NO_FIGURE,
		);
	}
	for (const name of ["b", "c"]) assert.ok(comparison.done.some((run) => run.name === name));
	assert.equal(comparison.done.length + comparison.failed.length, 3);
	for (const { name, problem } of comparison.failed) {
		assert.ok(pages[0].includes(name));
		assert.match(problem, /\/a\/(?:run|cell)\.json"|not finished|does not say why|^[^\n]*$/);
	}
	return comparison.failed.map(({ name }) => name);
}

for (
	const [file, count] of [["run.json", 400], ["cell.json", 150], ["histograms.json", 150]] as const
) {
	Deno.test(`${count} changes of ${file}: the page has the other runs and names the damaged one`, async () => {
		using place = new TemporaryFolder();
		writeGrid(place.path);
		assert.deepEqual(report(place.path), []);
		const path = join(place.path, "a", file);
		let refused = 0;
		for (const { what, text } of mutationsOf(JSON.parse(readFileSync(path, "utf8")), count)) {
			writeFileSync(path, text);
			const damaged = await endsWell(`${file}: ${what}`, () => report(place.path));
			assert.ok(damaged, `${file}: ${what}: refused as a whole`);
			if (damaged.length > 0) refused++;
		}
		if (file === "histograms.json") assert.equal(refused, 0); // a page of many runs has no histograms
		else assert.ok(refused > count / 10 && refused < count, `${refused} of ${count} are damaged`);
	});
}

Deno.test("records of the first versions are records", () => {
	using place = new TemporaryFolder();
	writeGrid(place.path);
	const record = filesOf(1)["run.json"];
	for (const key of ["commits", "peakGpuBytesByStage", "allocation"]) delete record[key];
	for (const layer of record.layers) delete layer.secondsByStage;
	delete record.evaluation.zeroShot;
	for (const figure of record.evaluation.packed) {
		delete figure.divergence;
		figure.perplexity = null;
	}
	for (const change of [{}, { evaluation: undefined }, { packed: undefined, layers: undefined }]) {
		writeFileSync(join(place.path, "a/run.json"), JSON.stringify({ ...record, ...change }));
		assert.deepEqual(report(place.path), []);
	}
});

Deno.test("numbers of records size no loop", () => {
	using place = new TemporaryFolder();
	writeGrid(place.path);
	const path = join(place.path, "a/cell.json");
	const cell = filesOf(1)["cell.json"];
	for (
		const [change, problem] of [
			[{ cells: 1_000_000_000 }, /cell\.json\.cells must be at most 10000, found 1000000000$/],
			[{ index: 1_000_000_000 }, /it has the index 1000000000 of 3 cells$/],
			[{ cells: 2 ** 60 }, /cell\.json\.cells must be at most 10000/],
		] as const
	) {
		writeFileSync(path, JSON.stringify({ ...cell, ...change }));
		const { failed: [failed], missing } = readRuns(findRuns([place.path]));
		assert.match(failed.problem, problem);
		assert.deepEqual(missing, ["1 of 3 of g"]);
	}
});

Deno.test("records of very many layers and modules are refused", () => {
	using place = new TemporaryFolder();
	writeGrid(place.path);
	const record = filesOf(1)["run.json"];
	const [layer] = record.layers;
	const [linear] = layer.linears;
	const layers = Array.from({ length: 2000 }, (_, i) => ({
		...layer,
		layer: i,
		linears: Array.from(
			{ length: 10 },
			(_, j) => ({ ...linear, name: `model.layers.${i}.m${i}.${j}` }),
		),
	}));
	writeFileSync(join(place.path, "a/run.json"), JSON.stringify({ ...record, layers }));
	const { failed: [failed] } = readRuns(findRuns([place.path]));
	assert.match(failed.problem, /run\.json\.layers must have at most 100000 linear layers/);
});

Deno.test("axes of numbers that f64 can hardly tell apart have some ticks", () => {
	for (const least of [1e-300, 1, 1e15, 1e300, 1e307]) {
		for (const factor of [1, 1 + 2 ** -52, 1 + 2 ** -40, 1.5]) {
			for (const sign of [1, -1]) {
				const { ticks, at } = linearScale([sign * least, sign * least * factor], 5);
				assert.ok(ticks.length <= 20 && ticks.every(Number.isFinite));
				assert.ok(!Number.isNaN(at(sign * least)));
			}
		}
	}
});
