/**
 * SVG charts without scripts. Horizontal positions are percentages, so that charts scale with the page
 * while text keeps its size; vertical positions are pixels. Colours are classes of `report.css` with light
 * and dark values.
 */
import { decimal } from "../base/figures.ts";
import { type Content, Html, html } from "./html.ts";

/** A horizontal position as a percentage of the width. */
export function across(part: number): string {
	return `${Number((100 * part).toFixed(3))}%`;
}

/** A number with few digits, for vertical positions and paths. */
export function short(value: number): string {
	return `${Number(value.toFixed(2))}`;
}

/** A chart as an image with a text alternative. */
export function picture(height: number, label: string, content: Content): Html {
	return html`
		<svg class="chart" role="img" aria-label="${label}" width="100%" height="${height}">
		${content}</svg>
	`;
}

/** A chart with the names of its rows on the left. */
function withNames(names: readonly string[], rowHeight: number, chart: Html): Html {
	const style = `grid-auto-rows: ${rowHeight}px`;
	return html`
		<div
			class="named"><div class="names" aria-hidden="true" style="${style}">${names.map((name) =>
				html`<span>${name}</span>`
			)}</div>${chart}</div>
	`;
}

/** A bar for a table cell that also contains the number. */
export function cellBar(part: number): Html {
	const width = across(Math.max(0, Math.min(1, part)));
	return html`
		<svg class="bar" aria-hidden="true" width="100%" height="10">
			<rect class="track" width="100%" height="10" rx="2" />
			<rect class="accent" width="${width}" height="10" rx="2" />
		</svg>
	`;
}

/** Number of colours of parts. */
const PART_COLOURS = 7;

/** A small square in the colour of a part. */
export function partSwatch(index: number): Html {
	return swatch(`part-${index % PART_COLOURS}`);
}

/** A small square in the colour of a class. */
export function swatch(name: string): Html {
	return html`
		<svg class="swatch" aria-hidden="true" width="12" height="12">
			<rect class="${name}" width="12" height="12" rx="2" />
		</svg>
	`;
}

export interface StackedBar {
	name: string;
	/** Sizes of the parts, in the order of their colours. */
	parts: readonly number[];
}

/** Stacked horizontal bars on a common scale from 0. */
export function stackedBars(
	bars: readonly StackedBar[],
	partNames: readonly string[],
	{ label, unit }: { label: string; unit: string },
): Html {
	const row = 26;
	const axis = 22;
	const totals = bars.map(({ parts }) => parts.reduce((sum, part) => sum + part, 0));
	const most = Math.max(...totals) || 1;
	const step = tickStep(most);
	const end = Math.ceil(most / step - 1e-9) * step;
	const height = row * bars.length;
	const ticks = Array.from({ length: Math.round(end / step) + 1 }, (_, i) => i * step);
	const grid = ticks.map((tick) => {
		const x = across(tick / end);
		const anchor = tick === 0 ? "start" : tick === ticks.at(-1) ? "end" : "middle";
		return html`
			<line class="grid" x1="${x}" x2="${x}" y1="0" y2="${height}" />
			<text class="tick" x="${x}" y="${height + 16}" text-anchor="${anchor}">${tickText(
				tick,
				step,
			)}</text>
		`;
	});
	const rects = bars.map(({ name, parts }, bar) => {
		let start = 0;
		return parts.map((part, i) => {
			const x = across(start / end);
			start += part;
			if (part <= 0) return undefined;
			return html`
				<rect class="part-${i % PART_COLOURS}" x="${x}" y="${bar * row + 5}" width="${across(
					part / end,
				)}"
					height="${row - 10}">
					<title>${name}, ${partNames[i]}: ${decimal(part, 3)} ${unit}</title>
				</rect>
			`;
		});
	});
	return withNames(
		bars.map(({ name }) => name),
		row,
		picture(height + axis, label, [...grid, ...rects]),
	);
}

/** The distance between two to six ticks of an axis from 0. */
function tickStep(most: number): number {
	const power = 10 ** Math.floor(Math.log10(most));
	const steps = [0.2, 0.25, 0.5, 1, 2].map((digit) => digit * power);
	return steps.find((step) => most / step <= 5) ?? power;
}

