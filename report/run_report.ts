import {
	capitalized,
	counted,
	dateText,
	decimal,
	isNumber,
	NONE,
	percent,
	sizeText,
	sum,
} from "../base/figures.ts";
import { timeText } from "../base/units.ts";
import type { FactMap, WeightKind } from "../codecs/codec.ts";
import { CODECS } from "../codecs/mod.ts";
import type { LayerRecord, LinearRecord } from "../pipeline/run/events.ts";
import { moduleOf, type RunRecord } from "../pipeline/run/record.ts";
import {
	cellBar,
	columnChart,
	heatMap,
	mirroredDistribution,
	partSwatch,
	stackedBars,
	swatch,
} from "./charts.ts";
import { warningsOf } from "../stages/metrics/mod.ts";
import { expertsSection } from "./experts.ts";
import { type Histogram, WEIGHT_KINDS } from "./histograms.ts";
import { type Content, type Html, html } from "./html.ts";
import { bitsByPart, LayerTable, shortNames } from "./layers.ts";
import { earlierMeasurements, measuredMetrics, shareText } from "./measures.ts";
import { contents, legend, page, section, type Tile, tiles } from "./page.ts";
import {
	type Cell,
	escapeMarkdown,
	foldedTable,
	type Table,
	tableHtml,
	tableMarkdown,
} from "./table.ts";

/** The files of a finished run. */
export interface FinishedRun {
	record: RunRecord;
	/** The pipeline file as run. */
	pipeline: string;
	/** Absent if the weights could not be counted. */
	histograms?: readonly Histogram[];
}

/** The report of a run as an HTML page. */
export function runReport(run: FinishedRun): string {
	const { record } = run;
	const table = new LayerTable(record.layers ?? []);
	const sections = [
		sampleSection(record),
		metricSections(record),
		bitsSection(record, table),
		errorSection(table),
		expertsSection(table.layers),
		correctionSection(table),
		factSections(table),
		distributionSection(run.histograms ?? []),
		timeSection(record),
		configurationSection(run),
	];
	return page(`${record.name}: BiLLM report`, [
		html`
			<header>
				<h1>${record.name}</h1>
				<p class="subtitle">${record.model}, quantized ${dateText(record.finished)} on ${record
					.adapter}</p>
			</header>
		`,
		contents(sections),
		summarySection(record),
		sections,
	]);
}

/** The report of a run in Markdown, without charts. */
export function runMarkdown({ record }: FinishedRun): string {
	const parts = [`## ${escapeMarkdown(record.name)}`, ...runTables(record)];
	return parts.join("\n\n") + "\n";
}

/** The summary and the tables of a run in Markdown. */
export function runTables(record: RunRecord): string[] {
	const parts = [
		summaryTiles(record).map(({ name, value, note }) =>
			`- **${escapeMarkdown(name)}**: ${escapeMarkdown(value)}${
				note ? ` (${escapeMarkdown(note)})` : ""
			}`
		).join("\n"),
	];
	parts.push(...warningsOf(record.evaluation).map((text) => `Warning: ${escapeMarkdown(text)}.`));
	for (const { metric, pairs } of measuredMetrics(record.evaluation)) {
		parts.push(tableMarkdown(metric.table(pairs)));
	}
	if (record.packed) parts.push(tableMarkdown(partTable(record)));
	parts.push(tableMarkdown(stageTable(record)));
	return parts;
}

