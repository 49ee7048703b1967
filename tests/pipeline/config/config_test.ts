import assert from "node:assert/strict";
import { join } from "node:path";
import { z } from "zod";
import { didYouMean } from "../../../base/did_you_mean.ts";
import { UserError } from "../../../base/errors.ts";
import { PipelineFileError } from "../../../pipeline/config/errors.ts";
import {
	loadPipeline,
	needsOf,
	type PipelineConfig,
	pipelineJsonSchema,
	type StageDeclaration,
} from "../../../pipeline/config/config.ts";

// Few and small stages: what is tested is what a file may say, not what the real ones are called.

const download: StageDeclaration = {
	name: "download",
	scope: "model",
	summary: "Gets the model.",
	options: z.strictObject({
		revision: z.string().min(1).default("main").describe("branch, tag or commit"),
		offline: z.boolean().default(false).describe("use the cache only"),
	}),
	needs: [],
	gives: ["model-files"],
};

const calibrate: StageDeclaration = {
	name: "calibrate",
	scope: "model",
	summary: "Makes token windows.",
	options: z.strictObject({
		dataset: z.string().describe("a text file"),
		samples: z.int().min(1).max(4096).default(32).describe("token windows"),
		"sequence-length": z.int().min(2).multipleOf(2).default(256).describe("tokens per window"),
		shuffle: z.union([z.boolean(), z.literal("once")]).default(false).describe("order of windows"),
	}),
	presets: { reference: { samples: 128, "sequence-length": 2048 } },
	needs: ["model-files"],
	gives: ["calibration"],
};

const hessian: StageDeclaration = {
	name: "hessian",
	scope: "layer",
	summary: "Sums the squared inputs.",
	options: z.strictObject({
		damping: z.number().gt(0).lt(1).default(0.01).describe("share of the mean diagonal"),
		output: z.enum(["factor", "diagonal"]).default("factor").describe("what it gives"),
	}),
	needs: ["calibration"],
	gives: ["factor"],
};

const select: StageDeclaration = {
	name: "salient-select",
	scope: "block",
	summary: "Chooses the salient columns.",
	options: z.strictObject({
		metric: z.enum(["hessian", "magnitude"]).default("hessian").describe("what ranks columns"),
		"max-columns": z.int().min(1).default(50).describe("the most columns that are tried"),
	}),
	needs: ({ metric }: { metric: string }) => metric === "hessian" ? ["factor"] : [],
	gives: ["salient-columns"],
};

const compensate: StageDeclaration = {
	name: "compensate",
	scope: "block",
	summary: "Spreads the error.",
	options: z.strictObject({}),
	needs: ["factor"],
	gives: [],
};

const pack: StageDeclaration = {
	name: "pack",
	scope: "layer",
	summary: "Writes the bits.",
	options: z.strictObject({}),
	needs: [],
	gives: ["packed-model"],
};

const evaluate: StageDeclaration = {
	name: "evaluate",
	scope: "model",
	summary: "Measures perplexity.",
	options: z.strictObject({
		perplexity: z.array(z.strictObject({
			dataset: z.string().describe("a text file"),
			"sequence-length": z.int().min(2).default(256).describe("tokens per window"),
		})).default([]).describe("the texts to measure on"),
		limit: z.union([z.literal("none"), z.int().min(1)]).default("none").describe("windows"),
		baseline: z.string().optional().describe("a second model"),
		batch: z.int().default(1).refine((n) => n % 2 === 1, "must be odd").describe("windows at once"),
		source: z.union([z.string(), z.strictObject({ path: z.string(), rows: z.int() })])
			.optional().describe("where from"),
		tags: z.array(z.string().max(3)).min(1).optional().describe("labels"),
	}).superRefine(({ tags, baseline }, context) => {
		if (tags && !baseline) {
			context.addIssue({ code: "custom", path: ["baseline"], message: 'must stand beside "tags"' });
		}
	}),
	needs: ["packed-model"],
	gives: [],
};

const rotate: StageDeclaration = {
	name: "rotate",
	scope: "block",
	summary: "A stage that no other stage prepares.",
	options: z.strictObject({}),
	needs: ["basis"],
	gives: [],
};

const stages = [download, calibrate, hessian, select, compensate, pack, evaluate, rotate];
const known = "Known stages: download, calibrate, hessian, salient-select, compensate, pack, " +
	"evaluate, rotate";

const head = "name: tiny\nmodel: models/tiny\n";
const full = `# The whole method.
name: tiny # used in paths
model: models/tiny
stages:
  - download: { revision: main }
  # text first
  - calibrate:
      dataset: a.txt # short
      samples: 16 # enough
  - hessian: { damping: 1e-2 }
  - salient-select
  - compensate:
  - pack: {}
  - evaluate: { perplexity: [{ dataset: b.txt }] }
`;

interface Loading {
	stages?: StageDeclaration[];
	sets?: string[];
	importStage?: (path: string) => Promise<StageDeclaration>;
	files?: Record<string, string>;
}

