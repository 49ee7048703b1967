import { existsSync, realpathSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { timeText } from "../base/units.ts";
import type { Perplexity, ZeroShot } from "../models/metrics/figures.ts";
import type { Comparison, RunInFolder } from "./cells.ts";
import {
  counted,
  decimal,
  growthText,
  isNumber,
  NONE,
  perplexityText,
  sizeText,
  sum,
} from "./figures.ts";
import { type Content, Html, html } from "./html.ts";
import { mainAccuracy, perplexityPairs, taskPairs, textKey } from "./measures.ts";
import { page, section } from "./page.ts";
import { paretoFront } from "./pareto.ts";
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

/** Runs of one model whose perplexities were measured on the same text. */
interface Panel {
  model: string;
  text: Perplexity;
  original?: { perplexity: number; bytes: number };
  results: NamedResult[];
  /** Numbers of the results that are best at their size. */
  best: Set<number>;
}

/** A report of several runs side by side. */
export class MergedReport {
  readonly #panels: Panel[];
  /** Of each finished run, from 1, the same in charts and tables. */
  readonly #numbers: Map<DoneRun, number>;

  constructor(readonly comparison: Comparison) {
    this.#numbers = new Map(comparison.done.map((run, i) => [run, i + 1]));
    this.#panels = this.#makePanels();
  }

  get title(): string {
    const { done, failed } = this.comparison;
    const grids = new Set([...done, ...failed].map(({ cell }) => cell?.grid));
    const [grid] = grids;
    return grids.size === 1 && grid !== undefined ? grid : "Comparison of runs";
  }

  /**
   * @param folder Where the page will lie: runs with reports of their own are linked from there.
   */
  page(folder: string): string {
    const { done, failed, missing } = this.comparison;
    return page(`${this.title}: BiLLM report`, [
      html`
        <header>
          <h1>${this.title}</h1>
          <p class="subtitle">${this.#countText()}</p>
        </header>
      `,
      failed.length + missing.length > 0
        ? section("Not done", tableHtml(this.#problemTable()))
        : undefined,
      this.#panels.length > 0
        ? section(
          "Perplexity against size",
          html`
            <p>Each number is a run, named in the table below. Filled: no other run is as small and better. The
            line says what is to be had for so many bytes.</p>
          `,
          this.#panels.map((panel) => this.#panelFigure(panel)),
        )
        : undefined,
      done.length > 0 ? this.#runSections(folder) : undefined,
    ]);
  }

  /** The tables of the page. */
  markdown(): string {
    const { done, failed, missing } = this.comparison;
    const parts = [`## ${escapeMarkdown(this.title)}`, escapeMarkdown(this.#countText())];
    if (failed.length + missing.length > 0) parts.push(tableMarkdown(this.#problemTable()));
    for (const [model, runs] of this.#byModel()) {
      parts.push(`### ${escapeMarkdown(model)}`, tableMarkdown(this.#runTable(runs)));
    }
    const tasks = this.#taskTable();
    if (tasks) parts.push(`### Zero-shot accuracy`, tableMarkdown(tasks));
    if (done.length > 0) {
      parts.push(
        "Bold: no other run of the model is as small and better (perplexity, weight files).",
      );
    }
    return parts.join("\n\n") + "\n";
  }

  /**
   * The charts alone, for a page that shows pictures; undefined if no run has both a perplexity and a
   * size.
   */
  svg(): string | undefined {
    if (this.#panels.length === 0) return undefined;
    const [width, height, heading, margin] = [760, 340, 34, 20];
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
    const label = `Perplexity against size: ${this.#panels.map(panelName).join("; ")}`;
    const content = html`
      <svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${total}"
        viewBox="0 0 ${width} ${total}" role="img" aria-label="${label}">
      <style>
      ${new Html(pictureStyle())}</style>
      <rect width="100%" height="100%" rx="8" style="fill: var(--page)"/>
      ${charts}</svg>
    `;
    return `${content.text.trim()}\n`;
  }

  #countText(): string {
    const { done, failed, missing } = this.comparison;
    const parts = [`${counted(done.length, "run")} finished`];
    if (failed.length > 0) parts.push(`${failed.length} failed or not finished`);
    if (missing.length > 0) parts.push(`${missing.length} missing`);
    return parts.join(", ");
  }

  #makePanels(): Panel[] {
    const panels = new Map<string, Panel>();
    for (const [run, number] of this.#numbers) {
      const { record: { model, packed, evaluation }, name } = run;
      if (!packed) continue;
      for (const { before, after } of perplexityPairs(evaluation)) {
        if (!after || !isNumber(after.perplexity)) continue;
        const key = `${model} ${textKey(after)}`;
        const panel = panels.get(key) ?? { model, text: after, results: [], best: new Set() };
        panels.set(key, panel);
        const { bytes, originalBytes } = packed;
        panel.results.push({ number, name, bytes, perplexity: after.perplexity });
        if (before && isNumber(before.perplexity)) {
          panel.original ??= { perplexity: before.perplexity, bytes: originalBytes };
        }
      }
    }
    const all = [...panels.values()];
    for (const { results, best, model } of all) {
      for (const { number } of paretoFront(results)) best.add(number);
      for (const result of results) result.name = withoutModel(result.name, model);
    }
    return all;
  }

  #chart({ results, original, model, text }: Panel, height: number, width: number): Html {
    const label =
      `Perplexity of ${model} on ${text.dataset} against the size of the weight files, ` +
      `${counted(results.length, "run")}; the numbers are in the table`;
    return paretoChart(results, { label, height, width, original });
  }

  #panelFigure(panel: Panel): Html {
    return html`
      <figure>
      <h3>${panelName(panel)}</h3>
      ${this.#chart(panel, 340, 900)}</figure>
    `;
  }

  #problemTable(): Table {
    const { failed, missing } = this.comparison;
    return {
      caption: "Runs that are not done",
      head: ["Run", "Why"],
      left: 2,
      rows: [
        ...failed.map(({ name, cell, problem }) => [
          cell ? `${name} (${cell.index} of ${cell.cells})` : name,
          problem,
        ]),
        ...missing.map((cell) => [`cell ${cell}`, "missing: no folder says that it is this cell"]),
      ],
    };
  }

  #byModel(): Map<string, DoneRun[]> {
    return Map.groupBy(this.comparison.done, ({ record }) => record.model);
  }

  #runSections(folder: string): Content {
    const tasks = this.#taskTable();
    const values = this.#valueTable();
    const models = [...this.#byModel()].map(([model, runs]) =>
      html`<h3>${model}</h3>
${tableHtml(this.#runTable(runs, folder))}`
    );
    return [
      section("Runs", models),
      tasks ? section("Zero-shot tasks", tableHtml(tasks)) : undefined,
      section("Configuration", values ? tableHtml(values) : undefined, this.#versions()),
    ];
  }

  /** @param folder Where the page will lie; without it, runs are not linked. */
  #runTable(runs: readonly DoneRun[], folder?: string): Table {
    const { model } = runs[0].record;
    const texts = this.#texts(runs);
    return {
      caption: `Runs of ${model}`,
      head: [
        "#",
        "Run",
        "Stored bits",
        "Size",
        ...texts.flatMap((text) => [`Perplexity, ${shortText(text, texts)}`, "Growth"]),
        "Time",
      ],
      left: 2,
      rows: runs.map((run) => {
        const { record } = run;
        const number = this.#numbers.get(run)!;
        const { packed, evaluation, seconds } = record;
        const pairs = perplexityPairs(evaluation);
        const isBest = this.#panels.some(({ best }) => best.has(number));
        return [
          `${number}`,
          nameCell(run, model, isBest, folder),
          decimal(packed?.storedBits, 3),
          packed ? sizeText(packed.bytes) : NONE,
          ...texts.flatMap((text) => {
            const pair = pairs.find(({ before, after }) =>
              textKey((after ?? before)!) === textKey(text)
            );
            return [
              pair?.after ? perplexityText(pair.after.perplexity) : NONE,
              growthText(pair?.before?.perplexity, pair?.after?.perplexity),
            ];
          }),
          isNumber(seconds) ? timeText(seconds) : NONE,
        ];
      }),
    };
  }

  /** The texts that runs were measured on. */
  #texts(runs: readonly DoneRun[]): Perplexity[] {
    const all = runs.flatMap(({ record }) =>
      perplexityPairs(record.evaluation).map(({ before, after }) => (after ?? before)!)
    );
    return [...new Map(all.map((text) => [textKey(text), text])).values()];
  }

  #taskTable(): Table | undefined {
    const { done } = this.comparison;
    const all = done.flatMap(({ record }) => taskPairs(record.evaluation));
    const tasks = [...new Set(all.map(({ before, after }) => (after ?? before)!.task))];
    if (tasks.length === 0) return undefined;
    const cells = (results: readonly (ZeroShot | undefined)[]): Cell[] => {
      const values = tasks.map((task) => {
        const result = results.find((result) => result?.task === task);
        return result && mainAccuracy(result);
      });
      const isWhole = values.every((value) => value !== undefined);
      const mean = isWhole ? sum(values) / values.length : undefined;
      return [...values, mean].map((value) => value === undefined ? NONE : decimal(100 * value, 1));
    };
    const rows = [...this.#byModel()].flatMap(([model, runs]): Cell[][] => {
      const original = runs.map(({ record }) => taskPairs(record.evaluation))
        .find((pairs) => pairs.length > 0 && pairs.every(({ before }) => before));
      const before: Cell[][] = original
        ? [["", `${model}, original`, ...cells(original.map(({ before }) => before))]]
        : [];
      const after = runs.map((run): Cell[] => {
        const pairs = taskPairs(run.record.evaluation);
        return [`${this.#numbers.get(run)}`, run.name, ...cells(pairs.map(({ after }) => after))];
      });
      return [...before, ...after];
    });
    return {
      caption: "Zero-shot accuracy in percent, normalized where there is one",
      head: ["#", "Run", ...tasks, "mean"],
      left: 2,
      rows,
    };
  }

  /** What the cells set differently. */
  #valueTable(): Table | undefined {
    const runs = [...this.#numbers].filter(([{ cell }]) => cell);
    const valueOf = ({ cell }: RunInFolder, path: string) => cell?.values[path];
    const paths = [...new Set(runs.flatMap(([{ cell }]) => Object.keys(cell!.values)))];
    if (paths.length === 0) return undefined;
    const text = (value: unknown) =>
      value === undefined ? NONE : typeof value === "string" ? value : JSON.stringify(value);
    return {
      caption: "What the cells set",
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

function panelName({ model, text }: Panel): string {
  return `${model} on ${text.dataset}`;
}

/** The name of a cell without that of its model, which stands above. */
function withoutModel(name: string, model: string): string {
  const last = model.slice(model.lastIndexOf("/") + 1);
  const names = [model, last, model.replaceAll("/", "-"), model.replaceAll("/", "_")];
  const rest = name.split(",").map((part) => part.trim()).filter((part) => !names.includes(part));
  return rest.length > 0 ? rest.join(", ") : name;
}

/** A text as a column's head: with how it was cut where that tells it from another. */
function shortText(text: Perplexity, texts: readonly Perplexity[]): string {
  const { dataset, windows, sequenceLength } = text;
  const isAlone = texts.filter((other) => other.dataset === dataset).length === 1;
  const name = dataset.slice(dataset.lastIndexOf("/") + 1);
  return isAlone ? name : `${name}, ${windows} × ${sequenceLength}`;
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
  const title = bits === undefined ? shown : `${decimal(bits, 3)} bits as the paper counts`;
  return {
    text: shown,
    strong: isBest,
    html: html`<span title="${title}">${isBest ? html`<strong>${inner}</strong>` : inner}</span>`,
  };
}

/** The rules of the page's style that a picture needs: its colours and its letters. */
function pictureStyle(): string {
  const rules = style.match(/[^{}]+\{(?:[^{}]|\{[^{}]*\})*\}/g) ?? [];
  const wanted =
    /^\s*(:root|@media screen|\.(tick|grid|axis|front|reference|leader|dot|name)\b|text\.)/;
  const own = `svg { overflow: visible; font-family: system-ui, -apple-system, "Segoe UI", ` +
    `Roboto, Helvetica, Arial, sans-serif; font-variant-numeric: tabular-nums; }\n` +
    `.heading { fill: var(--text); font-size: 14px; font-weight: 600; }\n`;
  return rules.filter((rule) => wanted.test(rule)).map((rule) => rule.trim()).join("\n") + "\n" +
    own;
}
