import { existsSync, realpathSync } from "node:fs";
import { join, relative, sep } from "node:path";
import {
	capitalized,
	counted,
	decimal,
	isNumber,
	listed,
	NONE,
	sizeText,
} from "../base/figures.ts";
import { timeText } from "../base/units.ts";
import { UserError } from "../base/errors.ts";
import { type Figure, type Metric, type Pair, pairsIn } from "../stages/metrics/metric.ts";
import { METRICS } from "../stages/metrics/mod.ts";
import type { Comparison, RunInFolder } from "./cells.ts";
import { type Content, Html, html } from "./html.ts";
import { contents, page, section } from "./page.ts";
import { paperTable } from "./paper_table.ts";
import { compactPicture } from "./picture.ts";
import { paretoFront, type Result } from "./pareto.ts";
import type { Peers } from "./peers.ts";
import style from "./report.css" with { type: "text" };
import { type NamedResult, paretoChart } from "./scatter.ts";
import {
	type Cell,
	escapeMarkdown,
	foldedTable,
	type Table,
	tableHtml,
	tableMarkdown,
} from "./table.ts";

type DoneRun = Comparison["done"][number];

/** The metrics with a chart, for messages: "perplexity or divergence". */
export function chartedNouns(): string {
	return listed(METRICS.filter(({ chart }) => chart).map(({ noun }) => noun), "or");
}

/** The results of one metric for runs of one model on the same data. */
interface Panel {
	metric: Metric;
	model: string;
	dataset: string;
	/** How the figures were measured. */
	conditions?: string;
	original?: Result;
	results: NamedResult[];
	/** Numbers of the results on the Pareto front. */
	best: Set<number>;
}

/** The report that compares several runs. */
export class MergedReport {
	readonly #panels: Panel[];
	/** Number of each finished run, from 1, in charts and tables. */
	readonly #numbers: Map<DoneRun, number>;

	/**
	 * @param peers Results of another program, drawn with the perplexities.
	 * @throws {UserError} If there are peers, and the perplexities are not those of one model and data set.
	 */
	constructor(readonly comparison: Comparison, readonly peers?: Peers) {
		this.#numbers = new Map(comparison.done.map((run, i) => [run, i + 1]));
		this.#panels = this.#makePanels();
		const alike = this.#panels.filter(({ metric }) => hasPeers(metric));
		if (peers && alike.length !== 1) {
			const found = alike.map(panelName).join("; ") || "none";
			throw new UserError(
				`Peers can be drawn where all perplexities are of one model and data set; found: ${found}`,
			);
		}
	}

	get title(): string {
		const { done, failed } = this.comparison;
		const grids = new Set([...done, ...failed].map(({ cell }) => cell?.grid));
		const [grid] = grids;
		return grids.size === 1 && grid !== undefined ? grid : "Comparison of runs";
	}

