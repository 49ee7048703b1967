// A metric that no file of the project knows: one object and one call that puts it into the table make
// it an option of pipeline files, part of a run and of its reports.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { z } from "zod";
import { decimal } from "~/base/figures.ts";
import { logLikelihoods } from "~/models/metrics/log_likelihoods.ts";
import { loadPipeline, pipelineJsonSchema } from "~/pipeline/config/config.ts";
import { PipelineFileError } from "~/pipeline/config/errors.ts";
import type { RunRecord } from "~/pipeline/run/record.ts";
import { readRuns } from "~/report/cells.ts";
import { MergedReport } from "~/report/merged_report.ts";
import { finishedRun } from "~/report/run_files.ts";
import { runMarkdown } from "~/report/run_report.ts";
import { datasetOption, evaluationWindows } from "~/stages/data.ts";
import { type Figure, lastOf, measuredIn, type Metric } from "~/stages/metrics/metric.ts";
import { addMetric, METRICS } from "~/stages/metrics/mod.ts";
import { STAGES } from "~/stages/mod.ts";
import { resultsText } from "~/tasks/grid_text.ts";
import { Environment } from "../../environment.ts";
import { Workplace } from "../../micro_model.ts";
import { elements, parseHtml, tableOf, textOf } from "../../report/parse_html.ts";

interface Surprisal extends Figure {
	windows: number;
	nats: number;
}

const entry = z.strictObject({ "dataset": datasetOption, "windows": z.int().min(1).default(3) });

/** How little a model expects the last token of each window. */
const surprisal: Metric<z.output<typeof entry>, Surprisal> = {
	option: "last-token",
	description: "Texts whose windows end in a token to guess",
	entry,
	noun: "surprisal",
	recordKey: "lastToken",
	inputs: async (context, { dataset }) => (await context.dataset(dataset, "evaluation")).files,
	async check(context, { dataset, windows }) {
		await evaluationWindows(context, dataset, 16, windows);
	},
	dataset: ({ dataset }) => dataset,
	key: (_context, { windows }, data) => ({ data, windows }),
	async measure({ context, model, batchTokens, progress }, [{ dataset, windows }]) {
		const texts = await evaluationWindows(context, dataset, 16, windows);
		const prompts = texts.map((tokens) => [{ tokens, scored: 1 }]);
		const options = { batchTokens, onProgress: progress(dataset) };
		const found = (await logLikelihoods(context.gpu, model, prompts, options)).flat();
		const nats = -found.reduce((sum, value) => sum + value, 0) / found.length;
		return [{ dataset, windows: texts.length, nats }];
	},
	subject: ({ dataset, windows }) => `${dataset} ${windows}`,
	values: ({ nats, dataset }) => [{
		name: "surprisal",
		value: nats,
		text: `${nats.toFixed(3)} nats on ${dataset}`,
	}],
	terminal: {
		name: "Surprisal",
		line: (pair) => `${lastOf(pair).nats.toFixed(3)} nats`,
		columns: [{ head: "surprisal", text: ([pair]) => pair ? lastOf(pair).nats.toFixed(3) : "" }],
	},
	tile: ([pair]) => ({ value: decimal(lastOf(pair).nats, 3), note: "nats" }),
	table: (pairs) => ({
		caption: "Surprisal of last tokens",
		head: ["Text", "Original", "Packed"],
		rows: pairs.map((pair) => [
			lastOf(pair).dataset,
			decimal(pair.before?.nats, 3),
			decimal(pair.after?.nats, 3),
		]),
	}),
	columns: () => [{ head: "Surprisal", text: ([pair]) => decimal(pair?.after?.nats, 3) }],
	chart: {
		value: ({ nats }) => nats,
		text: (value) => decimal(value, 3),
		tick: (value) => decimal(value, 2),
	},
};

/** A place for runs that measure nothing but the surprisal. */
class Place implements Disposable {
	readonly work = new Workplace({ layers: 1 });
	readonly cache = this.work.path("cache");
	readonly #environment = new Environment({ BILLM_CACHE: this.cache });

	/** The fields of a run that packs in so many bits and measures. */
	fields(bits: number) {
		const { calibrate, evaluation: dataset } = this.work;
		const evaluate = { "last-token": [{ dataset }] };
		return {
			name: `bits-${bits}`,
			output: this.work.path(`bits-${bits}`),
			stages: ["download", calibrate, { rtn: { bits } }, "pack", { evaluate }],
		};
	}

	[Symbol.dispose](): void {
		this.#environment[Symbol.dispose]();
		this.work[Symbol.dispose]();
	}
}

function optionsInSchema(): string[] {
	// deno-lint-ignore no-explicit-any -- a path through a JSON Schema
	const { properties } = pipelineJsonSchema(STAGES) as any;
	const [{ properties: stages }] = properties.stages.items.anyOf;
	return Object.keys(stages.evaluate.anyOf[0].properties);
}

