import { type Content, Html, html } from "./html.ts";

/**
 * A cell: its text, and what stands for it in HTML where that is more than the text; `strong` is for
 * Markdown alone.
 */
export type Cell = string | { text: string; html: Content; strong?: boolean };

/** A table that a report shows in HTML or in Markdown. */
export interface Table {
  /** Said of it to those who do not see it. */
  caption: string;
  head: readonly string[];
  rows: readonly (readonly Cell[])[];
  /** So many columns are words, flush left; the others are numbers, flush right. */
  left?: number;
  /** Columns after the numbers that are words again. */
  leftAgain?: number;
  /** The last row sums up the others. */
  total?: boolean;
}

function isWords(table: Table, column: number): boolean {
  const { head, left = 1, leftAgain = 0 } = table;
  return column < left || column >= head.length - leftAgain;
}

/** Letters of the longest cell of a column that is not broken into lines. */
const SHORT = 18;

/** What a column holds, as the page's style knows it. */
function kindOf(table: Table, column: number): string {
  if (!isWords(table, column)) return "number";
  const lengths = table.rows.map((row) => textOf(row[column] ?? "").length);
  return Math.max(...lengths) <= SHORT ? "short" : "words";
}

function textOf(cell: Cell): string {
  return typeof cell === "string" ? cell : cell.text;
}

/** A text whose line may end after a slash, as that of a path. */
function breakable(text: string): Html {
  const parts = text.split(/(?<=\/)/);
  return html`${parts.map((part, i) => i === 0 ? part : html`<wbr />${part}`)}`;
}

/** A table that scrolls sideways where it is wider than the page. */
export function tableHtml(table: Table): Html {
  const { caption, head, rows, total = false } = table;
  const kinds = head.map((_, column) => kindOf(table, column));
  const content = (cell: Cell): Content => typeof cell === "string" ? breakable(cell) : cell.html;
  const headCells = head.map((text, column) =>
    html`<th scope="col" class="${kinds[column]}">${text}</th>`
  );
  const lines = rows.map((row, i) => {
    const cells = row.map((cell, column) =>
      column === 0 && textOf(cell) !== ""
        ? html`<th scope="row" class="${kinds[0]}">${content(cell)}</th>`
        : html`<td class="${kinds[column]}">${content(cell)}</td>`
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

/** A table that is folded away until somebody asks for it; printed all the same. */
export function foldedTable(summary: string, ...tables: readonly Table[]): Html {
  return html`
    <details><summary>${summary}</summary>
    ${tables.map(tableHtml)}</details>
  `;
}

/** A table as GitHub's Markdown has them. */
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

/** Text that Markdown shows as it is, on one line, with plain spaces. */
export function escapeMarkdown(text: string): string {
  return text.replace(/\s*[\r\n]+\s*|[\u00a0\u202f]/g, " ").replace(/[\\`*_{}[\]<>|#~]/g, "\\$&")
    .replaceAll("&", "&amp;");
}