function summaryTiles(record: RunRecord): Tile[] {
	const { packed, evaluation, seconds, peakGpuBytes } = record;
	const all = measuredMetrics(evaluation).map(({ metric, pairs }): Tile => ({
		name: capitalized(metric.noun),
		...metric.tile(pairs),
	}));
	if (packed) {
		all.push(
			{
				name: "Stored bits per weight",
				value: decimal(packed.storedBits, 3),
				note: `of the linear layers; the paper counts ${decimal(packed.paperBits, 3)}`,
			},
			{
				name: "Weight files",
				value: sizeText(packed.bytes),
				note: shareText(packed.bytes, packed.originalBytes, sizeText),
			},
		);
	}
	if (isNumber(seconds)) {
		const { layers = [] } = record;
		const note = layers.length > 0 ? counted(layers.length, "decoder layer") : undefined;
		all.push({ name: "Time", value: timeText(seconds), note });
	}
	if (isNumber(peakGpuBytes)) {
		all.push({ name: "Peak GPU memory", value: sizeText(peakGpuBytes) });
	}
	return all;
}

function summarySection(record: RunRecord): Html {
	const tables = measuredMetrics(record.evaluation).filter(({ metric }) => !metric.section)
		.map(({ metric, pairs }) => tableHtml(metric.table(pairs)));
	const isMeasured = record.evaluation !== undefined;
	return html`
		<section aria-label="Summary">
		  ${tiles(summaryTiles(record))} ${tables} ${isMeasured ? undefined : html`
			<p>The pipeline has no evaluate stage, so nothing was measured.</p>
		`} ${warningsOf(record.evaluation).map((text) =>
			html`
				<p class="note"><strong>Warning:</strong> ${text}.</p>
			`
		)} ${earlierMeasurements(record.evaluation).map((text) =>
			html`
				<p class="note">${text}</p>
			`
		)}
		</section>
	`;
}

/** What both models say, side by side. */
function sampleSection({ evaluation: { sample } = { original: [] } }: RunRecord): Content {
	if (!sample) return undefined;
	const texts = [["Original", sample.original], ["Packed", sample.packed]] as const;
	return section(
		"Sample text",
		html`
			<p>The beginning of the evaluation text, in grey, and how the models continue it with the most
			likely tokens.</p>
			<div class="samples">
			${texts.map(([name, text]) =>
				text === undefined ? undefined : html`
					<figure>
						<figcaption>${name}</figcaption>
						<blockquote><span class="quiet">${sample.prompt}</span>${text}</blockquote>
					</figure>
				`
			)}</div>
		`,
	);
}

/** Sections of metrics that have their own. */
function metricSections({ evaluation }: RunRecord): Content {
	return measuredMetrics(evaluation).map(({ metric, pairs }) => {
		if (!metric.section) return undefined;
		const { heading, text } = metric.section;
		return section(
			heading,
			html`
				<p>${text}</p>
			`,
			tableHtml(metric.table(pairs)),
		);
	});
}

/** Stored bits of the linear layers by part, the largest first. */
function partsOf(record: RunRecord): [part: string, bits: number][] {
	return Object.entries(record.packed?.storedBitsByPart ?? {}).filter(([, bits]) => bits > 0)
		.sort(([, a], [, b]) => b - a);
}

function partTable(record: RunRecord): Table {
	const { packed } = record;
	const parts = partsOf(record);
	const rows: Cell[][] = parts.map(([part, bits], i) => [
		{ text: part, html: html`${partSwatch(i)} ${part}` },
		decimal(bits, 3),
		percent(bits / packed!.storedBits),
		sizeText(bits * packed!.weights / 8),
	]);
	const bytes = packed!.storedBits * packed!.weights / 8;
	rows.push([
		"all",
		decimal(packed!.storedBits, 3),
		percent(1),
		sizeText(bytes),
	]);
	return {
		caption: "Bits of the linear layers by part",
		head: ["Part", "Bits per weight", "Share", "Size"],
		rows,
		total: true,
	};
}

