import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { loadPipeline } from "~/pipeline/config/config.ts";
import { RECIPES, STAGES } from "~/stages/mod.ts";
import { PROJECT } from "../checkout.ts";
import { contents, runFile, Workplace } from "../micro_model.ts";

const known = { stages: STAGES, recipes: RECIPES };

Deno.test("every recipe is a chain in the order of the stages, to which they can be added", async () => {
	using place = new Workplace({ layers: 1 });
	const order = STAGES.map(({ name }) => name);
	for (const { name, mode = "default", stages } of RECIPES) {
		const isCalibrated = stages.some(([stage]) => stage === "calibrate");
		const file = place.pipeline({
			recipe: name,
			stages: {
				...isCalibrated && { ...place.calibrate as object, "refit-norm": {} },
				...place.evaluate as object,
			},
		});
		const config = await loadPipeline(file, known);
		assert.deepEqual([config.recipe, config.mode], [name, mode]);
		const chain = config.stages.filter(({ implied }) => !implied).map(({ stage }) => stage.name);
		assert.deepEqual(
			chain.filter((stage) => stage !== "refit-norm" && stage !== "evaluate"),
			stages.map(([stage]) => stage).filter((stage) => stage !== "refit-norm"),
		);
		assert.equal(chain.at(-1), "evaluate");
		assert.deepEqual(chain, chain.toSorted((a, b) => order.indexOf(a) - order.indexOf(b)));
		for (const [stage, options] of stages) {
			const planned = config.stages.find((planned) => planned.stage.name === stage)!;
			assert.deepEqual({ ...planned.options, ...options }, planned.options);
		}
	}
});

Deno.test("the recipe light is the chain of version 0.4", async () => {
	using place = new Workplace({ layers: 1 });
	const listed = await loadPipeline(join(PROJECT, "tests/parity/tiny-llama-light.yaml"), known);
	assert.ok(listed.stages.length >= 9);
	const { name, model } = listed;
	const { stages } = parse(listed.text) as { stages: (string | object)[] };
	const options = Object.assign({}, ...stages.filter((item) => typeof item !== "string"));
	const file = place.path("light.yaml");
	writeFileSync(file, stringify({ name, model, recipe: "light", stages: options }));
	const config = await loadPipeline(file, known);
	const chain = ({ stages }: typeof config) =>
		stages.map(({ stage, options, implied }) => [stage, options, implied]);
	assert.deepEqual(chain(config), chain(listed));
});

Deno.test("a run by the recipe default is the run of its chain", async () => {
	using place = new Workplace({ layers: 1 });
	const gpu = { adapter: "software" };
	const stages = {
		...place.calibrate as object,
		compensate: { "block-size": 32 },
		"row-search": { rounds: 1, moves: 0.1 },
		...place.evaluate as object,
	};
	const { record } = await runFile(place.pipeline({ gpu, recipe: "default", stages }));
	assert.equal(record.status, "done");
	assert.ok(record.packed!.storedBits < 16);
	const salient = record.layers!.flatMap(({ linears }) => linears)
		.flatMap(({ salientColumns }) => salientColumns as number[]);
	assert.equal(Math.max(...salient), 8); // a last block of few columns has fewer

	// The text of the run lists the stages, and is the same run.
	const text = readFileSync(place.path("out/pipeline.yaml"), "utf8");
	assert.match(text, /\nstages:\n {2}# Recipe default: /);
	assert.doesNotMatch(text, /^recipe:/m);
	const file = place.path("again.yaml");
	writeFileSync(file, text);
	const files = contents(place.path("out"));
	const again = await runFile(file);
	assert.deepEqual(again.events.map(({ type }) => type).at(-1), "already-done");
	assert.equal(again.record.identity, record.identity);
	assert.deepEqual(contents(place.path("out")), files);
});