/** Loads a pipeline text from a folder of its own, under the name `p.yaml` in all messages. */
async function load(
	text: string | Uint8Array,
	{ files = {}, ...options }: Loading = {},
): Promise<PipelineConfig<StageDeclaration>> {
	const folder = await Deno.makeTempDir();
	try {
		await Deno.writeFile(
			join(folder, "p.yaml"),
			typeof text === "string" ? new TextEncoder().encode(text) : text,
		);
		for (const [name, content] of Object.entries(files)) {
			await Deno.writeTextFile(join(folder, name), content);
		}
		return await loadPipeline(join(folder, "p.yaml"), { stages, ...options });
	} catch (error) {
		if (!(error instanceof PipelineFileError)) throw error;
		const short = (text: string) => text.replaceAll(`${folder}/`, "");
		throw new PipelineFileError(
			error.problems.map(({ where, message }) => ({
				where: short(where),
				message: short(message),
			})),
		);
	} finally {
		await Deno.remove(folder, { recursive: true });
	}
}

/** The problems of a pipeline text, one line each. */
async function problems(text: string | Uint8Array, loading: Loading = {}): Promise<string[]> {
	try {
		await load(text, loading);
		return [];
	} catch (error) {
		if (error instanceof PipelineFileError) return error.message.split("\n");
		throw error;
	}
}

/** Adds a test that a text has exactly these problems. */
function refuses(what: string, text: string, expected: string[], loading: Loading = {}): void {
	Deno.test(`loadPipeline() refuses ${what}`, async () => {
		assert.deepEqual(await problems(text, loading), expected);
	});
}

// --- What is accepted ---

Deno.test("loadPipeline() gives the checked pipeline with its defaults", async () => {
	const config = await load(full);
	assert.equal(config.name, "tiny");
	assert.equal(config.model, "models/tiny");
	assert.equal(config.output, "out/tiny");
	assert.equal(config.seed, 0);
	assert.equal(config.mode, "default");
	assert.deepEqual(config.gpu, { adapter: "auto", precision: "f32" });
	assert.equal(config.text, full);
	assert.ok(config.file.endsWith("p.yaml"));
	assert.deepEqual(config.stages.map(({ stage, options }) => [stage.name, options]), [
		["download", { revision: "main", offline: false }],
		["calibrate", { dataset: "a.txt", samples: 16, "sequence-length": 256, shuffle: false }],
		["hessian", { damping: 0.01, output: "factor" }],
		["salient-select", { metric: "hessian", "max-columns": 50 }],
		["compensate", {}],
		["pack", {}],
		["evaluate", {
			perplexity: [{ dataset: "b.txt", "sequence-length": 256 }],
			limit: "none",
			batch: 1,
		}],
	]);
	assert.equal(config.stages[0].stage, download);
	const places = config.stages.map(({ where }) => where.split("/").at(-1));
	assert.deepEqual(places, [
		"p.yaml:5:5",
		"p.yaml:7:5",
		"p.yaml:10:5",
		"p.yaml:11:5",
		"p.yaml:12:5",
		"p.yaml:13:5",
		"p.yaml:14:5",
	]);
});

Deno.test("loadPipeline() takes every top-level key", async () => {
	const config = await load(
		"name: A-1_b.c\nmodel: m\noutput: x/y\nseed: 4294967295\nmode: reference\n" +
			"gpu: { adapter: software }\nstages: [download]\n",
	);
	const { name, output, seed, mode, gpu } = config;
	assert.deepEqual({ name, output, seed, mode, gpu }, {
		name: "A-1_b.c",
		output: "x/y",
		seed: 4294967295,
		mode: "reference",
		gpu: { adapter: "software", precision: "f32" },
	});
});

Deno.test("loadPipeline() takes numbers as YAML writes them, aliases, a BOM and CRLF", async () => {
	const config = await load(
		`\ufeff${head}stages:\n  - download\n` +
			"  - calibrate: { dataset: &text a.txt, samples: 0x10, sequence-length: 1e3 }\n" +
			"  - hessian\n  - pack\n  - evaluate: { perplexity: [{ dataset: *text }] }\n"
				.replaceAll("\n", "\r\n"),
	);
	assert.equal(config.stages[1].options.samples, 16);
	assert.equal(config.stages[1].options["sequence-length"], 1000);
	assert.equal(config.stages[4].options.perplexity[0].dataset, "a.txt");
});

Deno.test("mode: reference puts the presets between the file and the defaults", async () => {
	const text = `${head}stages: [download, { calibrate: { dataset: a.txt, samples: 8 } }]\n`;
	const config = await load(`mode: reference\n${text}`);
	assert.deepEqual(config.stages[1].options, {
		dataset: "a.txt",
		samples: 8,
		"sequence-length": 2048,
		shuffle: false,
	});
	const set = await load(text, { sets: ["mode=reference"] });
	assert.equal(set.stages[1].options["sequence-length"], 2048);
	assert.equal((await load(text)).stages[1].options["sequence-length"], 256);
});

Deno.test("presets may depend on the written options", async () => {
	const presets = {
		reference: ({ bits }: Record<string, unknown>) => bits === 1 ? {} : { grid: "range" },
	};
	const options = z.strictObject({
		bits: z.int().default(2).describe("width"),
		grid: z.string().default("search").describe("levels"),
	});
	const rounding = { ...download, name: "round", options, presets };
	const optionsOf = async (mode: string, written: object) => {
		const stages = JSON.stringify([{ round: written }]);
		const text = `mode: ${mode}\n${head}stages: ${stages}\n`;
		return (await load(text, { stages: [rounding] })).stages[0].options;
	};
	assert.deepEqual(await optionsOf("reference", {}), { bits: 2, grid: "range" });
	assert.deepEqual(await optionsOf("reference", { bits: 1 }), { bits: 1, grid: "search" });
	assert.deepEqual(await optionsOf("reference", { grid: "x" }), { bits: 2, grid: "x" });
	assert.deepEqual(await optionsOf("default", {}), { bits: 2, grid: "search" });
});