function bitsSection(record: RunRecord, table: LayerTable): Content {
	const { packed } = record;
	if (!packed) return undefined;
	const parts = partsOf(record);
	const names = parts.map(([part]) => part);
	const inOrder = (bits: Record<string, number>) => names.map((name) => bits[name] ?? 0);
	const bars = [
		{ name: "all", parts: parts.map(([, bits]) => bits) },
		...shortNames(table.modules).map((name, i) => ({
			name,
			parts: inOrder(bitsByPart(table.of(table.modules[i]))),
		})),
	];
	const linear = packed.storedBits * packed.weights / 8;
	const modules = table.modules.map((module) => {
		const bits = bitsByPart(table.of(module));
		return [
			module,
			...inOrder(bits).map((b) => decimal(b, 3)),
			decimal(sum(Object.values(bits)), 3),
		];
	});
	return section(
		"Bits by part",
		html`
			<p>Counted from the bytes of the files. The ${decimal(
				packed.weights,
				0,
			)} weights of the linear layers take ${sizeText(
				linear,
			)}; embeddings, head, norms and biases take the other ${sizeText(packed.bytes - linear)}.</p>
			<figure>
			${stackedBars(bars, names, {
				label: `Stored bits per weight by part: ${
					parts.map(([part, bits]) => `${part} ${decimal(bits, 3)}`).join(", ")
				}`,
				unit: "bits per weight",
			})}<figcaption>Bits per weight of all linear layers, including file headers, and of each module.
			The colours match the table.</figcaption>
			</figure>
		`,
		tableHtml(partTable(record)),
		foldedTable("Bits by module", {
			caption: "Bits per weight by module and part",
			head: ["Module", ...names, "sum"],
			rows: modules,
		}),
	);
}

/** A table of a figure by decoder layer and module. */
function layerTable(
	table: LayerTable,
	caption: string,
	text: (linear: LayerRecord["linears"][number]) => string,
): Table {
	return {
		caption,
		head: ["Layer", ...shortNames(table.modules)],
		left: 0,
		rows: table.layers.map(({ layer }, place) => [
			`${layer + 1}`,
			...table.modules.map((module) => {
				const linear = table.at(place, module);
				return linear ? text(linear) : NONE;
			}),
		]),
	};
}

function layerNumbers(layers: readonly LayerRecord[]): string[] {
	return layers.map(({ layer }) => `${layer + 1}`);
}

function errorSection(table: LayerTable): Content {
	const values = table.values(({ relativeOutputError }) => relativeOutputError);
	const known = values.flat().filter((value) => value !== undefined);
	if (known.length === 0) return undefined;
	return section(
		"Output error by layer and module",
		html`
			<p>The squared error of a linear layer's output on the calibration data, relative to the squared
			output: between ${percent(Math.min(...known))} and ${percent(Math.max(...known))}, ${percent(
				sum(known) / known.length,
			)} on average.</p>
			<figure>
			${heatMap({
				names: shortNames(table.modules),
				columns: layerNumbers(table.layers),
				values,
				text: (value) => percent(value),
				label: `Relative output error by module and decoder layer, from ${
					percent(Math.min(...known))
				} to ${percent(Math.max(...known))}; the numbers are in the table below`,
				axis: "layer",
			})}<figcaption>Modules from top to bottom, decoder layers from left to right.</figcaption>
			</figure>
		`,
		tableHtml(worstTable(table)),
		foldedTable(
			"Errors as a table",
			layerTable(
				table,
				"Relative output error by decoder layer and module",
				({ relativeOutputError }) => percent(relativeOutputError, 2),
			),
		),
	);
}

/** Linear layers that {@link worstTable} lists. */
const WORST = 5;

/** The linear layers with the greatest relative errors. */
function worstTable({ linears }: LayerTable): Table {
	const errorOf = ({ relativeOutputError: error }: LinearRecord) => isNumber(error) ? error : -1;
	const worst = [...linears].sort((a, b) => errorOf(b) - errorOf(a)).slice(0, WORST);
	return {
		caption: "The linear layers with the greatest output errors",
		head: ["Worst linear layers", "Output error", "Stored bits"],
		rows: worst.map((linear) => [
			linear.name,
			percent(linear.relativeOutputError, 2),
			decimal(sum(Object.values(bitsByPart([linear]))), 3),
		]),
	};
}

