import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { PipelineFileError } from "../../../pipeline/config/errors.ts";
import { loadPipeline } from "../../../pipeline/config/config.ts";
import { loadGrid, type RunGrid } from "../../../pipeline/grid/load_grid.ts";
import type { Stage } from "../../../pipeline/stage.ts";
import { RECIPES, STAGES } from "../../../stages/mod.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";

const chain = `name: grid
output: results # where
stages:
  - &download download
  # text first
  - calibrate: &text { dataset: a.txt, samples: 16 }
  - hessian
  - salient-select
  - residual-binarize
  - split-search
  - compensate
  - pack
  - &evaluate
    evaluate:
      perplexity: [{ dataset: b.txt }]
`;

const full = `${chain}matrix:
  model: [m/a, m/b]
  method:
    - name: billm # the paper's
    - name: measure
      stages: [*download, *evaluate]
  stages.evaluate.batch-tokens: [64, 128]
`;

async function load(text: string, sets: string[] = []): Promise<RunGrid<Stage>> {
	using folder = new TemporaryFolder();
	const file = join(folder.path, "g.yaml");
	writeFileSync(file, text);
	try {
		return await loadGrid(file, { stages: STAGES, sets });
	} catch (error) {
		if (!(error instanceof PipelineFileError)) throw error;
		throw new PipelineFileError(error.problems.map(({ where, message }) => ({
			where: where.replaceAll(`${folder.path}/`, ""),
			message,
		})));
	}
}

async function problems(text: string, sets: string[] = []): Promise<string[]> {
	try {
		await load(text, sets);
		return [];
	} catch (error) {
		if (error instanceof PipelineFileError) return error.message.split("\n");
		throw error;
	}
}

Deno.test("loadGrid() gives each cell its pipeline", async () => {
	const { name, output, hasMatrix, cells } = await load(full);
	assert.deepEqual([name, output, hasMatrix], ["grid", "results", true]);
	const combinations = ["m/a", "m/b"].flatMap((model) =>
		["billm", "measure"].flatMap((method) => [64, 128].map((tokens) => ({ model, method, tokens })))
	);
	assert.equal(cells.length, combinations.length);
	for (const [i, { model, method, tokens }] of combinations.entries()) {
		const cell = cells[i];
		const cellName = `${model.slice(2)},${method},batch-tokens-${tokens}`;
		assert.deepEqual(
			[cell.name, cell.index, cell.config.name, cell.config.model, cell.config.output],
			[cellName, i + 1, "grid", model, `results/${cellName}`],
		);
		assert.deepEqual(cell.values, { model, method, "stages.evaluate.batch-tokens": tokens });
		const stages = cell.config.stages.map(({ stage }) => stage.name);
		assert.equal(stages.length, method === "billm" ? 9 : 2);
		assert.deepEqual([stages[0], stages.at(-1)], ["download", "evaluate"]);
		const { options } = cell.config.stages.at(-1)!;
		assert.deepEqual(
			[options["batch-tokens"], options.perplexity[0].dataset],
			[tokens, "b.txt"],
		);
	}
});

Deno.test("the text of a cell is a pipeline file that gives the same", async () => {
	using folder = new TemporaryFolder();
	const { cells } = await load(full, ["stages.calibrate.samples=3", "seed=7"]);
	for (const { config } of cells) {
		const file = join(folder.path, "cell.yaml");
		writeFileSync(file, config.text);
		const again = await loadPipeline(file, { stages: STAGES });
		const plain = ({ stages, ...rest }: typeof config) => ({
			...rest,
			absent: rest.absent.map(({ path, name }) => [path, name]),
			file: "",
			stages: stages.map(({ stage, options }) => [stage.name, options]),
		});
		assert.deepEqual(plain(again), plain(config));
		assert.equal(parse(config.text).matrix, undefined);
		assert.ok(config.text.includes("\noutput: results/") && config.text.includes(" # where\n"));
		assert.doesNotMatch(config.text, /[&*](download|text|evaluate)/);
	}
	assert.ok(cells[0].config.text.includes("  # text first\n"));
	assert.ok(cells[0].config.text.includes("samples: 3"));
});

Deno.test("what a cell is told does not reach the next one through an alias", async () => {
	const text = `${chain}matrix:
  method:
    - { name: one, stages.calibrate.samples: 1 }
    - { name: two }
    - name: both
      stages: [download, { calibrate: *text }, *evaluate]
      stages.calibrate.samples: 2
`.replace("name: grid", "name: grid\nmodel: m");
	const { cells } = await load(text);
	assert.deepEqual(
		cells.map(({ config }) => config.stages[1].options.samples),
		[1, 16, 2],
	);
});