/** The largest of 1, 2 or 5 times a power of ten up to a number. */
function niceBelow(most: number): number {
	const power = 10 ** Math.floor(Math.log10(most));
	return ([5, 2].find((digit) => digit * power <= most) ?? 1) * power;
}

function tickText(tick: number, step: number): string {
	if (tick === 0) return "0";
	return decimal(tick, Math.max(0, Math.min(6, Math.ceil(-Math.log10(step) - 1e-9))));
}

/** Number of shades of a heat map. */
export const SHADES = 6;

export interface HeatMap {
	/** Names of the rows, from the top. */
	names: readonly string[];
	/** Names of the columns, from the left. */
	columns: readonly string[];
	/** Values by row and column; undefined where nothing was measured. */
	values: readonly (readonly (number | undefined)[])[];
	/** Text of a value, in cells and tooltips. */
	text(value: number): string;
	label: string;
	/** Name of the column axis. */
	axis: string;
}

/** Maximum columns of a heat map with numbers in the cells, on a page and on a phone. */
const WRITTEN = 14;
const WRITTEN_ON_PHONE = 6;

/** A heat map, with numbers in the cells if there is room. */
export function heatMap({ names, columns, values, text, label, axis }: HeatMap): Html {
	const row = 26;
	const numbers = values.flat().filter((value) => value !== undefined);
	const shadeOf = shades(numbers, text);
	const written = columns.length <= WRITTEN
		? columns.length <= WRITTEN_ON_PHONE ? "value" : "value wide"
		: undefined;
	const cells = values.map((line, i) =>
		line.map((value, j) => {
			const shade = value === undefined ? "none" : `shade-${shadeOf(value)}`;
			const said = value === undefined ? "not measured" : text(value);
			const x = across(j / columns.length);
			const y = i * row;
			const title = html`<title>${names[i]}, ${axis} ${columns[j]}: ${said}</title>`;
			const number = written !== undefined && value !== undefined
				? html`
					<text class="${written} on-${shade}" x="${across((j + 0.5) / columns.length)}" y="${y +
						17}"
						text-anchor="middle">${text(value)}</text>
				`
				: undefined;
			return html`
				<g>${title}<rect class="${shade} cell" x="${x}" y="${y}" width="${across(
					1 / columns.length,
				)}" height="${row}"/>${number}</g>
			`;
		})
	);
	const every = Math.ceil(columns.length / 8);
	const ticks = columns.map((column, j) =>
		j % every > 0 ? undefined : html`
			<text class="tick" x="${across((j + 0.5) / columns.length)}" y="${row * names.length +
				16}" text-anchor="middle">${column}</text>
		`
	);
	const chart = picture(row * names.length + 22, label, [...cells, ...ticks]);
	return html`${withNames(names, row, chart)}${shadeLegend(numbers, text)}`;
}

/** The shade of a number: equal steps from minimum to maximum; a single shade if their texts are equal. */
function shades(
	numbers: readonly number[],
	text: (value: number) => string,
): (value: number) => number {
	const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
	if (text(least) === text(most)) return () => 1;
	return (value) => Math.min(SHADES - 1, Math.floor(SHADES * (value - least) / (most - least)));
}

function shadeLegend(numbers: readonly number[], text: (value: number) => string): Html {
	const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
	if (numbers.length === 0 || text(least) === text(most)) return html``;
	const size = 14;
	const squares = Array.from({ length: SHADES }, (_, i) =>
		html`
			<rect class="shade-${i}" x="${i * size}" width="${size}" height="12" />
		`);
	const ramp = html`<svg class="swatch" aria-hidden="true" width="${
		SHADES * size
	}" height="12">${squares}</svg>`;
	return html`
		<p class="legend">${text(least)} ${ramp} ${text(most)}</p>
	`;
}

/** Counts of adjacent bins, and the class of their colour. */
export interface Layer {
	name: string;
	counts: readonly number[];
}

/**
 * A chart of a stacked distribution above a line and another one below it, each with its own scale. Bins
 * cover -limit to limit.
 */
