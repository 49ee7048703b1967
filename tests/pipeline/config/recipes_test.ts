import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadPipeline, type PipelineConfig, type Recipe } from "../../../pipeline/config/config.ts";
import { PipelineFileError } from "../../../pipeline/config/errors.ts";
import { loadGrid, type RunGrid } from "../../../pipeline/grid/load_grid.ts";
import type { Stage } from "../../../pipeline/stage.ts";
import { STAGES } from "../../../stages/mod.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";

const RECIPES: Recipe[] = [
	{
		name: "default",
		summary: "All of it",
		stages: [
			["download"],
			["calibrate"],
			["rotate", { block: 32 }],
			["hessian"],
			["gptq", { "bits": 3, "group-size": 64 }],
			["pack"],
		],
	},
	{
		name: "plain",
		summary: "Rounding",
		mode: "reference",
		stages: [["download"], ["rtn"], ["pack"]],
	},
];

const KNOWN = "Known recipes: default (All of it), plain (Rounding)";
const STAGE_NAMES = STAGES.filter(({ completes }) => !completes).map(({ name }) => name).join(", ");

/** Loads a text as the file p.yaml; messages name no folder. */
async function loadText<T>(text: string, load: (file: string) => Promise<T>): Promise<T> {
	using folder = new TemporaryFolder();
	const file = join(folder.path, "p.yaml");
	writeFileSync(file, text);
	try {
		return await load(file);
	} catch (error) {
		if (!(error instanceof PipelineFileError)) throw error;
		throw new PipelineFileError(error.problems.map(({ where, message }) => ({
			where: where.replaceAll(`${folder.path}/`, ""),
			message,
		})));
	}
}

const load = (text: string, sets: string[] = [], recipes: Recipe[] | undefined = RECIPES) =>
	loadText(text, (file) => loadPipeline(file, { stages: STAGES, recipes, sets }));

const grid = (text: string, sets: string[] = []): Promise<RunGrid<Stage>> =>
	loadText(text, (file) => loadGrid(file, { stages: STAGES, recipes: RECIPES, sets }));

const names = ({ stages }: PipelineConfig<Stage>) => stages.map(({ stage }) => stage.name);
const optionsOf = ({ stages }: PipelineConfig<Stage>, name: string) =>
	stages.find(({ stage }) => stage.name === name)?.options;

/** A pipeline without its file, its text and the name of its recipe. */
const plain = ({ stages, ...rest }: PipelineConfig<Stage>) => ({
	...rest,
	absent: rest.absent.map(({ path, name }) => [path, name]),
	text: "",
	file: "",
	recipe: undefined,
	stages: stages.map(({ stage, options }) => [stage.name, options]),
});

const head = "name: a\nmodel: m\n";
const full = `${head}# the chain
recipe: default # or plain
stages:
  # texts
  calibrate: { dataset: &text a.txt }
  evaluate:
    perplexity: [{ dataset: *text }]
  gptq: { bits: 2 } # few
  refit-norm:
  download: {}
`;

Deno.test("a recipe gives the chain, with the options of the file", async () => {
	const config = await load(full);
	assert.equal(config.recipe, "default");
	assert.equal(
		config.text,
		`${head}stages:
  # Recipe default: All of it
  # texts
  - download: {}
  - calibrate: { dataset: a.txt }
  - rotate:
      block: 32
  - hessian
  - gptq: { bits: 2, group-size: 64 } # few
  - refit-norm
  - pack
  - evaluate:
      perplexity: [ { dataset: a.txt } ]
`,
	);
	assert.deepEqual(plain(await load(config.text)), plain(config));
	const places = config.stages.map(({ where }) => where.split("/").at(-1)!.slice(7));
	assert.deepEqual(places, ["12:3", "7:3", "4:1", "4:1", "10:3", "11:3", "4:1", "8:3"]);
});

Deno.test("false leaves a stage of a recipe out, also one that the recipe lacks", async () => {
	const text = `${head}recipe: default
stages: { rotate: false, refit-norm: false, calibrate: { dataset: a.txt } }
`;
	assert.deepEqual(names(await load(text)), ["download", "calibrate", "hessian", "gptq", "pack"]);
});

