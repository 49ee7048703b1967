import { bytesText } from "../pipeline/units.ts";
import { across, picture, short } from "./charts.ts";
import { decimal, perplexityText } from "./figures.ts";
import { type Html, html } from "./html.ts";
import { paretoFront, type Result } from "./pareto.ts";
import { linearScale, logScale } from "./scale.ts";

/** A result with the number and the name that it has in the table beside. */
export interface NamedResult extends Result {
  number: number;
  name: string;
}

export interface ScatterOptions {
  label: string;
  height: number;
  /** How wide the chart is taken to be where places for the names are looked for, in pixels. */
  width: number;
  /** Perplexity and size of the model before. */
  original?: { perplexity: number; bytes: number };
}

/** A box that a name or a mark takes, in pixels. */
interface Box {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

const RADIUS = 9;
const LETTER = 6.4;
const LINE = 14;
/** Where the plot ends: below it are the numbers of its axis, above it what goes up. */
const BELOW = 42;
const ABOVE = 24;

/**
 * Perplexity against the size of the files. The results that are best at their size are filled, and
 * the staircase through them says what is to be had for so many bytes.
 */
export function paretoChart(results: readonly NamedResult[], options: ScatterOptions): Html {
  const { height, width, original, label } = options;
  const front = paretoFront(results);
  const perplexities = results.map(({ perplexity }) => perplexity);
  const levels = original ? [...perplexities, original.perplexity] : perplexities;
  const x = linearScale(results.map(({ bytes }) => bytes), 4, 0.1);
  const isWide = Math.max(...levels) > 3 * Math.min(...levels);
  const y = isWide ? logScale(levels) : linearScale(levels, 5, 0.1);
  const plot = height - BELOW - ABOVE;
  const down = (value: number) => ABOVE + plot * (1 - y.at(value));

  const grid = y.ticks.map((tick) => {
    const at = short(down(tick));
    return html`
      <line class="grid" x1="0" x2="100%" y1="${at}" y2="${at}" />
      <text class="tick" x="0" y="${Number(at) - 3}">${tickOf(tick, isWide)}</text>
    `;
  });
  const bottom = ABOVE + plot;
  const sizes = x.ticks.filter((tick) => x.at(tick) > 0.04 && x.at(tick) < 0.96).map((tick) =>
    html`
      <line class="axis" x1="${across(x.at(tick))}" x2="${across(
        x.at(tick),
      )}" y1="${bottom}" y2="${bottom + 4}" />
      <text class="tick" x="${across(x.at(tick))}" y="${bottom +
        17}" text-anchor="middle">${bytesText(tick)}</text>
    `
  );
  const axis = html`
    <line class="axis" x1="0" x2="100%" y1="${bottom}" y2="${bottom}" />
    <text class="tick" x="0" y="11">Perplexity${isWide ? " (log)" : ""}</text>
    <text class="tick" x="100%" y="${bottom + 34}" text-anchor="end">Size of the weight files</text>
  `;
  const marks = results.map((result): Box =>
    around(width * x.at(result.bytes), down(result.perplexity), RADIUS, RADIUS)
  );
  const reference = original && referenceLine(original, down(original.perplexity));
  const taken = [...marks];
  if (original) {
    const text = originalText(original);
    taken.push({ ...textBox(text, width, down(original.perplexity) - 5, "end") });
  }
  const labels = placeNames(results, marks, taken, { width, top: ABOVE, bottom });
  const dots = results.map((result) => {
    const cx = across(x.at(result.bytes));
    const cy = short(down(result.perplexity));
    const isBest = front.includes(result);
    return html`
      <g>
        <title>${result.number}: ${result.name}, ${bytesText(
          result.bytes,
        )}, perplexity ${perplexityText(result.perplexity)}${isBest ? ", on the curve" : ""}</title>
        <circle class="${isBest ? "dot best" : "dot"}" cx="${cx}" cy="${cy}" r="${RADIUS}" />
        <text class="${isBest ? "number best" : "number"}" x="${cx}" y="${short(
          Number(cy) + 3.5,
        )}" text-anchor="middle">${result.number}</text>
      </g>
    `;
  });
  return picture(height, label, [
    ...grid,
    axis,
    ...sizes,
    reference,
    staircase(front.map((item) => ({ x: x.at(item.bytes), y: down(item.perplexity) })), ABOVE),
    ...labels,
    ...dots,
  ]);
}

function tickOf(tick: number, isWide: boolean): string {
  if (tick >= 1e6) return tick.toExponential(0);
  return isWide || tick >= 10 ? `${Number(tick.toPrecision(4))}` : decimal(tick, 1);
}

function originalText({ perplexity, bytes }: { perplexity: number; bytes: number }): string {
  return `original: ${perplexityText(perplexity)}, ${bytesText(bytes)}`;
}

function referenceLine(original: { perplexity: number; bytes: number }, at: number): Html {
  const y = short(at);
  return html`
    <line class="reference" x1="0" x2="100%" y1="${y}" y2="${y}" />
    <text class="name" x="100%" y="${short(at - 5)}" text-anchor="end">${originalText(
      original,
    )}</text>
  `;
}

/** What is the best for so many bytes: down at each result of the front, level up to the next one. */
function staircase(front: readonly { x: number; y: number }[], top: number): Html[] {
  return front.flatMap(({ x, y }, i) => {
    const right = front[i + 1]?.x ?? 1;
    const from = front[i - 1]?.y ?? top;
    const [a, b] = [across(x), across(right)];
    const level = html`
      <line class="front" x1="${a}" x2="${b}" y1="${short(y)}" y2="${short(y)}" />
    `;
    const fall = html`
      <line class="front" x1="${a}" x2="${a}" y1="${short(from)}" y2="${short(y)}" />
    `;
    return [fall, level];
  });
}

function around(x: number, y: number, dx: number, dy: number): Box {
  return { left: x - dx, right: x + dx, top: y - dy, bottom: y + dy };
}

function textBox(text: string, x: number, baseline: number, anchor: "start" | "middle" | "end") {
  const width = LETTER * text.length;
  const left = anchor === "start" ? x : anchor === "end" ? x - width : x - width / 2;
  return { left, right: left + width, top: baseline - LINE + 4, bottom: baseline + 4 };
}

function overlap(a: Box, b: Box): boolean {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

/**
 * Puts each name where it covers neither a mark nor another name, as near to its own mark as it can;
 * one without such a place is left out: its number is there.
 */
function placeNames(
  results: readonly NamedResult[],
  marks: readonly Box[],
  taken: Box[],
  { width, top, bottom }: { width: number; top: number; bottom: number },
): Html[] {
  return results.map((result, i) => {
    const [x, y] = [(marks[i].left + marks[i].right) / 2, (marks[i].top + marks[i].bottom) / 2];
    const gap = RADIUS + 4;
    const places: [dx: number, dy: number, anchor: "start" | "middle" | "end"][] = [];
    for (const far of [0, 14, 28, 42]) {
      places.push([gap, 4 - far, "start"], [-gap, 4 - far, "end"]);
      places.push([gap, 4 + far, "start"], [-gap, 4 + far, "end"]);
      places.push([0, -gap - 2 - far, "middle"], [0, gap + 11 + far, "middle"]);
    }
    for (const [dx, dy, anchor] of places) {
      const box = textBox(result.name, x + dx, y + dy, anchor);
      if (box.left < 2 || box.right > width - 2 || box.top < top || box.bottom > bottom) continue;
      if (taken.some((other) => overlap(other, box))) continue;
      taken.push(box);
      const isFar = Math.abs(dy) > gap + 12;
      const line = isFar
        ? html`
          <line class="leader" x1="${across(x / width)}" y1="${short(y)}" x2="${across(
            (x + 0.6 * dx) / width,
          )}" y2="${short(y + dy - 4)}" />
        `
        : undefined;
      return html`
        ${line}<text class="name label" x="${across(x / width)}" dx="${dx}" y="${short(y + dy)}"
          text-anchor="${anchor}">${result.name}</text>
      `;
    }
    return html``;
  });
}
