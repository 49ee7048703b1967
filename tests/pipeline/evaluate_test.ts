// What `evaluate` measures in whole runs, and what it takes from earlier ones.

import assert from "node:assert/strict";
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fixtureFolder } from "../fixture.ts";
import { UserError } from "../../base/errors.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { PipelineFileError } from "../../pipeline/config/errors.ts";
import { readText } from "../../data/texts.ts";
import { consecutiveWindows } from "../../data/windows.ts";
import { readQuestions, zeroShotTask } from "../../data/zero_shot_tasks.ts";
import { divergence } from "../../models/metrics/divergence.ts";
import { finalStates } from "../../models/metrics/perplexity.ts";
import { prepareTask, zeroShot } from "../../models/metrics/zero_shot.ts";
import { ModelFiles } from "../../models/model_files.ts";
import type { RunEvent } from "../../pipeline/run/events.ts";
import type { RunRecord } from "../../pipeline/run/record.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { assertClose } from "../assert_close.ts";
import { Environment } from "../environment.ts";
import { LoopbackHub } from "../hub/loopback_hub.ts";
import { type StageItem, Workplace } from "../micro_model.ts";

/** Questions with the columns of PIQA. */
function piqaRows(count: number): string {
	const words = ["door", "lamp", "stone", "river", "street"];
	const word = (i: number) => words[i % words.length];
	const rows = Array.from({ length: count }, (_, i) => ({
		goal: `find the ${word(i)} by the ${word(i + 1)} ${i}`,
		sol1: `look at the ${word(i + 2)}`,
		sol2: `ask for a ${word(i + 3)} and a ${word(3 * i)}`,
		label: i % 2,
	}));
	return rows.map((row) => JSON.stringify(row) + "\n").join("");
}

/** A workplace with questions and a place of its own for what runs find out. */
class Place implements Disposable {
	readonly work = new Workplace({ layers: 1 });
	readonly questions = this.work.path("questions.jsonl");
	readonly cache = this.work.path("cache");
	readonly #environment = new Environment({ BILLM_CACHE: this.cache });
	#runs = 0;

	constructor() {
		writeFileSync(this.questions, piqaRows(9));
	}

	evaluate(options: Record<string, unknown> = {}): StageItem {
		const { questions: dataset } = this;
		const texts = [{ dataset: this.work.evaluation, "sequence-length": 32, windows: 4 }];
		return {
			evaluate: {
				perplexity: texts,
				"zero-shot": [{ task: "piqa", dataset }],
				sample: false,
				...options,
			},
		};
	}

	/** Runs these stages, each time into another folder. */
	async run(
		stages: StageItem[],
		fields: Record<string, unknown> = {},
	): Promise<{ record: RunRecord; events: RunEvent[]; output: string }> {
		const output = this.work.path(`out${this.#runs++}`);
		return { ...await this.work.run({ ...fields, stages, output }), output };
	}

	/** What the original gets, and whether it was measured. */
	async original(options: Record<string, unknown> = {}, fields: Record<string, unknown> = {}) {
		const { record, events } = await this.run(["download", this.evaluate(options)], fields);
		const { original: perplexities, zeroShot } = record.evaluation!;
		const progress = events.flatMap((event) => event.type === "progress" ? event.text : []);
		const measured = [...new Set(progress)].filter((text) => text.startsWith("original model"));
		return { perplexities, zeroShots: zeroShot?.original ?? [], measured };
	}

	get entries(): string[] {
		return readdirSync(join(this.cache, "figures")).sort()
			.map((name) => join(this.cache, "figures", name));
	}

	[Symbol.dispose](): void {
		this.#environment[Symbol.dispose]();
		this.work[Symbol.dispose]();
	}
}

/** Without where they come from. */
function figures<Figure extends { cached?: unknown }>(list: readonly Figure[]) {
	return list.map(({ cached: _, ...rest }) => rest);
}