function correctionSection(table: LayerTable): Content {
	const changes = table.linears.map(({ correction }) => correction).filter(isNumber);
	if (changes.length === 0) return undefined;
	return section(
		"Correction of the weights by layer and module",
		html`
			<p>How far the weights were changed before they were quantized, to make up for the error of the
			layers before: by ${percent(Math.min(...changes))} to ${percent(
				Math.max(...changes),
			)} of their
			norm.</p>
		`,
		foldedTable(
			"Corrections as a table",
			layerTable(
				table,
				"Relative change of the weights by decoder layer and module",
				({ correction }) => correction === undefined ? NONE : percent(correction, 2),
			),
		),
	);
}

/** Sections of the fact maps of all codecs, some of which share a map. */
function factSections(table: LayerTable): Content[] {
	const maps = new Set(CODECS.flatMap(({ factMaps }) => factMaps));
	return [...maps].map((map) => factSection(table, map));
}

function factSection(table: LayerTable, { title, about, value, columns }: FactMap): Content {
	const { linears } = table;
	const parts = linears.map(value);
	if (Math.max(0, ...parts) === 0) return undefined;
	const weights = linears.map(({ rows, cols }) => rows * cols);
	const mean = sum(parts.map((part, i) => part * weights[i])) / sum(weights);
	const all = sum(linears.map(({ cols }) => cols));
	const count = columns && sum(linears.map(columns));
	const size = count === undefined
		? `${percent(mean)} of all`
		: `${decimal(count, 0)} of ${counted(all, "column")}, ${percent(count / all)}`;
	return section(
		`${title} by layer and module`,
		html`
			<p>${about}: ${size}.</p>
			<figure>
			  ${heatMap({
				names: shortNames(table.modules),
				columns: layerNumbers(table.layers),
				values: table.values(value),
				text: (part) => percent(part),
				label: `${title} by module and decoder layer; the numbers are in the table below`,
				axis: "layer",
			})}
			  <figcaption>Modules from top to bottom, decoder layers from left to right.</figcaption>
			</figure>
		`,
		foldedTable(
			`${title} as a table`,
			layerTable(
				table,
				`${title} by decoder layer and module`,
				(linear) => columns ? `${columns(linear)} of ${linear.cols}` : percent(value(linear), 2),
			),
		),
	);
}

const GROUP_TEXTS: Record<WeightKind, string> = {
	low: "low zone",
	high: "high zone",
	salient: "salient columns",
	all: "all weights",
};

function distributionSection(histograms: readonly Histogram[]): Content {
	if (histograms.length === 0) return undefined;
	const groups = WEIGHT_KINDS.filter((group) => histograms.some((h) => h.groups[group]));
	const layers = [...new Set(histograms.map(({ layer }) => layer))];
	const hasSplit = histograms.some(({ split }) => split !== undefined);
	return section(
		"Distribution of the weights",
		html`
			<p>Above the line: the original weights by class. Below it: the stored values. Each has its own
			scale.${hasSplit
				? " The dashed lines are the split between the zones that fits most weights."
				: ""}${histograms.some(({ rotated }) => rotated)
				? " All are of the weights after the rotation."
				: ""}</p>
		`,
		legend([
			...groups.map((group) => ({ swatch: swatch(`group-${group}`), text: GROUP_TEXTS[group] })),
			{ swatch: swatch("stored"), text: "stored values" },
		]),
		layers.map((layer) =>
			html`
				<h3>Layer ${layer + 1}</h3>
				<div class="small-multiples">
				${histograms.filter((h) => h.layer === layer).map((h) => distribution(h, groups))}</div>
			`
		),
		foldedTable("Distributions as a table", distributionTable(histograms, groups)),
	);
}