Deno.test("needsOf() asks the options where a stage's needs depend on them", () => {
	assert.deepEqual(needsOf(select, { metric: "hessian" }), ["factor"]);
	assert.deepEqual(needsOf(select, { metric: "magnitude" }), []);
	assert.deepEqual(needsOf(calibrate, {}), ["model-files"]);
});

// --- The file itself ---

Deno.test("loadPipeline() says why a file cannot be read", async () => {
	const folder = await Deno.makeTempDir();
	const message = async (path: string) => {
		const error = await loadPipeline(path, { stages }).catch((error) => error);
		assert.ok(error instanceof PipelineFileError);
		return error.problems;
	};
	try {
		assert.deepEqual(await message("no/such.yaml"), [{
			where: "no/such.yaml",
			message: 'Cannot read the pipeline file "no/such.yaml": no such file',
		}]);
		assert.deepEqual(await message(folder), [{
			where: folder,
			message: `Cannot read the pipeline file "${folder}": it is a folder`,
		}]);
		const file = join(folder, "x.yaml");
		await Deno.writeFile(file, new Uint8Array([0x6e, 0xff, 0xfe]));
		assert.deepEqual(await message(file), [{
			where: file,
			message: `Cannot read the pipeline file "${file}": it is not UTF-8 text`,
		}]);
		assert.deepEqual(await message(`${file}/y.yaml`), [{
			where: `${file}/y.yaml`,
			message: `Cannot read the pipeline file "${file}/y.yaml": no such file`,
		}]);
	} finally {
		await Deno.remove(folder, { recursive: true });
	}
});

const form = 'a map with "name", "model" and "stages"';
refuses("an empty file", "", [`p.yaml:1:1: The pipeline file is empty; it must be ${form}`]);
refuses("a file of comments", "# a\n", [
	`p.yaml:1:1: The pipeline file is empty; it must be ${form}`,
]);
refuses("a list", "\n- name: x\n", [`p.yaml:2:1: The pipeline must be ${form}, found a list`]);
refuses("a word", "pipeline", [`p.yaml:1:1: The pipeline must be ${form}, found "pipeline"`]);
refuses("a number", "3\n", [`p.yaml:1:1: The pipeline must be ${form}, found 3`]);
refuses("an alias", "- *x\n", [`p.yaml:1:1: The pipeline must be ${form}, found a list`]);
refuses("null", "~\n", [`p.yaml:1:1: The pipeline must be ${form}, found null`]);

refuses("what is not YAML, with the place", "name: x\nmodel: [1, 2\nseed: 3\n", [
	"p.yaml:3:1: Not valid YAML: Flow sequence in block collection must be sufficiently indented " +
	"and end with a ]",
]);
refuses("several syntax errors at once", 'name: a: b\nmodel: "x\n', [
	"p.yaml:1:7: Not valid YAML: Nested mappings are not allowed in compact mappings",
	'p.yaml:3:1: Not valid YAML: Missing closing "quote',
]);
refuses("an unknown tag", "name: !date x\n", [
	"p.yaml:1:7: Not valid YAML: Unresolved tag: !date",
]);
refuses(
	"duplicate keys, together with other problems",
	`name: x\nmodel: m\nsed: 1\nname: y\nstages:\n  - download: { revision: a, revision: b }\n`,
	[
		'p.yaml:3:1: Unknown key "sed" in the pipeline; did you mean "seed"?',
		'p.yaml:4:1: Key "name" occurs twice in this map; a key may occur once',
		'p.yaml:6:30: Key "revision" occurs twice in this map; a key may occur once',
	],
);
refuses("a list as key", `${head}stages: [download]\n[a]: 1\n`, [
	"p.yaml:4:1: A key must be a word, not a list, map or alias",
]);
refuses("an alias of nothing", `${head}stages: *list\n`, [
	'p.yaml:3:9: Alias "*list" has no anchor before it',
]);
refuses("an alias within its own value", `${head}stages: &list [download, *list]\n`, [
	'p.yaml:3:26: Alias "*list" stands within its own value',
]);
refuses(
	"aliases that grow without end",
	"a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" +
		"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n",
	[
		"p.yaml:1:1: Not valid YAML: Excessive alias count indicates a resource exhaustion attack",
	],
);

// --- Top-level keys ---

