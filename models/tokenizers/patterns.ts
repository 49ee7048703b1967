import { SplitPreTokenizer } from "@huggingface/tokenizers";
import { Members } from "./members.ts";

/** The part of a text between two offsets, in UTF-16 units, and whether a pattern fits it. */
export interface Span {
	start: number;
	end: number;
	isMatch: boolean;
}

/** A function that cuts a text into what fits and what does not; the spans cover the text. */
export type FindSpans = (text: string) => Span[];

/**
 * The JavaScript pattern, with the flags g and u, of a pattern of Oniguruma.
 *
 * @throws {Error} If it has no equivalent.
 */
export function regexOf(oniguruma: string): RegExp {
	// The library translates syntax, and classes such as \w and \s to those of Unicode.
	const { pattern } = new SplitPreTokenizer({
		type: "Split",
		pattern: { Regex: oniguruma },
		behavior: "Isolated",
		invert: false,
	});
	return pattern!;
}

/** The pattern in the member "pattern": `{ String }` or `{ Regex }`. */
export function patternOf(members: Members): RegExp {
	const pattern = members.object("pattern");
	const isText = pattern.has("String");
	const source = pattern.text(isText ? "String" : "Regex");
	pattern.end();
	if (isText) return new RegExp(escaped(source), "gu");
	try {
		return regexOf(source);
	} catch (error) {
		const problem = error instanceof Error ? error.message : String(error);
		throw new Error(`"${pattern.path}.Regex" is not supported: ${problem}`);
	}
}

function escaped(text: string): string {
	return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

/** The spans that a pattern with the flag g cuts a text into. */
export function spansOf(pattern: RegExp): FindSpans {
	return (text) => {
		const spans: Span[] = [];
		let at = 0;
		if (pattern.source === "(?:)") return [{ start: 0, end: text.length, isMatch: false }];
		for (const { index, 0: match } of text.matchAll(pattern)) {
			if (at < index) spans.push({ start: at, end: index, isMatch: false });
			at = index + match.length;
			spans.push({ start: index, end: at, isMatch: true });
		}
		if (at < text.length) spans.push({ start: at, end: text.length, isMatch: false });
		return spans;
	};
}

/** The spans of single characters that are of a kind, and of those that are not. */
export function charactersThat(isKind: (character: string) => boolean): FindSpans {
	return (text) => {
		const spans: Span[] = [];
		let at = 0;
		let start = 0;
		for (const character of text) {
			const end = at + character.length;
			if (isKind(character)) {
				if (start < at) spans.push({ start, end: at, isMatch: false });
				spans.push({ start: at, end, isMatch: true });
				start = end;
			}
			at = end;
		}
		if (start < at) spans.push({ start, end: at, isMatch: false });
		return spans;
	};
}

/** What becomes of the spans that fit. */
export const BEHAVIORS = [
	"Removed",
	"Isolated",
	"MergedWithPrevious",
	"MergedWithNext",
	"Contiguous",
] as const;

export type Behavior = typeof BEHAVIORS[number];

/** The parts of a text after a split; none is empty. */
export function splitSpans(spans: readonly Span[], behavior: Behavior): Span[] {
	let parts: Span[] = [];
	switch (behavior) {
		case "Removed":
			parts = spans.filter(({ isMatch }) => !isMatch);
			break;
		case "Isolated":
			parts = [...spans];
			break;
		case "Contiguous":
			for (const span of spans) {
				const last = parts.at(-1);
				if (last && last.isMatch === span.isMatch) last.end = span.end;
				else parts.push({ ...span });
			}
			break;
		case "MergedWithPrevious": {
			let wasMatch = false;
			for (const span of spans) {
				const last = parts.at(-1);
				if (span.isMatch && !wasMatch && last) last.end = span.end;
				else parts.push({ ...span });
				wasMatch = span.isMatch;
			}
			break;
		}
		case "MergedWithNext": {
			let wasMatch = false;
			for (const span of spans.toReversed()) {
				const next = parts.at(-1);
				if (span.isMatch && !wasMatch && next) next.start = span.start;
				else parts.push({ ...span });
				wasMatch = span.isMatch;
			}
			parts.reverse();
			break;
		}
	}
	return parts.filter(({ start, end }) => start < end);
}