Deno.test("evaluate measures tasks on the original and on the packed model", async () => {
	using place = new Place();
	const { work, questions: dataset } = place;
	const tasks = [{ task: "piqa", dataset, limit: 5 }, { task: "piqa", dataset }];
	const { record, events, output } = await place.run([
		"download",
		work.calibrate,
		"split-search",
		"pack",
		{ evaluate: { "zero-shot": tasks, cache: false } },
	]);
	const { original, packed, zeroShot: found } = record.evaluation!;
	assert.deepEqual([original, packed], [[], []]);
	await using gpu = await openGpu();
	for (
		const [folder, results] of [
			[work.model, found!.original],
			[join(output, "model"), found!.packed!],
		] as const
	) {
		using model = ModelFiles.open(denoFolder(folder));
		const { tokenizer, architecture: { maxLength } } = model;
		for (const [i, limit] of [5, undefined].entries()) {
			const task = zeroShotTask("piqa");
			const questions = await readQuestions(task, dataset, limit);
			const about = { task, dataset, limit, specialTokens: false, maxLength };
			const [alone] = await zeroShot(gpu, model, [await prepareTask(tokenizer, questions, about)]);
			assert.deepEqual(results[i], alone);
			assert.equal(alone.questions, limit ?? 9);
			assert.equal(alone.prepared, false);
		}
	}
	const metrics = events.flatMap((event) =>
		event.type === "metric" ? [[event.name, event.value, event.text] as const] : []
	);
	assert.deepEqual(metrics.map(([name]) => name), [
		...["acc of the original model", "acc_norm of the original model"],
		...["acc of the original model", "acc_norm of the original model"],
		...["acc of the packed model", "acc_norm of the packed model"],
		...["acc of the packed model", "acc_norm of the packed model"],
	]);
	const { acc, accStderr } = found!.original[0];
	const percent = (value: number) => (100 * value).toFixed(2);
	assert.deepEqual(metrics[0].slice(1), [
		acc,
		`${percent(acc)} % ± ${percent(accStderr)} % on piqa, 5 questions`,
	]);
});

Deno.test("evaluate takes figures of the original from earlier runs of the same content", async () => {
	using place = new Place();
	const { work } = place;
	const first = await place.original();
	assert.equal(first.measured.length, 2, "a text and a task");
	assert.equal(first.perplexities[0].cached ?? first.zeroShots[0].cached, undefined);
	assert.equal(place.entries.length, 2);

	// The same files elsewhere and under another name.
	const model = work.path("copy");
	cpSync(work.model, model, { recursive: true });
	const again = await place.original({ "batch-tokens": 64 }, { model });
	assert.deepEqual(again.measured, []);
	assert.deepEqual(figures(again.perplexities), figures(first.perplexities));
	assert.deepEqual(figures(again.zeroShots), figures(first.zeroShots));
	const { measured, adapter } = again.perplexities[0].cached!;
	assert(Math.abs(Date.now() - Date.parse(measured)) < 120_000);
	await using gpu = await openGpu();
	assert.equal(adapter, gpu.name);
	assert.deepEqual(Object.keys(again.zeroShots[0].cached!), ["measured", "adapter"]);

	// The data set is called what this run calls it.
	const dataset = work.path("other.txt");
	writeFileSync(dataset, readFileSync(work.evaluation));
	const perplexity = [{ dataset, "sequence-length": 32, windows: 4 }];
	const renamed = await place.original({ perplexity });
	assert.deepEqual(renamed.measured, []);
	assert.equal(renamed.perplexities[0].dataset, dataset);
});

Deno.test("evaluate measures the original anew when anything that counts has changed", async () => {
	using place = new Place();
	const { work, questions: dataset } = place;
	await place.original();
	const [text] = [{ dataset: work.evaluation, "sequence-length": 32, windows: 4 }];
	const ofText = (label: string) => [`original model, ${label}`];
	const changed: [Record<string, unknown>, string[]][] = [
		[{ cache: false }, [...ofText(work.evaluation), ...ofText("piqa")]],
		[{ perplexity: [{ ...text, windows: 3 }] }, ofText(work.evaluation)],
		[{ perplexity: [{ ...text, "sequence-length": 16 }] }, ofText(work.evaluation)],
		[{ "zero-shot": [{ task: "piqa", dataset, limit: 4 }] }, ofText("piqa")],
		[{ "zero-shot": [{ task: "piqa", dataset, "special-tokens": true }] }, ofText("piqa")],
	];
	for (const [options, measured] of changed) {
		assert.deepEqual((await place.original(options)).measured, measured, JSON.stringify(options));
	}
	writeFileSync(dataset, piqaRows(8));
	assert.deepEqual((await place.original()).measured, ofText("piqa"));
	writeFileSync(work.evaluation, readFileSync(work.evaluation, "utf8") + " more");
	assert.deepEqual((await place.original()).measured, ofText(work.evaluation));
	const config = join(work.model, "config.json");
	writeFileSync(config, readFileSync(config, "utf8") + "\n");
	assert.equal((await place.original()).measured.length, 2);
});

