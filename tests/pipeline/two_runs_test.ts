// Two writers of one output folder: the second is refused, or both end in the same bytes.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { loadGrid } from "../../pipeline/grid/load_grid.ts";
import type { RunEvent } from "../../pipeline/run/events.ts";
import { FolderInUse, FolderLock } from "../../pipeline/run/folder_lock.ts";
import { runGrid } from "../../report/run_with_report.ts";
import { RECIPES, STAGES } from "../../stages/mod.ts";
import { contents, type PipelineFields, type StageItem, Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";

const MOMENTS: [string, (event: RunEvent) => boolean][] = [
	["it begins", ({ type }) => type === "start"],
	["its first layer is done", ({ type }) => type === "layer"],
	["it evaluates", ({ type }) => type === "metric"],
];

/** A quick chain. */
function stagesOf(place: Workplace): StageItem[] {
	return ["download", { rtn: { bits: 4, "group-size": 32 } }, "pack", place.evaluate];
}

for (const [moment, isMoment] of MOMENTS) {
	Deno.test(`no other run takes the folder of a run when ${moment}`, async () => {
		using place = new Workplace({ layers: 2 });
		const stages = stagesOf(place);
		await place.run({ stages, output: place.path("alone") });
		const others: [PipelineFields, { overwrite?: boolean }][] = [
			[{ stages }, {}],
			[{ stages }, { overwrite: true }],
			[{ stages, seed: 1 }, {}],
			[{ stages, seed: 1 }, { overwrite: true }],
			[{ stages: stages.toSpliced(1, 1, { rtn: { bits: 3 } }) }, { overwrite: true }],
		];
		const refused: Promise<void>[] = [];
		const emit = (event: RunEvent) => {
			if (refused.length > 0 || !isMoment(event)) return;
			for (const [fields, options] of others) {
				refused.push(assert.rejects(place.run(fields, options), {
					name: "FolderInUse",
					message: /^The folder ".*out" is in use: process \d+ on ".*" writes to it; wait until /,
				}));
			}
		};
		await place.run({ stages }, { emit });
		assert.equal(refused.length, others.length);
		await Promise.all(refused);
		assert.deepEqual(contents(place.path("out/model")), contents(place.path("alone/model")));
		assert.ok(!existsSync(place.path("out/run.lock")));
	});
}

Deno.test("of two processes that begin together, one runs and the other is refused or agrees", async () => {
	using place = new Workplace({ layers: 1 });
	const stages = stagesOf(place);
	const expected = new Map<number, unknown>();
	for (const seed of [0, 1]) {
		await place.run({ stages, seed, output: place.path(`seed${seed}`) });
		const { identity } = record(place.path(`seed${seed}`));
		expected.set(seed, [identity, contents(place.path(`seed${seed}`, "model"))]);
	}
	for (const seeds of [[0, 0], [0, 1]]) {
		const output = place.path(`together${seeds.join("")}`);
		const ended = await Promise.all(
			seeds.map((seed) => startTask("quantize", [place.pipeline({ stages, seed, output })])),
		);
		assert.ok(ended.some(({ code }) => code === 0));
		for (const { code, stderr } of ended) {
			if (code !== 0) {
				assert.match(
					stderr,
					/^Error: The (?:folder .* is in use|output folder .* holds a different run): /,
				);
			}
		}
		const { identity, seed } = record(output);
		assert.deepEqual([identity, contents(`${output}/model`)], expected.get(seed));
		assert.ok(!existsSync(`${output}/run.lock`));
	}
});

function record(folder: string): { identity: string; seed: number } {
	return JSON.parse(readFileSync(`${folder}/run.json`, "utf8"));
}

Deno.test("a killed run blocks nobody", async () => {
	using place = new Workplace({ layers: 2 });
	const stages = stagesOf(place);
	const killed = await startTask("quantize", [place.pipeline({ stages })], {
		onOutput: (text, child) => {
			if (text.includes("layer 1/2")) child.kill("SIGKILL");
		},
	});
	assert.equal(killed.code, 137, killed.stderr);
	assert.ok(existsSync(place.path("out/run.lock")));
	assert.equal((await place.run({ stages })).record.status, "done");
	assert.ok(!existsSync(place.path("out/run.lock")));
});

Deno.test("a cell that another process runs is told of, and its record is left alone", async () => {
	using place = new Workplace({ layers: 1 });
	const stages = stagesOf(place);
	const file = place.pipeline({ stages, matrix: { "stages.rtn.bits": [4, 3] } });
	const grid = await loadGrid(file, { stages: STAGES, recipes: RECIPES });
	const [{ config: { output } }] = grid.cells;
	{
		using _other = FolderLock.take(output);
		const [first, second] = await runGrid(grid);
		assert.deepEqual([first.record.status, second.record.status], ["failed", "done"]);
		assert.match(first.record.error!, /is in use: process/);
		assert.ok(!existsSync(`${output}/cell.json`));
	}
	const again = await runGrid(grid);
	assert.deepEqual(again.map(({ record }) => record.status), ["done", "done"]);
	assert.equal(JSON.parse(readFileSync(`${output}/cell.json`, "utf8")).status, "done");
});

Deno.test("a report is not written into the folder of a run that goes on", async () => {
	using place = new Workplace({ layers: 1 });
	await place.run({ stages: stagesOf(place) });
	const out = place.path("out");
	const before = contents(out);
	{
		using _run = FolderLock.take(out);
		const { code, stderr } = await startTask("report", [out]);
		assert.equal(code, 1);
		assert.match(stderr, /^Error: The folder ".*" is in use: process \d+ on /);
		assert.throws(() => FolderLock.take(out), FolderInUse);
	}
	assert.deepEqual(contents(out), before);
	assert.equal((await startTask("report", [out])).code, 0);
});