refuses("a map without the required keys", "seed: 1\n", [
	'p.yaml:1:1: The pipeline lacks "name": the name of the run, used in paths',
	'p.yaml:1:1: The pipeline lacks "model": the folder of a model, with config.json and its weights, or its name on the hub',
	'p.yaml:1:1: The pipeline lacks "stages": the stages to run, in this order',
]);
refuses(
	"wrong top-level values, each at its place",
	"name: a/b\nmodel: 3\noutput:\nseed: 4294967296\nmode: refrence\ngpu:\n  adapter: [1]\n" +
		"  adaptr: auto\nstages: []\nfoo: 1\n",
	[
		'p.yaml:1:7: name must be letters, digits, ".", "_" and "-", beginning with a letter or ' +
		'digit, found "a/b"',
		"p.yaml:2:8: model must be a string, found 3",
		"p.yaml:3:1: output must be a string, found null",
		"p.yaml:4:7: seed must be at most 4294967295, found 4294967296",
		'p.yaml:5:7: mode must be one of "default", "reference", found "refrence"; did you mean ' +
		'"reference"?',
		"p.yaml:7:12: gpu.adapter must be a string or a whole number, found [1]",
		'p.yaml:8:3: Unknown key "adaptr" in gpu; did you mean "adapter"?',
		"p.yaml:9:9: stages must not be empty, found []",
		'p.yaml:10:1: Unknown key "foo" in the pipeline; known keys: name, model, recipe, output, seed, ' +
		"mode, gpu, stages, matrix",
	],
);
for (const name of ["..", ".", ".hidden", "", "a b"]) {
	refuses(`the name ${JSON.stringify(name)}`, `name: "${name}"\nmodel: m\nstages: [download]\n`, [
		'p.yaml:1:7: name must be letters, digits, ".", "_" and "-", beginning with a letter or ' +
		`digit, found "${name}"`,
	]);
}
for (
	const [value, message] of [
		["-1", "must be at least 0, found -1"],
		["1.5", "must be a whole number, found 1.5"],
		["many", 'must be a whole number, found "many"'],
		[".nan", "must be a finite number, found NaN"],
		["-.inf", "must be a finite number, found -Infinity"],
		["1e999", "must be a finite number, found Infinity"],
		["1e30", "must be at most 4294967295, found 1e+30"],
		["[1, {a: 2}]", 'must be a whole number, found [1,{"a":2}]'],
		["true", "must be a whole number, found true"],
	]
) {
	refuses(`the seed ${value}`, `${head}stages: [download]\nseed: ${value}\n`, [
		`p.yaml:4:7: seed ${message}`,
	]);
}
refuses("an empty model", "name: x\nmodel: ''\nstages: [download]\n", [
	'p.yaml:2:8: model must not be empty, found ""',
]);
refuses("stages that are no list", `${head}stages:\n  download: {}\n`, [
	'p.yaml:4:3: stages must be a list, found {"download":{}}',
]);
refuses("__proto__ as a key", `${head}stages: [download]\n__proto__: 1\n`, [
	'p.yaml:4:1: Unknown key "__proto__" in the pipeline; known keys: name, model, recipe, output, seed, ' +
	"mode, gpu, stages, matrix",
]);

// --- Stage items ---

refuses("unknown stages", `${head}stages:\n  - salient-selct: {}\n  - foo\n  - bar:\n`, [
	`p.yaml:4:5: Unknown stage "salient-selct"; did you mean "salient-select"? ${known}`,
	`p.yaml:5:5: Unknown stage "foo". ${known}`,
	`p.yaml:6:5: Unknown stage "bar". ${known}`,
]);
const forms = 'its name, its name with options, or "use" with a module';
refuses("items that are no stage", `${head}stages:\n  - download\n  - 3\n  - {}\n  -\n  - [a]\n`, [
	`p.yaml:5:5: A stage must be ${forms}, found 3`,
	`p.yaml:6:5: A stage must be ${forms}, found {}`,
	`p.yaml:7:4: A stage must be ${forms}, found null`,
	`p.yaml:8:5: A stage must be ${forms}, found ["a"]`,
]);
refuses(
	"options beside their stage",
	`${head}stages:\n  - download\n  - calibrate:\n    dataset: a.txt\n`,
	[
		'p.yaml:6:5: Key "dataset" stands beside stage "calibrate"; indent the options of calibrate ' +
		'under it, or begin a new item with "-"',
	],
);
refuses(
	"options that are no map",
	`${head}stages:\n  - download: 3\n  - hessian: [1]\n  - pack: x\n`,
	[
		"p.yaml:4:15: download must be a map, found 3",
		'p.yaml:5:5: Stage "hessian" needs "calibration", which stage "calibrate" gives; put ' +
		"calibrate before it",
		"p.yaml:5:14: hessian must be a map, found [1]",
		'p.yaml:6:11: pack must be a map, found "x"',
	],
);

// --- Options ---

/** Adds a test of one stage's options, which begin in line 6, column 7. */
function refusesOptions(what: string, stage: string, yaml: string, expected: string[]): void {
	const before = ["download", "calibrate", "pack"].slice(0, stage === "calibrate" ? 1 : 3);
	const items = before.map((name) => name === "calibrate" ? "{ calibrate: { dataset: a } }" : name);
	const seq = items.map((item) => `- ${item}`).join("\n");
	const start = 3 + items.length;
	const lines = yaml.split("\n").map((line) => `    ${line}`).join("\n");
	refuses(
		what,
		`${head}stages:\n${seq}\n- ${stage}:\n${lines}\n`,
		expected.map((text) => text.replace(/^(\d+)/, (line) => `p.yaml:${start + Number(line)}`)),
	);
}