Deno.test("evaluate measures the original anew where a kept figure is damaged", async () => {
	using place = new Place();
	const first = await place.original();
	for (const file of place.entries) writeFileSync(file, readFileSync(file, "utf8").slice(0, 100));
	const second = await place.original();
	assert.equal(second.measured.length, 2);
	assert.deepEqual(second.perplexities, first.perplexities);
	assert.deepEqual((await place.original()).measured, []);
});

Deno.test("evaluate keeps no figure of the packed model, and measures it in each run", async () => {
	using place = new Place();
	const stages = ["download", place.work.calibrate, "split-search", "pack", place.evaluate()];
	const { record: first } = await place.run(stages);
	assert.equal(place.entries.length, 2);
	const { record: second, events } = await place.run(stages);
	assert.notEqual(second.evaluation!.original[0].cached, undefined);
	assert.deepEqual(second.evaluation!.packed, first.evaluation!.packed);
	assert.deepEqual(second.evaluation!.zeroShot!.packed, first.evaluation!.zeroShot!.packed);
	assert(
		events.some((event) => event.type === "progress" && event.text.startsWith("packed model")),
	);
});

Deno.test("evaluate compares the packed model's predictions with the original's on some windows", async () => {
	using place = new Place();
	const { work } = place;
	const text = { dataset: work.evaluation, "sequence-length": 32, windows: 5 };
	const packing = ["download", { rtn: { bits: 2, "group-size": 32 } }, "pack"];
	/** Runs with some options; the figure of the packed model, and when the original ran. */
	const run = async (options: Record<string, unknown>, others: Record<string, unknown> = {}) => {
		const evaluate = { perplexity: [{ ...text, ...options }], ...others };
		const { record, events, output } = await place.run([...packing, { evaluate }]);
		const [packed] = record.evaluation!.packed!;
		const progress = events.flatMap((event) => event.type === "progress" ? event.text : []);
		const original = [...new Set(progress)].filter((text) => text.startsWith("original model"));
		return { packed, original, output, record };
	};
	const ofText = `original model, ${work.evaluation}`;
	const first = await run({ "kl-windows": 2 });
	assert.deepEqual(first.original, [ofText], "one pass is enough for perplexity and divergence");
	const { divergence: found } = first.packed;
	assert.equal(found!.windows, 2);

	// The same as of both models on windows 0 and 2.
	await using gpu = await openGpu();
	using model = ModelFiles.open(denoFolder(work.model));
	using packed = ModelFiles.open(denoFolder(join(first.output, "model")));
	const windows = consecutiveWindows(model.tokenizer.encode(readText(work.evaluation)), 32);
	const [one, other] = [
		{ model, states: await finalStates(gpu, model, [0, 2], { windows }) },
		{ model: packed, states: await finalStates(gpu, packed, [0, 2], { windows }) },
	];
	const expected = await divergence(gpu, one, other, { dataset: "x" });
	assertClose([found!.kl], [expected.kl], { rel: 1e-5, what: "KL" });
	assert.equal(found!.agreement, expected.agreement);
	assert.ok(found!.kl > 1e-3 && found!.agreement < 1);

	// A cached perplexity of the original does without its pass, but the divergence does not.
	const again = await run({ "kl-windows": 2 });
	assert.deepEqual(again.original, [`${ofText}, for the KL divergence`]);
	assertClose([again.packed.divergence!.kl], [found!.kl], { rel: 1e-5, what: "KL" });
	assert.deepEqual((await run({ "kl-windows": "all" })).packed.divergence!.windows, 5);
	assert.deepEqual((await run({})).packed.divergence!.windows, 5, "fewer than by default");
	const none = await run({ "kl-windows": 0 });
	assert.deepEqual(none.original, []);
	assert.deepEqual(Object.keys(none.packed).slice(-2), ["perplexity", "lnRatio"]);
	assert.equal(none.packed.lnRatio, none.packed.loss - none.record.evaluation!.original[0].loss);
	const alone = await run({}, { original: false });
	assert.deepEqual([alone.original, alone.packed.lnRatio, alone.packed.divergence], [
		[],
		undefined,
		undefined,
	]);
});