function distribution(histogram: Histogram, groups: readonly WeightKind[]): Html {
	const { name, limit, split, stored } = histogram;
	const above = groups.filter((group) => histogram.groups[group])
		.map((group) => ({ name: `group-${group}`, counts: histogram.groups[group]! }));
	const shares = groups.map((group) =>
		`${percent(groupShare(histogram, group))} ${GROUP_TEXTS[group]}`
	);
	return html`
		<figure>
		<figcaption>${moduleOf(name)}</figcaption>
		${mirroredDistribution(above, { name: "stored", counts: stored }, {
			label: `Weights of ${name}: ${shares.join(", ")}${
				split === undefined ? "" : `; split at ${significant(split)}`
			}`,
			limit,
			marks: split === undefined ? [] : [-split, split],
		})}</figure>
	`;
}

function groupShare({ groups, weights }: Histogram, group: WeightKind): number {
	return sum(groups[group] ?? []) / weights;
}

function significant(value: number): string {
	return isNumber(value) ? Number(value.toPrecision(3)).toString() : NONE;
}

function distributionTable(
	histograms: readonly Histogram[],
	groups: readonly WeightKind[],
): Table {
	return {
		caption: "Weights by class, and their magnitudes",
		left: 2,
		head: [
			"Layer",
			"Module",
			"Weights counted",
			...groups.map((group) => GROUP_TEXTS[group]),
			"split at |w|",
			"RMS of w",
			"RMS of the error",
		],
		rows: histograms.map((histogram) => [
			`${histogram.layer + 1}`,
			moduleOf(histogram.name),
			decimal(histogram.weights, 0),
			...groups.map((group) => percent(groupShare(histogram, group))),
			histogram.split === undefined ? NONE : significant(histogram.split),
			significant(histogram.rms),
			significant(histogram.errorRms),
		]),
	};
}