export function mirroredDistribution(
	above: readonly Layer[],
	below: Layer,
	{ label, limit, marks }: { label: string; limit: number; marks: readonly number[] },
): Html {
	const up = 84;
	const down = 46;
	const bins = below.counts.length;
	const bases = [new Array<number>(bins).fill(0)];
	for (const { counts } of above) bases.push(bases.at(-1)!.map((base, i) => base + counts[i]));
	const mostAbove = Math.max(...bases.at(-1)!, 1);
	const mostBelow = Math.max(...below.counts, 1);
	const y = (count: number) => up - (up - 4) * count / mostAbove;
	const shapes = above.map(({ name }, k) =>
		html`
			<path class="${name}" d="${steps(bases[k].map(y), bases[k + 1].map(y))}" />
		`
	);
	const hanging = below.counts.map((count) => up + 1 + (down - 4) * count / mostBelow);
	const shape = html`
		<path class="${below.name}" d="${steps(new Array(bins).fill(up + 1), hanging)}" />
	`;
	const inner = html`
		<svg viewBox="0 0 ${bins} ${up + down}" preserveAspectRatio="none" width="100%"
			height="${up + down}">
		${shapes}${shape}</svg>
	`;
	const place = (value: number) => across((value + limit) / (2 * limit));
	const lines = marks.filter((mark) => Math.abs(mark) < limit).map((mark) =>
		html`
			<line class="mark" x1="${place(mark)}" x2="${place(mark)}" y1="0" y2="${up}" />
		`
	);
	const step = niceBelow(0.85 * limit);
	const ticks = [-step, 0, step].map((tick) =>
		html`
			<text class="tick" x="${place(tick)}" y="${up + down + 14}"
				text-anchor="middle">${tick < 0 ? "−" : ""}${tickText(Math.abs(tick), step)}</text>
		`
	);
	return picture(up + down + 18, label, [
		inner,
		html`
			<line class="axis" x1="0" x2="100%" y1="${up + 0.5}" y2="${up + 0.5}" />
		`,
		...lines,
		...ticks,
	]);
}

/** The outline of adjacent bars of width 1 between two heights each. */
function steps(from: readonly number[], to: readonly number[]): string {
	const there = to.map((y) => `V${short(y)}h1`).join("");
	const back = from.toReversed().map((y) => `V${short(y)}h-1`).join("");
	return `M0 ${short(from[0])}${there}${back}Z`;
}

/** A column chart on a scale from 0. */
export function columnChart(
	names: readonly string[],
	values: readonly number[],
	{ label, text, axis }: { label: string; text: (value: number) => string; axis: string },
): Html {
	const height = 110;
	const most = Math.max(...values) || 1;
	const step = tickStep(most);
	const end = Math.ceil(most / step - 1e-9) * step;
	const levels = Array.from({ length: Math.round(end / step) + 1 }, (_, i) => i * step)
		.map((tick) => ({ tick, y: short(6.5 + height * (1 - tick / end)) }));
	const grid = levels.map(({ y }) =>
		html`
			<line class="grid" x1="0" x2="100%" y1="${y}" y2="${y}" />
		`
	);
	const axisWidth = 44;
	const numbers = levels.map(({ tick, y }) =>
		html`
			<text class="tick" x="${axisWidth}" y="${Number(y) + 4}" text-anchor="end">${tickText(
				tick,
				step,
			)}</text>
		`
	);
	const gap = Math.min(0.25, 0.04 + 0.6 / names.length);
	const bars = values.map((value, i) => {
		const bar = height * value / end;
		return html`
			<rect class="accent" x="${across((i + gap / 2) / names.length)}" y="${short(
				6.5 + height - bar,
			)}" width="${across((1 - gap) / names.length)}" height="${short(bar)}">
				<title>${axis} ${names[i]}: ${text(value)}</title>
			</rect>
		`;
	});
	const every = Math.ceil(names.length / 8);
	const ticks = names.map((name, i) =>
		i % every > 0 ? undefined : html`
			<text class="tick" x="${across((i + 0.5) / names.length)}" y="${height +
				30}" text-anchor="middle">${name}</text>
		`
	);
	const chart = picture(height + 28, label, [
		...grid,
		...bars,
		html`
			<line class="axis" x1="0" x2="100%" y1="${height + 6.5}" y2="${height + 6.5}" />
		`,
		...ticks,
	]);
	return html`
		<div class="named"><svg class="chart" aria-hidden="true" width="${axisWidth}" height="${height +
			28}">
		${numbers}</svg>${chart}</div>
	`;
}