Deno.test("evaluate fetches the questions of a task from the hub", async () => {
	using place = new Place();
	await using hub = new LoopbackHub();
	const { id, revision, file } = zeroShotTask("arc-easy").hub;
	assert.equal(revision, "main");
	const parquet = readFileSync(join(fixtureFolder("parquet"), "questions.parquet"));
	const commit = hub.add("dataset", id, { [file]: parquet, "other.parquet": "not needed" });
	using _ = new Environment({
		HF_ENDPOINT: hub.url,
		HF_HOME: place.work.path("hf"),
		HF_HUB_CACHE: undefined,
		HF_HUB_OFFLINE: undefined,
		HF_TOKEN: undefined,
	});
	const { record } = await place.run(["download", { evaluate: { "zero-shot": ["arc-easy"] } }]);
	const [found] = record.evaluation!.zeroShot!.original;
	assert.deepEqual(
		[found.task, found.version, found.dataset, found.questions, found.prepared],
		["arc-easy", "1.0", id, 3, false],
	);
	assert.deepEqual(record.commits, { [`${id}@main`]: commit });
	assert(`${id}/${file}` in record.inputs);
	assert.deepEqual(hub.transfers("other.parquet"), []);
	const [entry] = place.entries.map((path) => JSON.parse(readFileSync(path, "utf8")));
	assert.deepEqual(JSON.parse(entry.key).data, [`${record.inputs[`${id}/${file}`]}.parquet`]);
});

const OPTIONS: [what: string, options: unknown, problem: string][] = [
	["nothing to measure", {}, 'evaluate must have "perplexity", "zero-shot" or both, found {}'],
	[
		"an unknown task",
		{ "zero-shot": ["piqqa"] },
		'evaluate.zero-shot.0 must be one of "piqa", "boolq", "openbookqa", "winogrande", "arc-easy", ' +
		'"arc-challenge", "hellaswag" or a map, found "piqqa"; did you mean "piqa"?',
	],
	[
		"an unknown option of a task",
		{ "zero-shot": [{ task: "piqa", limits: 3 }] },
		'Unknown key "limits" in evaluate.zero-shot.0; did you mean "limit"?',
	],
	[
		"a data set that is no path",
		{ "zero-shot": [{ task: "piqa", dataset: "questions" }] },
		"evaluate.zero-shot.0.dataset must be a path such as ./questions.jsonl, " +
		'found "questions"',
	],
	["no task in the list", { "zero-shot": [] }, "evaluate.zero-shot must not be empty, found []"],
];

for (const [what, options, problem] of OPTIONS) {
	Deno.test(`evaluate refuses ${what}`, async () => {
		using place = new Place();
		await assert.rejects(
			() => place.run(["download", { evaluate: options } as StageItem]),
			(error: Error) =>
				error instanceof PipelineFileError && error.message.includes(problem) ||
				assert.fail(error.message),
		);
	});
}

Deno.test("evaluate refuses bad questions before any work", async () => {
	using place = new Place();
	const refused = (dataset: string, message: string) =>
		assert.rejects(
			() => place.run(["download", { evaluate: { "zero-shot": [{ task: "piqa", dataset }] } }]),
			new UserError(message),
		);
	const path = (name: string, content = "") => {
		const path = place.work.path(name);
		writeFileSync(path, content);
		return path;
	};
	const missing = place.work.path("missing.jsonl");
	await refused(missing, `Cannot read "${missing}": no such file or folder`);
	await refused(place.work.model, `Cannot read "${place.work.model}": a folder`);
	const text = path("questions.txt");
	await refused(
		text,
		`Cannot read the questions "${text}": its name ends in none of ` +
			".jsonl, .jsonl.gz, .json.gz, .parquet",
	);
	const bad = path("bad.jsonl", '{"goal": "a"}');
	await refused(bad, `Cannot read "${bad}": row 1: there is no column "sol1" (columns: goal)`);
});