	/**
	 * The HTML page.
	 *
	 * @param folder Folder of the page, for relative links to the reports of runs.
	 */
	page(folder: string): string {
		const { done, failed, missing } = this.comparison;
		const sections = [
			failed.length + missing.length > 0
				? section("Not done", tableHtml(this.#problemTable()))
				: undefined,
			this.#chartTitles().map(({ title, panels }) =>
				section(
					title,
					html`
						<p>Each number is a run in the table below. Filled markers and the line show the Pareto front: the
						best result at each size.${this.peers && panels.some(({ metric }) => hasPeers(metric))
							? ` Diamonds are results of ${this.peers.program}.`
							: ""}</p>
					`,
					panels.map((panel) => this.#panelFigure(panel)),
				)
			),
			this.peers ? this.#peerSection(this.peers) : undefined,
			done.length > 0 ? this.#runSections(folder) : undefined,
		];
		return page(`${this.title}: BiLLM report`, [
			html`
				<header>
					<h1>${this.title}</h1>
					<p class="subtitle">${this.#countText()}</p>
				</header>
			`,
			contents(sections),
			sections,
		]);
	}

	/** The tables of the page in Markdown. */
	markdown(): string {
		const { done, failed, missing } = this.comparison;
		const parts = [`## ${escapeMarkdown(this.title)}`, escapeMarkdown(this.#countText())];
		if (failed.length + missing.length > 0) parts.push(tableMarkdown(this.#problemTable()));
		for (const [model, runs] of this.#byModel()) {
			parts.push(`### ${escapeMarkdown(model)}`, tableMarkdown(this.#runTable(runs)));
		}
		for (const { metric, table } of this.#metricTables()) {
			parts.push(`### ${capitalized(metric.noun)}`, tableMarkdown(table));
		}
		for (const table of this.#paperTables()) {
			parts.push(`### ${escapeMarkdown(table.caption)}`, tableMarkdown(table));
		}
		if (this.peers) {
			parts.push(`### ${escapeMarkdown(this.peers.program)}`, tableMarkdown(peerTable(this.peers)));
		}
		if (done.length > 0) {
			parts.push(
				`Bold: on the Pareto front of its model (${chartedNouns()} against the size of the weight files).`,
			);
		}
		return parts.join("\n\n") + "\n";
	}

	/**
	 * The charts as a standalone SVG; undefined if no run has both a size and a charted figure.
	 */
	svg(): string | undefined {
		if (this.#panels.length === 0) return undefined;
		const [width, height, heading, margin] = [760, 440, 34, 20];
		const inner = width - 2 * margin;
		const total = this.#panels.length * (height + heading) + margin;
		const charts = this.#panels.map((panel, i) => {
			const y = i * (height + heading) + heading;
			return html`
				<text class="heading" x="${margin}" y="${y - 8}">${panelName(panel)}</text>
				<svg x="${margin}" y="${y}" width="${inner}" height="${height}">
				${this.#chart(panel, height, inner)}</svg>
			`;
		});
		const label = this.#chartTitles().map(({ title, panels }) =>
			`${title}: ${panels.map(panelName).join("; ")}`
		).join("; ");
		const content = html`
			<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${total}"
				viewBox="0 0 ${width} ${total}" role="img" aria-label="${label}">
			<style>
			${new Html(pictureStyle())}</style>
			<rect width="100%" height="100%" rx="8" style="fill: var(--page)"/>
			${charts}</svg>
		`;
		return compactPicture(content.text);
	}

	#countText(): string {
		const { done, failed, missing } = this.comparison;
		const parts = [`${counted(done.length, "run")} finished`];
		if (failed.length > 0) parts.push(`${failed.length} failed or not finished`);
		if (missing.length > 0) parts.push(`${missing.length} missing`);
		return parts.join(", ");
	}

	#makePanels(): Panel[] {
		const all = METRICS.flatMap((metric) => this.#panelsOf(metric));
		for (const { results, best, model } of all) {
			for (const { number } of paretoFront(results)) best.add(number);
			for (const result of results) result.name = withoutModel(result.name, model);
		}
		const alike = Map.groupBy(all, (panel) => `${panel.metric.noun} ${panelName(panel)}`);
		for (const panels of alike.values()) {
			if (panels.length === 1) continue;
			for (const panel of panels) panel.dataset += panel.conditions ? `, ${panel.conditions}` : "";
		}
		return all;
	}

	#panelsOf(metric: Metric): Panel[] {
		const { chart } = metric;
		if (!chart) return [];
		const panels = new Map<string, Panel>();
		for (const [run, number] of this.#numbers) {
			const { record: { model, packed, evaluation }, name } = run;
			if (!packed) continue;
			const { bytes, originalBytes } = packed;
			for (const { before, after } of pairsIn(metric, evaluation)) {
				const value = after && chart.value(after);
				if (!isNumber(value)) continue;
				const { dataset } = after as Figure;
				const key = `${model} ${metric.subject(after)}`;
				const conditions = chart.conditions?.(after as Figure);
				const panel = panels.get(key) ??
					{ metric, model, dataset, conditions, results: [], best: new Set() };
				panels.set(key, panel);
				panel.results.push({ number, name, bytes, value });
				const level = before && chart.value(before);
				if (isNumber(level)) panel.original ??= { value: level, bytes: originalBytes };
			}
		}
		return [...panels.values()];
	}

	/** The panels grouped by metric, with titles. */
	#chartTitles(): { title: string; panels: Panel[] }[] {
		return [...Map.groupBy(this.#panels, ({ metric }) => metric)].map(([{ noun }, panels]) => ({
			title: `${capitalized(noun)} against size`,
			panels,
		}));
	}

	#chart(panel: Panel, height: number, width: number): Html {
		const { metric: { noun, chart }, model, dataset, original, results } = panel;
		const label = `${capitalized(noun)} of ${model} on ${dataset} against the size of the weight ` +
			`files, ${counted(results.length, "run")}; the numbers are in the table`;
		const peers = hasPeers(panel.metric)
			? this.peers?.results.map(({ perplexity, ...peer }) => ({ ...peer, value: perplexity }))
			: undefined;
		return paretoChart(results, {
			...{ label, height, width, original, peers },
			axis: { noun, ...chart! },
		});
	}

	#panelFigure(panel: Panel): Html {
		return html`
			<figure>
			<h3>${panelName(panel)}</h3>
			${this.#chart(panel, 340, 900)}</figure>
		`;
	}