refusesOptions("unknown option keys", "calibrate", "dataset: a\nsampels: 1\nfoo: 2", [
	'3:5: Unknown key "sampels" in calibrate; did you mean "samples"?',
	'4:5: Unknown key "foo" in calibrate; known keys: dataset, samples, sequence-length, shuffle',
]);
refusesOptions("option values of the wrong kind", "calibrate", "dataset: [a]\nsamples: many", [
	'2:14: calibrate.dataset must be a string, found ["a"]',
	'3:14: calibrate.samples must be a whole number, found "many"',
]);
refusesOptions("option values out of range", "calibrate", "dataset: a\nsamples: 0", [
	"3:14: calibrate.samples must be at least 1, found 0",
]);
refusesOptions(
	"option values above the range",
	"calibrate",
	"dataset: a\nsamples: 5000\nsequence-length: 7",
	[
		"3:14: calibrate.samples must be at most 4096, found 5000",
		"4:22: calibrate.sequence-length must be a multiple of 2, found 7",
	],
);
refusesOptions("a missing option", "calibrate", "samples: 3", [
	'2:5: calibrate lacks "dataset": a text file',
]);
refusesOptions("open ends of a range", "hessian", "damping: 0", [
	"2:14: hessian.damping must be more than 0, found 0",
]);
refusesOptions("the other open end", "hessian", "damping: 1", [
	"2:14: hessian.damping must be less than 1, found 1",
]);
refusesOptions("a number that is not finite", "hessian", "damping: .inf", [
	"2:14: hessian.damping must be a finite number, found Infinity",
]);
refusesOptions("a word for a number", "hessian", "damping: low", [
	'2:14: hessian.damping must be a number, found "low"',
]);
refusesOptions("a value left out", "hessian", "damping:\noutput: factor", [
	"2:5: hessian.damping must be a number, found null",
]);
refusesOptions(
	"lists, unions and checks that a value does not meet",
	"evaluate",
	"perplexity: {}\nlimit: all\nbatch: 4\ntags: []",
	[
		"2:17: evaluate.perplexity must be a list, found {}",
		'3:12: evaluate.limit must be "none" or a whole number, found "all"',
		"4:12: evaluate.batch must be odd, found 4",
		"5:11: evaluate.tags must not be empty, found []",
	],
);
refusesOptions(
	"what stands deep in lists and maps",
	"evaluate",
	"perplexity:\n  - { dataset: a, sequence-length: 1 }\n  - sequence-lenght: 4\n  - b\n" +
		"tags: [abcd, efg]",
	[
		"3:40: evaluate.perplexity.0.sequence-length must be at least 2, found 1",
		'4:9: evaluate.perplexity.1 lacks "dataset": a text file',
		'4:9: Unknown key "sequence-lenght" in evaluate.perplexity.1; did you mean "sequence-length"?',
		'5:9: evaluate.perplexity.2 must be a map, found "b"',
		'6:12: evaluate.tags.0 must have at most 3 characters, found "abcd"',
	],
);
refusesOptions("what a stage's own check of several options refuses", "evaluate", "tags: [a]", [
	'2:5: evaluate.baseline must stand beside "tags"',
]);
refusesOptions(
	"a value near one option of a union",
	"evaluate",
	"source: { path: 3, row: 1 }",
	[
		'2:13: evaluate.source lacks "rows"',
		"2:21: evaluate.source.path must be a string, found 3",
		'2:24: Unknown key "row" in evaluate.source; did you mean "rows"?',
	],
);
refusesOptions("a value of no kind in a union", "evaluate", "source: 3\nlimit: 0", [
	"2:13: evaluate.source must be a string or a map, found 3",
	"3:12: evaluate.limit must be at least 1, found 0",
]);
refuses(
	"a misspelt choice",
	`${head}stages:\n  - download: { offline: maybe }\n  - salient-select: { metric: hesian }\n`,
	[
		'p.yaml:4:26: download.offline must be true or false, found "maybe"',
		'p.yaml:5:31: salient-select.metric must be one of "hessian", "magnitude", found "hesian"; ' +
		'did you mean "hessian"?',
	],
);
refuses(
	"a long value, cut",
	`${head}stages:\n  - download: { offline: "${"x".repeat(100)}" }\n`,
	[`p.yaml:4:26: download.offline must be true or false, found "${"x".repeat(59)}…`],
);
refuses(
	"a value behind an alias, at the alias",
	`${head}seed: &s many\nstages:\n  - download\n  - calibrate: { dataset: a, samples: *s }\n`,
	[
		'p.yaml:3:10: seed must be a whole number, found "many"',
		'p.yaml:6:39: calibrate.samples must be a whole number, found "many"',
	],
);
refuses(
	"a missing option of a stage without a map",
	`${head}stages: [download, calibrate, { calibrate: }]`,
	[
		'p.yaml:3:20: calibrate lacks "dataset": a text file',
		'p.yaml:3:33: calibrate lacks "dataset": a text file',
		'p.yaml:3:33: Stage "calibrate" occurs twice; a stage may occur once',
	],
);

Deno.test("a preset that is wrong is reported at its stage", async () => {
	const broken = { ...pack, presets: { reference: { planes: 1 } } };
	const text = `mode: reference\n${head}stages: [download, { pack: {} }]\n`;
	const folder = await Deno.makeTempDir();
	try {
		const file = join(folder, "p.yaml");
		await Deno.writeTextFile(file, text);
		await assert.rejects(loadPipeline(file, { stages: [download, broken] }), {
			message: `${file}:4:28: Unknown key "planes" in pack`,
		});
	} finally {
		await Deno.remove(folder, { recursive: true });
	}
});