/** A text as one word of a shell. */
function shellWord(text: string): string {
	return /^[\w./=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** Seconds and memory by stage in the order of the pipeline, then other work. */
function stageRows(record: RunRecord) {
	const { secondsByStage = {}, peakGpuBytesByStage = {}, seconds = 0 } = record;
	const order = record.stages.map(({ name }) => name);
	const known = [...new Set(order.filter((name) => name in secondsByStage))];
	const names = [...known, ...Object.keys(secondsByStage).filter((name) => !known.includes(name))];
	const rows = names.map((name) => ({
		name,
		seconds: secondsByStage[name],
		bytes: peakGpuBytesByStage[name],
	}));
	const rest = seconds - sum(rows.map(({ seconds }) => seconds));
	// GPU and host work may overlap, so the sum of the stages may exceed the total.
	if (rest > 0) rows.push({ name: "other", seconds: rest, bytes: undefined! });
	return rows;
}

function secondsText(seconds: number): string {
	return seconds < 9.95
		? `${decimal(seconds, 2)} s`
		: seconds < 60
		? `${decimal(seconds, 1)} s`
		: timeText(seconds);
}

function stageTable(record: RunRecord): Table {
	const rows = stageRows(record);
	const longest = Math.max(...rows.map(({ seconds }) => seconds)) || 1;
	const largest = Math.max(...rows.map(({ bytes }) => bytes ?? 0));
	const total = record.seconds ?? sum(rows.map(({ seconds }) => seconds));
	const withBar = (text: string, part: number, kind = "with-bar"): Cell => ({
		text,
		html: html`<span class="${kind}">${cellBar(part)}<span>${text}</span></span>`,
	});
	const cells: Cell[][] = rows.map(({ name, seconds, bytes }) => [
		name,
		withBar(secondsText(seconds), seconds / longest),
		percent(seconds / total),
		...(largest > 0
			? [bytes === undefined ? NONE : withBar(sizeText(bytes), bytes / largest, "with-bar second")]
			: []),
	]);
	cells.push([
		"all",
		timeText(total),
		"",
		...(largest > 0 ? [isNumber(record.peakGpuBytes) ? sizeText(record.peakGpuBytes) : NONE] : []),
	]);
	return {
		caption: "Time and GPU memory by stage",
		head: ["Stage", "Time", "Share", ...(largest > 0 ? ["Peak GPU memory"] : [])],
		rows: cells,
		total: true,
	};
}

function timeSection(record: RunRecord): Content {
	const { layers = [] } = record;
	if (!record.secondsByStage) return undefined;
	const layerSeconds = layers.map(({ seconds }) => seconds);
	return section(
		"Time and memory",
		html`
			<p>GPU time for queued work, wall-clock time for the rest; the two may overlap. The memory of a stage
			is the peak of all tensors allocated while it runs; the last line includes buffers kept for
			reuse.</p>
		`,
		tableHtml(stageTable(record)),
		layers.length === 0 ? undefined : html`
			<figure>
			${columnChart(layerNumbers(layers), layerSeconds, {
				label: `Seconds by decoder layer, from ${secondsText(Math.min(...layerSeconds))} to ${
					secondsText(Math.max(...layerSeconds))
				}`,
				text: secondsText,
				axis: "layer",
			})}<figcaption>Seconds by decoder layer.</figcaption>
			</figure>
		`,
		layers.length === 0 ? undefined : foldedTable("Decoder layers as a table", {
			caption: "Time, GPU memory and file of each decoder layer",
			head: ["Layer", "Time", "GPU memory", "File"],
			left: 0,
			rows: layers.map(({ layer, seconds, peakGpuBytes, bytes }) => [
				`${layer + 1}`,
				secondsText(seconds),
				sizeText(peakGpuBytes),
				bytes > 0 ? sizeText(bytes) : NONE,
			]),
		}),
	);
}

function configurationSection({ record, pipeline }: FinishedRun): Html {
	const { inputs, commits = {}, packed } = record;
	const folder = packed?.folder.replace(/[\\/]model[\\/]?$/, "") ?? `out/${record.name}`;
	const facts = [
		["BiLLM", record.commit ? `${record.billm}, commit ${record.commit}` : record.billm],
		["Deno", record.deno],
		...(record.system ? [["System", record.system]] : []),
		["Adapter", record.adapter],
		...(record.driver ? [["Driver", record.driver]] : []),
		["Model", record.model],
		["Mode", record.mode],
		["Seed", `${record.seed}`],
		["Started", dateText(record.started)],
		["Finished", dateText(record.finished)],
		["Identity", record.identity],
		...Object.entries(commits).map(([name, commit]) => [`Commit of ${name}`, commit]),
	];
	const options = record.stages.flatMap(({ name, options }) => {
		const entries = Object.entries((options ?? {}) as Record<string, unknown>);
		if (entries.length === 0) return [[name, NONE, ""]];
		return entries.map(([key, value], i) => [i === 0 ? name : "", key, JSON.stringify(value)]);
	});
	return section(
		"Reproducing this run",
		html`
			<p>The pipeline file as run, and the command that runs it again; paths are relative to the working
			directory.</p>
			<pre><code>deno task quantize ${shellWord(`${folder}/pipeline.yaml`)} --set ${shellWord(
				`output=${folder}-again`,
			)}</code></pre>
			<pre><code>${pipeline}</code></pre>
		`,
		tableHtml({ caption: "Versions", head: ["What", "Value"], rows: facts, left: 2 }),
		foldedTable("All options of the stages", {
			caption: "All options of the stages, including defaults",
			head: ["Stage", "Option", "Value"],
			rows: options,
			left: 3,
		}),
		foldedTable("Hashes of inputs and output", {
			caption: "SHA-256 of the inputs and of the packed model",
			head: ["File", "SHA-256"],
			rows: [
				...Object.entries(inputs),
				...(packed?.files ?? []).map(({ name, sha256 }) => [`model/${name}`, sha256]),
			],
			left: 2,
		}),
	);
}