	#peerSection(peers: Peers): Html {
		return section(
			peers.program,
			peers.notes.map((note) => html`<p>${note}</p>`),
			tableHtml(peerTable(peers)),
		);
	}

	#problemTable(): Table {
		const { failed, missing } = this.comparison;
		return {
			caption: "Unfinished runs",
			head: ["Run", "Why"],
			left: 2,
			rows: [
				...failed.map(({ name, cell, problem }) => [
					cell ? `${name} (${cell.index} of ${cell.cells})` : name,
					problem,
				]),
				...missing.map((cell) => [`cell ${cell}`, "missing: no folder has this cell"]),
			],
		};
	}

	#byModel(): Map<string, DoneRun[]> {
		return Map.groupBy(this.comparison.done, ({ record }) => record.model);
	}

	#runSections(folder: string): Content {
		const values = this.#valueTable();
		const models = [...this.#byModel()].map(([model, runs]) =>
			html`<h3>${model}</h3>
${tableHtml(this.#runTable(runs, folder))}`
		);
		return [
			section("Runs", models),
			this.#metricTables().map(({ heading, table }) => section(heading, tableHtml(table))),
			this.#paperTables().length > 0
				? section("As papers print it", this.#paperTables().map(tableHtml))
				: undefined,
			section("Configuration", values ? tableHtml(values) : undefined, this.#versions()),
		];
	}

	/** @param folder Folder of the page; without it, runs are not linked. */
	#runTable(runs: readonly DoneRun[], folder?: string): Table {
		const { model } = runs[0].record;
		const columns = METRICS.filter(({ section }) => !section).flatMap((metric) => {
			const pairs = this.#pairs(metric, runs);
			return pairs.length > 0 ? metric.columns(pairs).map((column) => ({ metric, ...column })) : [];
		});
		return {
			caption: `Runs of ${model}`,
			head: [
				"#",
				"Run",
				"Stored bits",
				"Size",
				...columns.map(({ head }) => head),
				"Time",
			],
			hints: hintsOf(columns),
			left: 2,
			rows: runs.map((run) => {
				const { record } = run;
				const number = this.#numbers.get(run)!;
				const { packed, evaluation, seconds } = record;
				const isBest = this.#panels.some(({ best }) => best.has(number));
				return [
					`${number}`,
					nameCell(run, model, isBest, folder),
					decimal(packed?.storedBits, 3),
					packed ? sizeText(packed.bytes) : NONE,
					...columns.map(({ metric, text }) => text(pairsIn(metric, evaluation))),
					isNumber(seconds) ? timeText(seconds) : NONE,
				];
			}),
		};
	}

	/** The figures of all runs. */
	#pairs(metric: Metric, runs: readonly DoneRun[]): Pair<Figure>[] {
		return runs.flatMap(({ record }) => pairsIn(metric, record.evaluation));
	}

	/** Tables of metrics with a separate section. */
	#metricTables(): { metric: Metric; heading: string; table: Table }[] {
		return METRICS.flatMap((metric) => {
			const pairs = this.#pairs(metric, this.comparison.done);
			if (!metric.section || pairs.length === 0) return [];
			const { heading, caption } = metric.section;
			const columns = metric.columns(pairs);
			const cells = (pairs: readonly Pair<Figure>[]) => columns.map(({ text }) => text(pairs));
			const rows = [...this.#byModel()].flatMap(([model, runs]): Cell[][] => {
				const pairsByRun = runs.map(({ record }) => pairsIn<Figure>(metric, record.evaluation));
				const original = pairsByRun.find((pairs) =>
					pairs.length > 0 && pairs.every(({ before }) => before)
				)?.map(({ before: after }) => ({ after }));
				return [
					...(original ? [["", `${model}, original`, ...cells(original)]] : []),
					...runs.map((run, i) => [
						`${this.#numbers.get(run)}`,
						withoutModel(run.name, model),
						...cells(pairsByRun[i]),
					]),
				];
			});
			const head = ["#", "Run", ...columns.map(({ head }) => head)];
			return [{
				metric,
				heading,
				table: { caption, head, hints: hintsOf(columns), left: 2, rows },
			}];
		});
	}

	#paperTables(): Table[] {
		return [...this.#byModel()].flatMap(([model, runs]) => {
			const methods = runs.map(({ name, record }) => ({ name: withoutModel(name, model), record }));
			return paperTable(model, methods) ?? [];
		});
	}

	/** The values set by the cells. */
	#valueTable(): Table | undefined {
		const runs = [...this.#numbers].filter(([{ cell }]) => cell);
		const valueOf = ({ cell }: RunInFolder, path: string) => cell?.values[path];
		const paths = [...new Set(runs.flatMap(([{ cell }]) => Object.keys(cell!.values)))];
		if (paths.length === 0) return undefined;
		const text = (value: unknown) =>
			value === undefined ? NONE : typeof value === "string" ? value : JSON.stringify(value);
		return {
			caption: "Values set by the cells",
			head: ["#", ...paths],
			left: paths.length + 1,
			rows: runs.map(([run, number]) => [
				`${number}`,
				...paths.map((path) => text(valueOf(run, path))),
			]),
		};
	}

	#versions(): Html {
		const rows = this.comparison.done.map((run) => {
			const { record: { billm, deno, adapter, mode, seed } } = run;
			return [`${this.#numbers.get(run)}`, billm, deno, adapter, mode, `${seed}`];
		});
		return foldedTable("Versions", {
			caption: "Versions and machines of the runs",
			head: ["#", "BiLLM", "Deno", "Adapter", "Mode", "Seed"],
			left: 6,
			rows,
		});
	}
}

