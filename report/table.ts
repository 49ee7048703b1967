import { type Content, Html, html } from "./html.ts";

/**
 * A cell: its text, and its HTML if that is more than the text; `strong` is for Markdown only.
 */
export type Cell = string | { text: string; html: Content; strong?: boolean };

/** A table for HTML and Markdown. */
export interface Table {
	/** Caption, also for screen readers. */
	caption: string;
	head: readonly string[];
	/** Explanations of headings, shown as their tooltips in HTML. */
	hints?: Readonly<Record<string, string>>;
	rows: readonly (readonly Cell[])[];
	/** Number of text columns, left-aligned; the others are numbers, right-aligned. */
	left?: number;
	/** Number of text columns after the numbers. */
	leftAgain?: number;
	/** Whether the last row is a total. */
	total?: boolean;
}

function isWords(table: Table, column: number): boolean {
	const { head, left = 1, leftAgain = 0 } = table;
	return column < left || column >= head.length - leftAgain;
}

/** Maximum cell length of a column without line breaks. */
const SHORT = 18;

/** The CSS class of a column. */
function kindOf(table: Table, column: number): string {
	if (!isWords(table, column)) return "number";
	const lengths = table.rows.map((row) => textOf(row[column] ?? "").length);
	return Math.max(...lengths) <= SHORT ? "short" : "words";
}

function textOf(cell: Cell): string {
	return typeof cell === "string" ? cell : cell.text;
}

/** A text with line-break opportunities after slashes and within dotted names. */
function breakable(text: string): Html {
	const parts = text.split(/(?<=\/|\.\w+\.)/);
	return html`${parts.map((part, i) => i === 0 ? part : html`<wbr />${part}`)}`;
}

/** A table in HTML that scrolls horizontally if it is wider than the page. */
export function tableHtml(table: Table): Html {
	const { caption, head, rows, hints = {}, total = false } = table;
	const kinds = head.map((_, column) => kindOf(table, column));
	const content = (cell: Cell, kind: string): Content =>
		typeof cell !== "string" ? cell.html : kind === "words" ? breakable(cell) : cell;
	const headCells = head.map((text, column) => {
		const kind = kinds[column];
		const hint = hints[text];
		return hint === undefined
			? html`<th scope="col" class="${kind}">${text}</th>`
			: html`<th scope="col" class="${kind}" title="${hint}">${text}</th>`;
	});
	const lines = rows.map((row, i) => {
		const cells = row.map((cell, column) =>
			column === 0 && textOf(cell) !== ""
				? html`<th scope="row" class="${kinds[0]}">${content(cell, kinds[0])}</th>`
				: html`<td class="${kinds[column]}">${content(cell, kinds[column])}</td>`
		);
		return total && i === rows.length - 1
			? html`
				<tr class="total">${cells}</tr>
			`
			: html`
				<tr>${cells}</tr>
			`;
	});
	return html`
		<div class="scroll" role="region" aria-label="${caption}" tabindex="0">
			<table>
				<caption>${caption}</caption>
				<thead>
					<tr>${headCells}</tr>
				</thead>
				<tbody>
		${lines}</tbody>
			</table>
		</div>
	`;
}

/** Tables in a collapsed details element, which print expands. */
export function foldedTable(summary: string, ...tables: readonly Table[]): Html {
	return html`
		<details><summary>${summary}</summary>
		${tables.map(tableHtml)}</details>
	`;
}

/** A table in GitHub's Markdown. */
export function tableMarkdown(table: Table): string {
	const { head, rows } = table;
	const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
	const rule = head.map((_, column) => isWords(table, column) ? "---" : "---:");
	const text = (cell: Cell) => {
		const escaped = escapeMarkdown(textOf(cell));
		return typeof cell !== "string" && cell.strong ? `**${escaped}**` : escaped;
	};
	return [
		line(head.map(escapeMarkdown)),
		line(rule),
		...rows.map((row) => line(row.map(text))),
	].join("\n");
}

/** Text escaped for Markdown, on one line, with plain spaces. */
export function escapeMarkdown(text: string): string {
	return text.replace(/\s*[\r\n]+\s*|[\u00a0\u202f]/g, " ").replace(/[\\`*_{}[\]<>|#~]/g, "\\$&")
		.replaceAll("&", "&amp;");
}
