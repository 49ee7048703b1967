import type { Chart } from "../stages/metrics/metric.ts";
import { across, picture, short } from "./charts.ts";
import { capitalized, sizeText } from "../base/figures.ts";
import { type Html, html } from "./html.ts";
import { paretoFront, type Result } from "./pareto.ts";
import { linearScale, logScale, type Scale } from "./scale.ts";

/** A result with its number and name in the table. */
export interface NamedResult extends Result {
	number: number;
	name: string;
}

export interface ScatterOptions {
	label: string;
	height: number;
	/** Assumed width in pixels for placing names. */
	width: number;
	/** The original model. */
	original?: Result;
	/** Results of another program, drawn as diamonds and not part of the Pareto front. */
	peers?: readonly (Result & { name: string })[];
	/** The vertical axis and its name. */
	axis: { noun: string } & Pick<Chart<unknown>, "text" | "tick">;
}

/** The box of a name or a marker in pixels. */
interface Box {
	left: number;
	right: number;
	top: number;
	bottom: number;
}

/** A text with its position in pixels from the left and from the top. */
interface PlacedText {
	text: string;
	x: number;
	y: number;
	anchor: "start" | "middle" | "end";
}

const RADIUS = 9;
/** Width of a letter and height of a line in pixels. */
const LETTER = 6.4;
const LINE = 14;
/** Heights of the size axis below the plot and of the title above it. */
const BELOW = 42;
const ABOVE = 24;

/**
 * A chart of a figure against the size of the files. The markers on the Pareto front are filled, and
 * the staircase through them shows the best result at each size.
 */
export function paretoChart(results: readonly NamedResult[], options: ScatterOptions): Html {
	return new ParetoChart(results, options).html();
}

class ParetoChart {
	readonly #front: readonly NamedResult[];
	readonly #x: Scale;
	readonly #y: Scale;
	readonly #isLog: boolean;
	readonly #bottom: number;
	/** Boxes that names must not cover. */
	readonly #taken: Box[] = [];

	constructor(readonly results: readonly NamedResult[], readonly options: ScatterOptions) {
		const { original, height, peers = [] } = options;
		this.#front = paretoFront(results);
		const all = [...results, ...peers];
		const levels = all.map(({ value }) => value);
		if (original) levels.push(original.value);
		const [least, most] = [Math.min(...levels), Math.max(...levels)];
		this.#isLog = least > 0 && most > 3 * least;
		this.#x = linearScale(all.map(({ bytes }) => bytes), 5, 0.1);
		this.#y = this.#isLog ? logScale(levels) : linearScale(levels, 5, 0.1);
		this.#bottom = height - BELOW;
	}

