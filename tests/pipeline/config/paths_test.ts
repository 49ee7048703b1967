import assert from "node:assert/strict";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { loadPipeline } from "../../../pipeline/config/config.ts";
import { runPipeline } from "../../../pipeline/run/run.ts";
import { RECIPES, STAGES } from "../../../stages/mod.ts";
import { Workplace } from "../../micro_model.ts";

const known = { stages: STAGES, recipes: RECIPES };

Deno.test("paths are relative to the file if they exist there, else to the working directory", async () => {
	using place = new Workplace({ layers: 1, intermediate: 128 });
	const file = place.path("p.yaml");
	const text = `name: a
model: model # kept
recipe: rtn
output: ${place.path("out")}
stages:
  calibrate: { dataset: ./calibration.txt, samples: 2 }
  evaluate:
    perplexity: [{ dataset: c4 }, { dataset: examples/text/evaluation.txt.gz }]
    zero-shot: [piqa, { task: piqa, dataset: q.jsonl }]
`;
	writeFileSync(file, text);
	const sets = ["stages.evaluate.zero-shot.0={ task: boolq, dataset: ./evaluation.txt }"];
	const config = await loadPipeline(file, { ...known, sets });
	assert.equal(config.model, join(place.folder, "model"));
	assert.ok(config.text.includes(`model: ${config.model} # kept\n`));
	assert.equal(config.stages[1].options.dataset, place.calibration);
	const { perplexity, "zero-shot": tasks } = config.stages.at(-1)!.options;
	const datasets = perplexity.map(({ dataset }: { dataset: string }) => dataset);
	assert.deepEqual(datasets, ["c4", "examples/text/evaluation.txt.gz"]);
	assert.equal(tasks[0].dataset, "./evaluation.txt");
	assert.deepEqual(config.absent, [{
		path: "q.jsonl",
		name: "evaluate.zero-shot.1.dataset",
		where: `${file}:9:46`,
		places: `it is neither in "${place.folder}", the folder of the file, nor in "${Deno.cwd()}", ` +
			"that of the command",
	}]);
	const message =
		`${file}:9:46: evaluate.zero-shot.1.dataset: there is no "q.jsonl": it is neither`;
	await assert.rejects(runPipeline(config), (error: Error) => error.message.startsWith(message));
});

Deno.test("a run goes on wherever its inputs lie, and from the copy of its file", async () => {
	using place = new Workplace({ layers: 1, intermediate: 128 });
	const output = place.path("out");
	const calibrate = "{ dataset: calibration.txt, samples: 2, sequence-length: 32 }";
	const text = `name: a\nmodel: model\noutput: ${output}\nrecipe: gptq
stages: { calibrate: ${calibrate}, gptq: { bits: 2, group-size: 32 } }\n`;
	const runs: string[] = [];
	const run = async (file: string) => {
		runs.length = 0;
		const emit = ({ type }: { type: string }) => void runs.push(type);
		return await runPipeline(await loadPipeline(file, known), { emit });
	};
	writeFileSync(place.path("p.yaml"), text);
	const { identity } = await run(place.path("p.yaml"));
	assert.ok(runs.includes("layer"));
	assert.equal((await run(relative(Deno.cwd(), place.path("p.yaml")))).identity, identity);
	assert.equal(runs.at(-1), "already-done");
	await run(join(output, "pipeline.yaml"));
	assert.equal(runs.at(-1), "already-done");
	mkdirSync(place.path("moved"));
	for (const name of ["model", "calibration.txt", "p.yaml"]) {
		renameSync(place.path(name), place.path(`moved/${name}`));
	}
	await run(place.path("moved/p.yaml"));
	assert.equal(runs.at(-1), "already-done");
	const moved = place.path("moved/calibration.txt");
	writeFileSync(moved, `${readFileSync(moved, "utf8")} more`);
	await assert.rejects(run(place.path("moved/p.yaml")), /holds a different run/);
});