// --- The chain ---

const chain = (...items: string[]) =>
	`${head}stages:\n${items.map((item) => `  - ${item}\n`).join("")}`;
const text = "calibrate: { dataset: a }";

refuses(
	"a stage before what it needs",
	chain("download", text, "compensate", "hessian", "pack"),
	[
		'p.yaml:6:5: Stage "compensate" needs "factor", which stage "hessian" gives; put hessian ' +
		"before it",
	],
);
refuses("a stage without what it needs", chain("download", text, "compensate: {}"), [
	'p.yaml:6:5: Stage "compensate" needs "factor", which stage "hessian" gives; put hessian ' +
	"before it",
]);
refuses("a stage whose need no stage gives", chain("download", "rotate"), [
	'p.yaml:5:5: Stage "rotate" needs "basis", which no stage gives',
]);
refuses("needs that follow from options", chain("download", "salient-select: {}"), [
	'p.yaml:5:5: Stage "salient-select" needs "factor", which stage "hessian" gives; put hessian ' +
	"before it",
]);
Deno.test("loadPipeline() takes options that need nothing", async () => {
	assert.deepEqual(await problems(chain("download", "salient-select: { metric: magnitude }")), []);
});
refuses("the same stage twice", chain("pack", "download", "pack"), [
	'p.yaml:5:5: Stage "download" runs once per model and cannot stand between the stages of a ' +
	'layer; put it before "pack" or after "pack"',
	'p.yaml:6:5: Stage "pack" occurs twice; a stage may occur once',
]);
refuses(
	"a stage of the model within those of a layer",
	chain(text, "hessian", "download", "compensate", "pack", "evaluate"),
	[
		'p.yaml:4:5: Stage "calibrate" needs "model-files", which stage "download" gives; put ' +
		"download before it",
		'p.yaml:6:5: Stage "download" runs once per model and cannot stand between the stages of a ' +
		'layer; put it before "hessian" or after "pack"',
	],
);
refuses(
	"a misspelt stage, once: what follows from it is not reported",
	chain("download", text, "hesian", "compensate", "pack"),
	[`p.yaml:6:5: Unknown stage "hesian"; did you mean "hessian"? ${known}`],
);
refuses("an unknown stage, which may give anything", chain("wonder", "rotate", "compensate"), [
	`p.yaml:4:5: Unknown stage "wonder". ${known}`,
]);

// --- Overrides ---

Deno.test("--set changes values and keeps comments", async () => {
	const config = await load(full, {
		sets: [
			"stages.calibrate.samples=64",
			"seed=3",
			"stages.evaluate.perplexity.0.sequence-length=128",
			"gpu.adapter=software",
			"stages.salient-select.metric=magnitude",
			"stages.hessian={damping: 0.5}",
			"model=a=b",
		],
	});
	assert.equal(config.seed, 3);
	assert.equal(config.model, "a=b");
	assert.equal(config.gpu.adapter, "software");
	assert.equal(config.stages[1].options.samples, 64);
	assert.equal(config.stages[2].options.damping, 0.5);
	assert.equal(config.stages[3].options.metric, "magnitude");
	assert.equal(config.stages[6].options.perplexity[0]["sequence-length"], 128);
	assert.equal(
		config.text,
		`# The whole method.
name: tiny # used in paths
model: a=b
stages:
  - download: { revision: main }
  # text first
  - calibrate:
      dataset: a.txt # short
      samples: 64 # enough
  - hessian: { damping: 0.5 }
  - salient-select:
      metric: magnitude
  - compensate:
  - pack: {}
  - evaluate: { perplexity: [ { dataset: b.txt, sequence-length: 128 } ] }
seed: 3
gpu:
  adapter: software
`,
	);
	const again = await load(config.text);
	assert.deepEqual(
		again.stages.map(({ options }) => options),
		config.stages.map(({ options }) => options),
	);
});

Deno.test("--set makes maps of the short forms of a stage and keeps their comments", async () => {
	const config = await load(
		`${head}stages:\n  # first\n  - download # last\n  - calibrate: # text\n  - pack\n`,
		{
			sets: [
				"stages.download.revision=v1",
				"stages.download.offline=true",
				"stages.calibrate.dataset=a.txt",
			],
		},
	);
	assert.equal(
		config.text,
		`${head}stages:
  # first
  - download:
      revision: v1
      offline: true
    # last
  - calibrate:
      dataset: a.txt
      # text
  - pack
`,
	);
	assert.deepEqual(config.stages[0].options, { revision: "v1", offline: true });
});

Deno.test("--set keeps an anchor, so its aliases follow", async () => {
	const config = await load(
		`${head}stages:\n  - download\n  - calibrate: { dataset: &text a.txt }\n  - pack\n` +
			"  - evaluate: { perplexity: [{ dataset: *text }] }\n",
		{ sets: ["stages.calibrate.dataset=b.txt"] },
	);
	assert.equal(config.stages[3].options.perplexity[0].dataset, "b.txt");
});

Deno.test("--set later overrides earlier", async () => {
	const config = await load(full, { sets: ["seed=1", "seed=2"] });
	assert.equal(config.seed, 2);
});

