import { bytesText } from "./units.ts";

/** The text of a number that was not measured. */
export const NONE = "–";

/** Whether a value is a number; JSON has null for numbers that are not finite. */
export function isNumber(value: unknown): value is number {
	return typeof value === "number" && Number.isFinite(value);
}

/** A number with a fixed number of decimals, and with spaces between thousands. */
export function decimal(value: number | undefined, digits: number): string {
	if (!isNumber(value)) return NONE;
	const [whole, fraction] = value.toFixed(digits).split(".");
	const grouped = whole.replace(/\B(?=(\d{3})+$)/g, "\u202f"); // narrow no-break space
	return fraction ? `${grouped}.${fraction}` : grouped;
}

/** A fraction as a percentage. */
export function percent(part: number | undefined, digits = 1): string {
	return isNumber(part) ? `${decimal(100 * part, digits)}\u00a0%` : NONE;
}

/** The ratio by which a figure has grown, as text. */
export function growthText(before: number | undefined, after: number | undefined): string {
	if (!isNumber(before) || !isNumber(after)) return NONE;
	const growth = after / before;
	return `×\u00a0${
		growth >= 1e6 ? growth.toExponential(1) : decimal(growth, growth < 100 ? 2 : 0)
	}`;
}

/** A date of the record, to the minute, in UTC. */
export function dateText(iso: string | undefined): string {
	const [, day, minute] = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)/.exec(iso ?? "") ?? [];
	return day ? `${day} ${minute} UTC` : NONE;
}

/** A size in bytes as text that does not break over lines. */
export function sizeText(bytes: number): string {
	return bytesText(bytes).replace(" ", "\u00a0");
}

/** A count with its noun: "1 layer", "2 layers". */
export function counted(count: number, noun: string): string {
	return `${decimal(count, 0)} ${plural(count, noun)}`;
}

/** "layer" for one, "layers" for other counts. */
export function plural(count: number, noun: string): string {
	return count === 1 ? noun : `${noun}s`;
}

/** The sum of some numbers. */
export function sum(values: Iterable<number>): number {
	let total = 0;
	for (const value of values) total += value;
	return total;
}

/** The elements of several arrays, one after the other. */
export function joined(parts: readonly Float32Array[]): Float32Array {
	const all = new Float32Array(sum(parts.map(({ length }) => length)));
	let at = 0;
	for (const part of parts) {
		all.set(part, at);
		at += part.length;
	}
	return all;
}

/** Sums of the numbers of several records, by key. */
export function sumByKey(
	records: Iterable<Readonly<Record<string, number>>>,
): Record<string, number> {
	const sums: Record<string, number> = {};
	for (const record of records) {
		for (const [key, value] of Object.entries(record)) sums[key] = (sums[key] ?? 0) + value;
	}
	return sums;
}

/** "a, b and c" */
export function listed(words: readonly string[], last: "and" | "or"): string {
	return [words.slice(0, -1).join(", "), ...words.slice(-1)].filter(Boolean).join(` ${last} `);
}

/** A text with its first letter in upper case: "Zero-shot accuracy". */
export function capitalized(words: string): string {
	return words[0].toUpperCase() + words.slice(1);
}