Deno.test("a recipe sets the mode unless the file does", async () => {
	const text = `${head}recipe: plain\n`;
	const config = await load(text);
	assert.deepEqual([config.mode, names(config)], ["reference", ["download", "rtn", "pack"]]);
	assert.equal(optionsOf(config, "rtn").grid, "range"); // a preset of the mode
	assert.match(config.text, /\nmode: reference\nstages:\n {2}# Recipe plain: Rounding\n/);
	assert.deepEqual(plain(await load(config.text)), plain(config));
	assert.equal((await load(`${text}mode: default\n`)).mode, "default");
	assert.equal((await load(text, ["mode=default"])).mode, "default");
});

Deno.test("a recipe in JSON gives a text that means the same", async () => {
	const stages = { calibrate: { dataset: "a.txt" }, "refit-norm": null };
	const config = await load(JSON.stringify({ name: "a", model: "m", recipe: "default", stages }));
	assert.match(config.text, /# Recipe default/);
	assert.deepEqual(plain(await load(config.text)), plain(config));
});

Deno.test("--set changes the recipe, its stages and their options", async () => {
	const sets = ["recipe=plain", "stages.rtn.bits=2", "mode=default", "stages.calibrate=false"];
	const config = await load(full, [...sets, "stages.gptq=false", "stages.refit-norm=false"]);
	assert.deepEqual(names(config), ["download", "rtn", "pack", "evaluate"]);
	assert.equal(optionsOf(config, "rtn").bits, 2);
	const added = await load(full, ["stages.rotate.seed=3", "stages.propagate-error={damping: 0}"]);
	assert.deepEqual(optionsOf(added, "rotate"), { block: 32, seed: 3 });
	assert.deepEqual(names(added).slice(2, 6), ["rotate", "hessian", "propagate-error", "gptq"]);
	const listed = await load(full, ["stages=[download]"]);
	assert.deepEqual([names(listed), listed.recipe], [["download"], undefined]);
});

Deno.test("recipes and stages of recipes vary in a grid", async () => {
	const { cells } = await grid(`name: g
stages: { calibrate: { dataset: a.txt }, evaluate: { perplexity: [{ dataset: b.txt }] } }
matrix:
  model: [m, n]
  recipe: [default, plain]
  stages.pack.scales: [f16, i4]
`);
	assert.equal(cells.length, 8);
	for (const { values, config } of cells) {
		assert.deepEqual(
			[config.recipe, optionsOf(config, "pack").scales, config.mode],
			[
				values.recipe,
				values["stages.pack.scales"],
				values.recipe === "plain" ? "reference" : "default",
			],
		);
		assert.equal(names(config).at(-1), "evaluate");
		assert.deepEqual(plain(await load(config.text)), plain(config));
	}
});

const variants = `name: g
model: m
recipe: default
stages: { calibrate: { dataset: a.txt } }
matrix:
  x:
    - { name: a }
    - { name: b, recipe: plain, stages.calibrate: false }
    - { name: c, stages.rotate: false, stages.gptq.bits: 2 }
    - { name: d, stages: [download] }
    - { name: e, stages: { calibrate: { dataset: b.txt }, refit-norm: } }
`;

Deno.test("variants may set a recipe, leave out its stages, or list stages instead", async () => {
	const { cells } = await grid(variants, ["stages.gptq.group-size=32", "stages.pack=false"]);
	assert.deepEqual(
		cells.map(({ config }) => [config.recipe, names(config).join(" ")]),
		[
			["default", "download calibrate rotate hessian gptq"],
			["plain", "download rtn"],
			["default", "download calibrate hessian gptq"],
			[undefined, "download"],
			["default", "download calibrate rotate hessian gptq refit-norm"],
		],
	);
	assert.deepEqual(
		cells.map(({ config }) => optionsOf(config, "gptq")?.["group-size"]),
		[32, undefined, 32, undefined, 32],
	);
});

/** Adds a test that a text has exactly these problems. */
function refuses(
	what: string,
	text: string,
	expected: string[],
	{ sets, recipes, read = load }: {
		sets?: string[];
		recipes?: Recipe[];
		read?: (text: string, sets?: string[], recipes?: Recipe[]) => Promise<unknown>;
	} = {},
): void {
	Deno.test(`a pipeline file is refused: ${what}`, async () => {
		const error = await read(text, sets, recipes).then(() => undefined, (error) => error);
		assert.ok(error instanceof PipelineFileError, String(error));
		assert.deepEqual(error.message.split("\n"), expected);
	});
}

refuses("a misspelled recipe", `${head}recipe: defualt\n`, [
	`p.yaml:3:9: Unknown recipe "defualt"; did you mean "default"? ${KNOWN}`,
]);

refuses("an unknown recipe", full, [`--set recipe=x: Unknown recipe "x". ${KNOWN}`], {
	sets: ["recipe=x"],
});

refuses("a recipe that is no name", `${head}recipe:\n`, [
	`p.yaml:3:1: recipe must be a name, found null. ${KNOWN}`,
]);

refuses("a recipe where a program has none", full, [
	'p.yaml:4:9: Unknown recipe "default"; this program has none',
], { recipes: [] });

refuses("a recipe beside a list", `${head}recipe: plain\nstages: [download]\n`, [
	'p.yaml:3:1: "recipe" stands beside a list of stages; leave out one of them, or write "stages" ' +
	"as a map of options",
]);

refuses("a recipe beside a value", `${head}recipe: plain\nstages: 5\n`, [
	'p.yaml:4:9: stages must be a map of options beside "recipe", found 5',
]);

refuses("a map of options without a recipe", `${head}stages: { pack: {} }\n`, [
	'p.yaml:3:1: "stages" is a map of options, which needs a recipe; add "recipe: default", or write ' +
	"them as a list",
]);

refuses(
	"mistakes in the options, each at its place",
	`${head}recipe: default
stages:
  gptq: { bitz: 3 }
  rotate: { block: 33 }
  use: ./mine.ts
  pack: true
  refit-nrom: false
  binarize:
`,
	[
		'p.yaml:3:1: calibrate lacks "dataset": wikitext2, ptb, c4 (downloaded from the hub); or a .txt, .txt.gz, ' +
		".jsonl, .jsonl.gz or .parquet file (column text), a folder of these, a .raw file of WikiText, or " +
		"a .safetensors file with token ids [windows, length]",
		'p.yaml:5:11: Unknown key "bitz" in gptq; did you mean "bits"?',
		"p.yaml:6:20: rotate.block must be one of 16, 32, 64, 128, 256, 512, found 33",
		'p.yaml:7:3: A stage with "use" stands only in a list of stages, which takes no recipe',
		"p.yaml:8:9: pack must be a map, found true",
		'p.yaml:9:3: Unknown stage "refit-nrom"; did you mean "refit-norm"? ' +
		`Known stages: ${STAGE_NAMES}`,
		`p.yaml:10:3: Unknown stage "binarize". Known stages: ${STAGE_NAMES}`,
	],
);

refuses("a misspelled stage, once", `${head}recipe: default\nstages: { calibrat: {} }\n`, [
	'p.yaml:4:11: Unknown stage "calibrat"; did you mean "calibrate"? ' +
	`Known stages: ${STAGE_NAMES}`,
]);

refuses("stages that do not go together", `${head}recipe: plain\nstages: { row-search: }\n`, [
	'p.yaml:4:11: Stage "row-search" needs "hessian", which stage "hessian" gives; put hessian ' +
	"before it",
	'p.yaml:4:11: Stage "row-search" needs "block-error", which stage "rtn" gives; put rtn before it',
]);

refuses("wrong overrides of a recipe", full, [
	'--set recipe.x=1: "recipe" is "default" and has no "x"',
	'--set stages.rtn.bits=2: "stages.rtn" names no stage of this pipeline; its stages: download, ' +
	"calibrate, rotate, hessian, gptq, refit-norm, pack, evaluate, nothing",
	'--set stages.hessian.dampin=1: Unknown key "dampin" in hessian; did you mean "damping"?',
	`--set stages.nothing=false: Unknown stage "nothing". Known stages: ${STAGE_NAMES}`,
], {
	sets: [
		"recipe.x=1",
		"stages.rtn.bits=2",
		"stages.hessian.dampin=1",
		"stages.nothing=false",
	],
});

refuses(
	"mistakes in a grid, each at its place",
	`${variants}    - { name: f, recipe: plane }
    - { name: g, recipe: plain, stages: [download] }
    - { name: h, recipe: plain, stages.gptq.bits: 2, stages.calibrate: false }
    - { name: i, stages.hessian.damping: -1 }
`,
	[
		`p.yaml:12:18: Unknown recipe "plane"; did you mean "plain"? ${KNOWN} (cell "f")`,
		'p.yaml:13:18: "recipe" stands beside a list of stages; leave out one of them, or write "stages" ' +
		'as a map of options (cell "g")',
		'p.yaml:14:33: "stages.gptq" names no stage of this pipeline; its stages: download, rtn, pack ' +
		'(cell "h")',
		'p.yaml:15:42: hessian.damping must be at least 0, found -1 (cell "i")',
	],
	{ read: grid },
);

refuses("overrides of the recipe that a grid varies", variants, [
	'--set recipe=plain: The matrix varies "recipe"; choose cells with --cell instead',
], { sets: ["recipe=plain"], read: grid });