for (
	const [set, message] of [
		[
			"stages.calibrat.samples=16",
			'"stages.calibrat" names no stage of this pipeline; did you ' +
			'mean "calibrate"?',
		],
		[
			"stages.foo.samples=16",
			'"stages.foo" names no stage of this pipeline; its stages: ' +
			"download, calibrate, hessian, salient-select, compensate, pack, evaluate",
		],
		["stages.calibrate.samples", "Not of the form path=value, as in seed=3"],
		["=3", "Not of the form path=value, as in seed=3"],
		["stages..samples=3", "Not of the form path=value, as in seed=3"],
		["seed=", "seed must be a whole number, found null"],
		[
			"seed=[1",
			"Not valid YAML: Flow sequence must end with a ]",
		],
		["seed=*x", 'Alias "*x" has no anchor before it'],
		["sed=1", 'Unknown key "sed" in the pipeline; did you mean "seed"?'],
		["stages.calibrate.samples=0", "calibrate.samples must be at least 1, found 0"],
		["stages.calibrate.sampels=1", 'Unknown key "sampels" in calibrate; did you mean "samples"?'],
		["stages.pack=3", "pack must be a map, found 3"],
		[
			"stages.evaluate.perplexity.1.dataset=x",
			'"stages.evaluate.perplexity" is a list of 1 ' +
			'with no "1"',
		],
		["stages.evaluate.perplexity.x=1", '"stages.evaluate.perplexity" is a list of 1 with no "x"'],
		["name.x=1", '"name" is "tiny" and has no "x"'],
		["stages.evaluate.perplexity=[{}]", 'evaluate.perplexity.0 lacks "dataset": a text file'],
		["gpu.adapter=-1", "gpu.adapter must be at least 0, found -1"],
		["stages=[]", "stages must not be empty, found []"],
		["stages=[foo]", `Unknown stage "foo". ${known}`],
	]
) {
	refuses(`--set ${set}`, full, [`--set ${set}: ${message}`], { sets: [set] });
}
refuses(
	"problems of the file and of overrides, the file's first",
	"name: x\nmodel: m\nstages:\n  - download\n  - calibrate\nseeed: 1\n",
	[
		'p.yaml:5:5: calibrate lacks "dataset": a text file',
		'p.yaml:6:1: Unknown key "seeed" in the pipeline; did you mean "seed"?',
		"--set stages.calibrate.samples=0: calibrate.samples must be at least 1, found 0",
		"--set x: Not of the form path=value, as in seed=3",
	],
	{ sets: ["stages.calibrate.samples=0", "x"] },
);
refuses(
	"--set into an alias",
	`${head}stages:\n  - download: &o {}\n  - pack: *o\n`,
	[
		'--set stages.pack.x=1: "stages.pack" is the alias "*o"; write the value out in the file to ' +
		"change it",
	],
	{ sets: ["stages.pack.x=1"] },
);
refuses("--set of a stage where stages is no list", `${head}stages: 3\n`, [
	"p.yaml:3:9: stages must be a list, found 3",
	'--set stages.pack.x=1: "stages.pack" names no stage of this pipeline',
], { sets: ["stages.pack.x=1"] });

refuses("--set of a stage where there are no stages", head, [
	'p.yaml:1:1: The pipeline lacks "stages": the stages to run, in this order',
	'--set stages.pack.x=1: "stages.pack" names no stage of this pipeline',
], { sets: ["stages.pack.x=1"] });

// --- Stages of the user's own ---

const myStage = {
	name: "my-stage",
	scope: "block",
	summary: "Mine.",
	options: z.strictObject({ power: z.int().min(1).default(2).describe("exponent") }),
	presets: { reference: { power: 5 } },
	needs: [],
	gives: ["factor"],
	run: async () => {},
} as StageDeclaration;
const importMine = (stage: unknown) => async () => stage as StageDeclaration;

Deno.test("use: runs a stage of the user's own, as any other", async () => {
	const asked: string[] = [];
	const config = await load(chain("{ use: ./stages/my.ts, power: 3 }", "compensate"), {
		importStage: async (path) => {
			asked.push(path);
			return myStage;
		},
	});
	assert.equal(config.stages[0].stage, myStage);
	assert.deepEqual(config.stages[0].options, { power: 3 });
	assert.match(config.stages[0].where, /p\.yaml:4:12$/);
	assert.equal(asked.length, 1);
	assert.ok(asked[0].startsWith("/") && asked[0].endsWith("/stages/my.ts"));
});

Deno.test("use: takes presets, and --set by the stage's or the file's name", async () => {
	const use = chain("use: ./my_file.ts # mine", "compensate");
	const importStage = importMine(myStage);
	const power = async (sets: string[]) =>
		(await load(use, { sets, importStage })).stages[0].options.power;
	assert.equal(await power([]), 2);
	assert.equal(await power(["mode=reference"]), 5);
	assert.equal(await power(["stages.my-stage.power=7"]), 7);
	assert.equal(await power(["stages.my_file.power=8"]), 8);
});