Deno.test("the matrix may stand before the stages, and give all of them", async () => {
	const text = "name: g\nmatrix:\n  x:\n    - { name: a, model: m, stages: [download] }\n";
	const { cells, output } = await load(text);
	assert.deepEqual([cells.length, output, cells[0].config.output], [1, "out/g", "out/g/a"]);
});

Deno.test("a stage of the user's own may vary", async () => {
	using folder = new TemporaryFolder();
	const module = `import { z } from ${JSON.stringify(import.meta.resolve("../../../mod.ts"))};
export default {
  name: "mine", scope: "model", summary: "Mine.", needs: [], gives: [], run() {},
  options: z.strictObject({ size: z.int().default(1) }),
};`;
	writeFileSync(join(folder.path, "mine.ts"), module);
	const file = join(folder.path, "g.yaml");
	writeFileSync(
		file,
		"name: g\nmodel: m\nstages: [download, { use: ./mine.ts }]\nmatrix: { stages.mine.size: [2, 3] }\n",
	);
	const { cells } = await loadGrid(file, { stages: STAGES });
	assert.deepEqual(cells.map(({ config }) => config.stages[1].options), [{ size: 2 }, { size: 3 }]);
	assert.deepEqual(cells.map(({ name }) => name), ["size-2", "size-3"]);
});

Deno.test("overrides come after the matrix, one of a stage for the cells that have it", async () => {
	const sets = ["stages.calibrate.samples=2", "output=/tmp/x", "seed=4", "name=other"];
	const { name, output, cells } = await load(full, sets);
	assert.deepEqual([name, output], ["other", "/tmp/x"]);
	for (const { config } of cells) {
		assert.equal(config.seed, 4);
		const calibrate = config.stages.find(({ stage }) => stage.name === "calibrate");
		assert.equal(calibrate?.options.samples, config.stages.length === 9 ? 2 : undefined);
	}
	const smaller = await load(full, ["matrix.model=[m/c]"]);
	assert.deepEqual(smaller.cells.map(({ config }) => config.model), Array(4).fill("m/c"));
});

Deno.test("a file without a matrix is a grid of one cell", async () => {
	const text = `${chain}model: m\n`;
	const { hasMatrix, output, cells } = await load(text, ["stages.calibrate.samples=2"]);
	assert.deepEqual([hasMatrix, output, cells.length], [false, "results", 1]);
	const [{ name, index, values, config }] = cells;
	assert.deepEqual([name, index, values, config.output], ["grid", 1, {}, "results/grid"]);
	assert.equal(config.stages[1].options.samples, 2);
});

/** Adds a test that a grid has exactly these problems. */
function refuses(what: string, text: string, expected: string[], sets: string[] = []): void {
	Deno.test(`loadGrid() refuses ${what}`, async () => {
		assert.deepEqual(await problems(text, sets), expected);
	});
}

refuses("what is wrong in the matrix, at its place", `${chain}model: m\nmatrix:\n  modell: [a]\n`, [
	'g.yaml:18:3: Unknown key "modell" in matrix; did you mean "model"? (a key of your own must have ' +
	'a list of maps, each with a "name")',
]);

refuses("a matrix that is no map", `${chain}model: m\nmatrix: [1]\n`, [
	'g.yaml:17:9: matrix must be a map of lists, such as "model: [a, b]", found [1]',
]);

refuses(
	"wrong values at their places, each once, and says in which cells",
	`${chain}matrix:
  model: [m, 7]
  method:
    - name: a
      mode: refrence
      stages.calibrate.samples: 0
    - { name: b, stages.nothing.x: 1 }
    - { name: c, stages.calibrate.sample: 1 }
`,
	[
		'g.yaml:17:14: model must be a string, found 7 (cell "7,a" and 2 more)',
		'g.yaml:20:13: mode must be one of "default", "reference", found "refrence"; did you mean ' +
		'"reference"? (cell "m,a" and 1 more)',
		'g.yaml:21:33: calibrate.samples must be at least 1, found 0 (cell "m,a" and 1 more)',
		'g.yaml:22:18: "stages.nothing" names no stage of this pipeline; its stages: download, ' +
		"calibrate, hessian, salient-select, residual-binarize, split-search, compensate, pack, " +
		'evaluate (cell "m,b" and 1 more)',
		'g.yaml:23:18: Unknown key "sample" in calibrate; did you mean "samples"? (cell "m,c" and 1 more)',
	],
);