	html(): Html {
		const { results, options: { height, label, peers = [] } } = this;
		for (const result of [...results, ...peers]) this.#taken.push(this.#markOf(result));
		const steps = this.#staircase();
		const reference = this.#reference();
		const levels = this.#levels();
		const names = [...results, ...peers].map((result) => this.#name(result));
		return picture(height, label, [
			levels,
			this.#sizes(),
			reference,
			steps,
			names,
			peers.map((peer) => this.#diamond(peer)),
			results.map((result) => this.#mark(result)),
		]);
	}

	#across({ bytes }: Result): number {
		return this.options.width * this.#x.at(bytes);
	}

	#down(value: number): number {
		return ABOVE + (this.#bottom - ABOVE) * (1 - this.#y.at(value));
	}

	#markOf(result: Result): Box {
		return around(this.#across(result), this.#down(result.value), RADIUS + 1);
	}

	/** The grid lines with their values. */
	#levels(): Html[] {
		const { original, axis } = this.options;
		const referenceAt = original ? this.#down(original.value) : -Infinity;
		return this.#y.ticks.map((tick) => {
			const y = this.#down(tick);
			const text = { text: axis.tick(tick), x: 0, y: y - 3, anchor: "start" } as const;
			this.#taken.push(boxOf(text));
			const isStruckOut = Math.abs(referenceAt - (y - 7)) < 7;
			return html`
				<line class="grid" x1="0" x2="100%" y1="${short(y)}" y2="${short(y)}" />
				${isStruckOut ? undefined : this.#text(text, "tick")}
			`;
		});
	}

	/** The size axis, and the titles of both axes. */
	#sizes(): Html {
		const { width, axis } = this.options;
		const bottom = this.#bottom;
		const ticks = this.#x.ticks.filter((tick) =>
			this.#x.at(tick) > 0.04 && this.#x.at(tick) < 0.96
		);
		const marks = ticks.map((tick) => {
			const x = across(this.#x.at(tick));
			return html`
				<line class="axis" x1="${x}" x2="${x}" y1="${bottom}" y2="${bottom + 4}" />
				<text class="tick" x="${x}" y="${bottom + 17}" text-anchor="middle">${sizeText(tick)}</text>
			`;
		});
		const kind = capitalized(axis.noun) + (this.#isLog ? " (log)" : "");
		return html`
			<line class="axis" x1="0" x2="100%" y1="${bottom}" y2="${bottom}" />
			${marks}
			${this.#text({ text: kind, x: 0, y: 11, anchor: "start" }, "tick")}
			${this.#text(
				{ text: "Size of the weight files", x: width, y: bottom + 34, anchor: "end" },
				"tick",
			)}
		`;
	}

	/** The level of the original model. */
	#reference(): Html | undefined {
		const { original, width, axis } = this.options;
		if (!original) return undefined;
		const y = this.#down(original.value);
		this.#taken.push({ left: 0, right: width, top: y - 1, bottom: y + 1 });
		const text = `original: ${axis.text(original.value)}, ${sizeText(original.bytes)}`;
		const places = [width, 0.7 * width, 0.4 * width].flatMap((x): PlacedText[] => [
			{ text, x, y: y - 6, anchor: "end" },
			{ text, x, y: y + 15, anchor: "end" },
		]);
		const place = this.#freePlace(places) ?? places[0];
		this.#taken.push(boxOf(place));
		return html`
			<line class="reference" x1="0" x2="100%" y1="${short(y)}" y2="${short(y)}" />
			${this.#text(place, "name")}
		`;
	}

	/** The Pareto front as a staircase: down at each result, then level up to the next one. */
	#staircase(): Html[] {
		const { width } = this.options;
		return this.#front.map((result, i) => {
			const [next, before] = [this.#front[i + 1], this.#front[i - 1]];
			const x = this.#across(result);
			const y = this.#down(result.value);
			const right = next ? this.#across(next) : width;
			const top = before ? this.#down(before.value) : ABOVE;
			this.#taken.push(
				{ left: x - 2, right: x + 2, top, bottom: y },
				{ left: x, right, top: y - 2, bottom: y + 2 },
			);
			const [a, b] = [across(x / width), across(right / width)];
			return html`
				<line class="front" x1="${a}" x2="${a}" y1="${short(top)}" y2="${short(y)}" />
				<line class="front" x1="${a}" x2="${b}" y1="${short(y)}" y2="${short(y)}" />
			`;
		});
	}

	#mark(result: NamedResult): Html {
		const { number, name, bytes, value } = result;
		const { axis } = this.options;
		const isBest = this.#front.includes(result);
		const x = across(this.#x.at(bytes));
		const y = this.#down(value);
		const title = `${number}: ${name}, ${sizeText(bytes)}, ${axis.noun} ${axis.text(value)}${
			isBest ? ", on the Pareto front" : ""
		}`;
		const best = isBest ? " best" : "";
		return html`
			<g>
				<title>${title}</title>
				<circle class="dot${best}" cx="${x}" cy="${short(y)}" r="${RADIUS}" />
				<text class="digits${best}" x="${x}" y="${short(y + 3.5)}"
					text-anchor="middle">${number}</text>
			</g>
		`;
	}

	#diamond(peer: Result & { name: string }): Html {
		const { axis } = this.options;
		const x = across(this.#x.at(peer.bytes));
		const y = short(this.#down(peer.value));
		const title = `${peer.name}, ${sizeText(peer.bytes)}, ${axis.noun} ${axis.text(peer.value)}`;
		return html`
			<g>
				<title>${title}</title>
				<svg class="diamond" x="${x}" y="${y}">
					<path class="peer" d="M0 -6L6 0L0 6L-6 0Z" />
				</svg>
			</g>
		`;
	}

	/**
	 * The name of a result at the free place nearest to its marker; it is left out if there is none, since
	 * the marker has the number.
	 */
	#name(result: Result & { name: string }): Html | undefined {
		const x = this.#across(result);
		const y = this.#down(result.value);
		const gap = RADIUS + 4;
		const text = result.name;
		const places = [0, 13, 26, 39].flatMap((far): PlacedText[] => [
			{ text, x: x + gap, y: y + 4 - far, anchor: "start" },
			{ text, x: x + gap, y: y + 4 + far, anchor: "start" },
			{ text, x: x - gap, y: y + 4 + far, anchor: "end" },
			{ text, x: x - gap, y: y + 4 - far, anchor: "end" },
			{ text, x, y: y - gap - 1 - far, anchor: "middle" },
			{ text, x, y: y + gap + 10 + far, anchor: "middle" },
		]);
		const place = this.#freePlace(places);
		if (!place) return undefined;
		this.#taken.push(boxOf(place));
		return html`${this.#leader(place, x, y)}${this.#text(place, "name label", x)}`;
	}

	/** A line from a marker to its name, if they are apart. */
	#leader(place: PlacedText, x: number, y: number): Html | undefined {
		if (Math.abs(place.y - y) < 2.5 * RADIUS + 8) return undefined;
		const { width } = this.options;
		const end = place.y < y ? place.y + 4 : place.y - 10;
		return html`
			<line class="leader label" x1="${across(x / width)}" y1="${short(y)}" x2="${across(
				place.x / width,
			)}" y2="${short(end)}" />
		`;
	}

	#freePlace(places: readonly PlacedText[]): PlacedText | undefined {
		return places.find((place) => {
			const box = boxOf(place);
			const isInside = box.left >= 2 && box.right <= this.options.width + 2 &&
				box.top >= ABOVE - 8 && box.bottom <= this.#bottom;
			return isInside && !this.#taken.some((other) => overlap(other, box));
		});
	}

	/** @param from Horizontal reference; the text keeps its distance from it in pixels. */
	#text({ text, x, y, anchor }: PlacedText, kind: string, from = x): Html {
		const place = across(from / this.options.width);
		return html`
			<text class="${kind}" x="${place}" dx="${short(x - from)}" y="${short(y)}"
				text-anchor="${anchor}">${text}</text>
		`;
	}
}

function around(x: number, y: number, far: number): Box {
	return { left: x - far, right: x + far, top: y - far, bottom: y + far };
}

function boxOf({ text, x, y, anchor }: PlacedText): Box {
	const width = LETTER * text.length;
	const left = anchor === "start" ? x : anchor === "end" ? x - width : x - width / 2;
	return { left, right: left + width, top: y + 3 - LINE, bottom: y + 3 };
}

function overlap(a: Box, b: Box): boolean {
	return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