refuses(
	"wrong options of a stage of the user's own",
	chain("{ use: ./my.ts, power: 2, pwer: 1 }", "{ use: 3 }", "rotate"),
	[
		'p.yaml:4:31: Unknown key "pwer" in my-stage; did you mean "power"?',
		"p.yaml:5:12: use must be a string, found 3",
		'--set stages.my={power: 2}: A stage with "use" has its options set one by one',
		'--set stages.my.power=x: my-stage.power must be a whole number, found "x"',
	],
	{ importStage: importMine(myStage), sets: ["stages.my={power: 2}", "stages.my.power=x"] },
);
const cannot = 'p.yaml:4:10: Cannot load the stage "./my.ts":';
for (
	const [what, stage, reasons] of [
		["without a default export", undefined, ["it has no default export"]],
		["that is no object", 3, ["stage must be a map, found 3"]],
		["without fields", { name: "x", summary: "y", options: z.strictObject({}) }, [
			'stage lacks "scope": how often it runs',
			'stage lacks "needs": the artifacts that earlier stages must give',
			'stage lacks "gives": the artifacts that later stages may need',
			'stage lacks "run": the function that does the work',
		]],
		["with wrong fields", { ...myStage, scope: "row", needs: [1], options: z.object({}) }, [
			'stage.scope must be one of "model", "group", "layer", "linear", "block", found "row"',
			"stage.options must be a zod strictObject, found a ZodObject",
			"stage.needs must be a list of artifact names, or a function of the options that gives " +
			"one, found [1]",
		]],
		["with options that are no schema", { ...myStage, options: { power: 2 } }, [
			'stage.options must be a zod strictObject, found {"power":2}',
		]],
	] as [string, unknown, string[]][]
) {
	refuses(
		`a stage module ${what}`,
		chain("use: ./my.ts"),
		reasons.map((reason) => `${cannot} ${reason}`),
		{ importStage: importMine(stage) },
	);
}
refuses("a stage module whose import fails", chain("use: ./my.ts"), [`${cannot} not today`], {
	importStage: () => Promise.reject(new UserError("not today\nor tomorrow")),
});
refuses("a stage module that is not there", chain("use: ./my.ts", "rotate"), [
	`${cannot} no such file`,
]);
refuses(
	"stage modules as they are on disk",
	chain("use: ./none.ts", "use: ./throws.ts"),
	[
		'p.yaml:4:10: Cannot load the stage "./none.ts": it has no default export',
		'p.yaml:5:10: Cannot load the stage "./throws.ts": broken',
	],
	{ files: { "none.ts": "export const x = 1;", "throws.ts": 'throw new Error("broken");' } },
);
Deno.test("use: imports a module of the pipeline's folder", async () => {
	const zod = import.meta.resolve("zod");
	const config = await load(chain("use: ./mine.ts"), {
		files: {
			"mine.ts": `import { z } from ${JSON.stringify(zod)};
export default {
  name: "mine", scope: "layer", summary: "Mine.", needs: [], gives: [],
  options: z.strictObject({ n: z.int().default(4) }), run() {},
};`,
		},
	});
	assert.equal(config.stages[0].stage.name, "mine");
	assert.deepEqual(config.stages[0].options, { n: 4 });
});

// --- Helpers ---

Deno.test("didYouMean() finds near words only", () => {
	assert.equal(didYouMean("sampels", ["dataset", "samples"]), "samples");
	assert.equal(didYouMean("moed", ["name", "mode"]), "mode");
	assert.equal(didYouMean("Sequence_Length", ["sequence-length"]), "sequence-length");
	assert.equal(didYouMean("foo", ["a", "b", "seed"]), undefined);
	assert.equal(didYouMean("x", ["y"]), undefined);
	assert.equal(didYouMean("", ["y"]), undefined);
	assert.equal(didYouMean("pack", []), undefined);
});

Deno.test("pipelineJsonSchema() describes the file for editors", () => {
	// deno-lint-ignore no-explicit-any -- a tree of JSON
	const schema = pipelineJsonSchema(stages) as any;
	assert.equal(schema.$schema, "https://json-schema.org/draft/2020-12/schema");
	assert.deepEqual(schema.required, ["name"]);
	assert.deepEqual(schema.anyOf, [
		{ required: ["name", "model", "stages"] },
		{ required: ["matrix"] },
	]);
	assert.equal(schema.additionalProperties, false);
	assert.deepEqual(schema.properties.seed, {
		default: 0,
		description: "the seed of every random choice",
		type: "integer",
		minimum: 0,
		maximum: 4294967295,
	});
	const [withOptions, own, short] = schema.properties.stages.items.anyOf;
	assert.deepEqual(Object.keys(withOptions.properties), stages.map(({ name }) => name));
	assert.equal(withOptions.maxProperties, 1);
	const { title, description, anyOf: [options, none] } = withOptions.properties.calibrate;
	assert.equal(title, "calibrate");
	assert.equal(description, "Makes token windows.");
	assert.deepEqual(options.required, ["dataset"]);
	assert.equal(options.additionalProperties, false);
	assert.deepEqual(options.properties.samples, {
		default: 32,
		description: "token windows",
		type: "integer",
		minimum: 1,
		maximum: 4096,
	});
	assert.equal(options.properties["sequence-length"].maximum, undefined);
	assert.deepEqual(none, { type: "null" });
	assert.deepEqual(own.required, ["use"]);
	assert.deepEqual(short.anyOf[1], { const: "calibrate", description: "Makes token windows." });
	const { properties, additionalProperties } = schema.properties.matrix;
	assert.deepEqual(properties["stages.calibrate.samples"].items, options.properties.samples);
	assert.deepEqual(additionalProperties.items.properties.stages, schema.properties.stages);
	assert.ok(!JSON.stringify(schema.properties).includes("$schema"));
});