refuses(
	"a problem of all cells once",
	full.replace("samples: 16", "samples: none").replace(
		"model: [m/a",
		"method0: [{name: q}]\n  model: [m/a",
	)
		.replace("    - name: measure\n      stages: [*download, *evaluate]\n", ""),
	['g.yaml:6:49: calibrate.samples must be a whole number, found "none"'],
);

refuses(
	"a grid that lacks what the matrix does not give either",
	`${chain}matrix: { seed: [1, 2] }\n`,
	[
		'g.yaml:1:1: The pipeline lacks "model": the folder of a model, with config.json and its weights, ' +
		"or its name on the hub",
	],
);

refuses(
	"a bad name and output",
	"name: a/b\noutput: 3\nmodel: m\nstages: [download]\nmatrix: { seed: [1] }\n",
	[
		'g.yaml:1:7: name must be letters, digits, ".", "_" and "-", beginning with a letter or digit, ' +
		'found "a/b"',
		"g.yaml:2:9: output must be a string, found 3",
	],
);

refuses(
	"a chain that a variant makes wrong",
	`${chain}matrix:
  model: [m]
  method:
    - { name: a }
    - { name: b, stages: [download, hessian] }
`,
	[
		'g.yaml:20:37: Stage "hessian" needs "calibration", which stage "calibrate" gives; put calibrate ' +
		'before it (cell "m,b")',
	],
);

refuses(
	"an alias without an anchor",
	"name: g\nmodel: m\nmatrix: { x: [{ name: a, stages: *s }] }\n",
	[
		'g.yaml:3:34: Alias "*s" has no anchor before it',
	],
);

refuses("overrides of what the matrix varies", full, [
	'--set model=m/x: The matrix varies "model"; choose cells with --cell instead',
	'--set stages=[download]: The matrix varies "stages.evaluate.batch-tokens"; choose cells with --cell instead',
], ["model=m/x", "stages=[download]"]);

refuses("overrides of a stage that no cell has", full, [
	'--set stages.calibrat.samples=1: "stages.calibrat" names no stage of this pipeline; did you mean ' +
	'"calibrate"?',
], ["stages.calibrat.samples=1"]);

refuses("wrong values of overrides, in the matrix too", full, [
	'--set matrix.model=[1, m]: model must be a string, found 1 (cell "1,billm,batch-tokens-64" and 3 more)',
	"--set seed=-1: seed must be at least 0, found -1",
], ["matrix.model=[1, m]", "seed=-1"]);

Deno.test("loadPipeline() says of a grid what reads it", async () => {
	using folder = new TemporaryFolder();
	const file = join(folder.path, "g.yaml");
	writeFileSync(file, full);
	await assert.rejects(loadPipeline(file, { stages: STAGES }), {
		name: "PipelineFileError",
		message: `${file}:16:1: "matrix" makes this file a grid of pipelines, not one; ` +
			"deno task quantize and loadGrid() read such files",
	});
});

Deno.test("the example grid holds what its head says", async () => {
	const file = join(import.meta.dirname!, "../../../examples/grid.yaml");
	assert.ok(existsSync(file));
	const { cells } = await loadGrid(file, { stages: STAGES, recipes: RECIPES });
	const [, count] = /--cell \d+\/(\d+) /.exec(readFileSync(file, "utf8"))!;
	assert.equal(cells.length, Number(count));
});

Deno.test("the example of methods has each method for each model, with its own chain", async () => {
	const file = join(import.meta.dirname!, "../../../examples/methods.yaml");
	const { cells } = await loadGrid(file, { stages: STAGES, recipes: RECIPES });
	const [, count] = /2 models by (\d+) methods/.exec(readFileSync(file, "utf8"))!;
	assert.equal(cells.length, 2 * Number(count));
	const billm = ["salient-select", "residual-binarize", "split-search", "compensate"];
	for (const { name, config } of cells) {
		const stages = config.stages.map(({ stage }) => stage.name);
		const method = name.slice(name.indexOf(",") + 1).replace(/-(\d|light|ref|range).*$/, "");
		const expected = method === "billm" ? billm : [method];
		assert.deepEqual(stages.filter((stage) => [...billm, method].includes(stage)), expected, name);
		assert.equal(config.mode, name.endsWith("-reference") ? "reference" : "default");
	}
});