Deno.test("a metric in the table is an option of pipeline files, others are not", async () => {
	using place = new Place();
	const file = place.work.pipeline(place.fields(2));
	const before = optionsInSchema();
	{
		using _ = addMetric(surprisal);
		const { stages } = await loadPipeline(file, { stages: STAGES });
		assert.deepEqual(stages.at(-1)!.options["last-token"], [
			{ dataset: place.work.evaluation, windows: 3 },
		]);
		assert.deepEqual(optionsInSchema().toSorted(), [...before, "last-token"].toSorted());
		const { summary } = STAGES.find(({ name }) => name === "evaluate")!;
		assert.match(summary, /perplexity, zero-shot accuracy and surprisal of the original/);
		const nothing = place.work.pipeline({ stages: ["download", "evaluate"] });
		await assert.rejects(
			() => loadPipeline(nothing, { stages: STAGES }),
			/evaluate must have "perplexity", "zero-shot", "last-token" or several/,
		);
		assert.throws(() => addMetric(surprisal), /There is a metric "last-token" already/);
	}
	assert.ok(!METRICS.includes(surprisal));
	assert.deepEqual(optionsInSchema(), before);
	await assert.rejects(
		() => loadPipeline(file, { stages: STAGES }),
		(error) => error instanceof PipelineFileError && /"last-token"/.test(error.message),
	);
});

Deno.test("a metric in the table is measured, kept, recorded and reported", async () => {
	using place = new Place();
	using _ = addMetric(surprisal);
	const { work } = place;
	const folders: string[] = [];
	const records: RunRecord[] = [];
	const said: string[][] = [];
	for (const bits of [2, 4]) {
		const fields = place.fields(bits);
		const { record, events } = await work.run(fields);
		folders.push(fields.output);
		records.push(record);
		said.push(events.flatMap((event) => {
			if (event.type === "metric") return [`${event.name}: ${event.value}`];
			return event.type === "progress" && event.stage === "evaluate" ? [event.text] : [];
		}));
	}

	// Recorded, for the original and for the packed model.
	const [first, second] = records.map(({ evaluation }) => measuredIn(surprisal, evaluation));
	const [{ dataset, windows, nats }] = first.original;
	assert.deepEqual([dataset, windows], [work.evaluation, 3]);
	assert.ok(nats > 1 && nats < 20, `${nats}`);
	assert.notEqual(first.packed![0].nats, second.packed![0].nats);
	for (const [i, folder] of folders.entries()) {
		const { evaluation } = JSON.parse(readFileSync(`${folder}/run.json`, "utf8"));
		assert.deepEqual(evaluation, { original: [], packed: [], lastToken: [first, second][i] });
	}

	// Kept: the second run measures the packed model only.
	assert.equal(first.original[0].cached, undefined);
	assert.deepEqual(Object.keys(second.original[0].cached!), ["measured", "adapter"]);
	assert.equal(second.original[0].nats, nats);
	assert.equal(readdirSync(`${place.cache}/figures`).length, 1);

	// Told by events.
	const [before, after] = ["original", "packed"].map((label) => `${label} model, ${dataset}`);
	const values = (measured: typeof first) => [
		`surprisal of the original model: ${measured.original[0].nats}`,
		`surprisal of the packed model: ${measured.packed![0].nats}`,
	];
	assert.ok(said[0].includes(before) && said[0].includes(after));
	assert.ok(!said[1].includes(before) && said[1].includes(after));
	for (const [i, measured] of [first, second].entries()) {
		assert.deepEqual(said[i].filter((text) => text.startsWith("surprisal")), values(measured));
	}

	// Reported, by the run itself and by both together.
	const shown = [nats, ...[first, second].map(({ packed }) => packed![0].nats)]
		.map((value) => value.toFixed(3));
	const page = parseHtml(readFileSync(`${folders[0]}/report.html`, "utf8"));
	const row = [dataset, shown[0], shown[1]];
	assert.deepEqual(tableOf(page, "Surprisal of last tokens"), [
		["Text", "Original", "Packed"],
		row,
	]);
	assert.equal(textOf(elements(page, "dt")[0]), "Surprisal");
	assert.match(
		runMarkdown(finishedRun(folders[0], records[0])),
		/\*\*Surprisal\*\*: [\d.]+ \(nats\)/,
	);

	const merged = new MergedReport(readRuns(folders));
	const mergedPage = parseHtml(merged.page(work.folder));
	const [head, ...rows] = tableOf(mergedPage, `Runs of ${work.model}`);
	assert.deepEqual(rows.map((row) => row[head.indexOf("Surprisal")]), shown.slice(1));
	assert.equal(textOf(elements(mergedPage, "h2")[0]), "Surprisal against size");
	const [chart] = elements(mergedPage, "svg").filter(({ attributes }) => attributes.role === "img");
	assert.equal(elements(chart, "circle").length, 2);
	const [title] = elements(chart, "title").map(textOf);
	assert.ok(title.includes(`, surprisal ${shown[1]}`), title);
	assert.match(merged.svg()!, /aria-label="Surprisal against size: /);
	assert.match(
		merged.markdown(),
		/\(perplexity or surprisal against the size of the weight files\)/,
	);

	const cell = { grid: "g", cell: "c", index: 1, cells: 1, values: {}, status: "done" } as const;
	const times = { started: "", finished: "" };
	const [names] = resultsText([{ record: { ...cell, ...times }, run: records[0] }]).split("\n");
	assert.match(names, / surprisal$/);
});