/** The explanations of columns by their headings. */
function hintsOf(columns: readonly { head: string; hint?: string }[]): Record<string, string> {
	return Object.fromEntries(columns.flatMap(({ head, hint }) => hint ? [[head, hint]] : []));
}

function peerTable({ program, results }: Peers): Table {
	return {
		caption: `Results of ${program}`,
		head: ["Name", "Size", "Perplexity"],
		rows: results.map(({ name, bytes, perplexity }) => [
			name,
			sizeText(bytes),
			decimal(perplexity, 2),
		]),
	};
}

/** Whether the results of other programs are figures of this metric. */
function hasPeers({ noun }: Metric): boolean {
	return noun === "perplexity";
}

function panelName({ model, dataset }: Panel): string {
	return `${model} on ${dataset}`;
}

/** The name of a cell without the name of its model. */
function withoutModel(name: string, model: string): string {
	const last = model.slice(model.lastIndexOf("/") + 1);
	const names = [model, last, model.replaceAll("/", "-"), model.replaceAll("/", "_")];
	const rest = name.split(",").map((part) => part.trim()).filter((part) => !names.includes(part));
	return rest.length > 0 ? rest.join(", ") : name;
}

function nameCell(
	{ folder, name, record }: DoneRun,
	model: string,
	isBest: boolean,
	page?: string,
): Cell {
	const shown = withoutModel(name, model);
	const report = join(folder, "report.html");
	const link = page !== undefined && existsSync(report)
		? relative(page, realpathSync(report)).split(sep).map(encodeURIComponent).join("/")
		: undefined;
	const inner = link === undefined ? html`${shown}` : html`<a href="${link}">${shown}</a>`;
	const bits = record.packed?.paperBits;
	const title = bits === undefined ? shown : `${decimal(bits, 3)} bits as counted in the paper`;
	return {
		text: shown,
		strong: isBest,
		html: html`<span title="${title}">${isBest ? html`<strong>${inner}</strong>` : inner}</span>`,
	};
}

/** The style of a standalone SVG: what a page has, and fonts. */
function pictureStyle(): string {
	const rules = style.match(/[^{}]+\{(?:[^{}]|\{[^{}]*\})*\}/g) ?? [];
	const wanted =
		/^\s*(:root|@media screen|\.(tick|grid|axis|front|reference|leader|dot|diamond|peer|name)\b|text\.)/;
	return rules.filter((rule) => wanted.test(rule)).join("\n") +
		`svg { overflow: visible; font-family: system-ui, -apple-system, "Segoe UI", Roboto, ` +
		`Helvetica, Arial, sans-serif; font-variant-numeric: tabular-nums; }\n` +
		`.heading { fill: var(--text); font-size: 14px; font-weight: 600; }\n`;
}
