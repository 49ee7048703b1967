import { byteText, isNumeric, isPunctuation, isSpace, WORD } from "./characters.ts";
import { Members } from "./members.ts";
import {
	type Behavior,
	BEHAVIORS,
	charactersThat,
	type FindSpans,
	patternOf,
	spansOf,
	splitSpans,
} from "./patterns.ts";

/** A part of a text. */
export interface Piece {
	text: string;
	/** Whether it is at the very start of the whole text. */
	isFirst: boolean;
}

/** A function that cuts the pieces of a text into smaller ones. */
export type PreTokenizer = (pieces: Piece[]) => Piece[];

/**
 * The pre-tokenizer of a `tokenizer.json`; null is none.
 *
 * @param path Its place in messages.
 * @throws {Error} If it, or an option of it, is not supported.
 */
export function preTokenizerOf(path: string, json: unknown): PreTokenizer {
	if (json === null || json === undefined) return (pieces) => pieces;
	const members = new Members(path, json);
	const preTokenizer = build(members);
	members.end();
	return preTokenizer;
}

/** The word pattern of GPT-2. White space is that of Unicode. */
const GPT2_WORD =
	/'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

function build(members: Members): PreTokenizer {
	switch (members.type) {
		case "Sequence": {
			const steps = members.list("pretokenizers")
				.map((json, i) => preTokenizerOf(`${members.path}.pretokenizers[${i}]`, json));
			return (pieces) => steps.reduce((pieces, step) => step(pieces), pieces);
		}
		case "BertPreTokenizer":
			return chain(
				splitting(charactersThat(isSpace), "Removed"),
				splitting(charactersThat(isPunctuation), "Isolated"),
			);
		case "ByteLevel": {
			members.ignore("trim_offsets");
			const steps: PreTokenizer[] = [];
			if (members.flag("add_prefix_space", true)) {
				steps.push(changing((text) => text === "" || text.startsWith(" ") ? text : ` ${text}`));
			}
			if (members.flag("use_regex", true)) steps.push(splitting(spansOf(GPT2_WORD), "Isolated"));
			return chain(...steps, changing(byteText));
		}
		case "CharDelimiterSplit": {
			const delimiter = members.text("delimiter");
			return splitting(charactersThat((character) => character === delimiter), "Removed");
		}
		case "Digits": {
			const isSingle = members.flag("individual_digits", false);
			return splitting(charactersThat(isNumeric), isSingle ? "Isolated" : "Contiguous");
		}
		case "FixedLength":
			return fixedLength(members);
		case "Metaspace":
			return metaspace(members);
		case "Punctuation": {
			const behavior = members.choice("behavior", BEHAVIORS, "Isolated");
			return splitting(charactersThat(isPunctuation), behavior);
		}
		case "Split": {
			const find = spansOf(patternOf(members));
			const behavior = members.choice("behavior", BEHAVIORS);
			return splitting(members.flag("invert", false) ? inverted(find) : find, behavior);
		}
		case "Whitespace": {
			const pattern = new RegExp(`${WORD}+|[^\\p{White_Space}${WORD.slice(1, -1)}]+`, "gu");
			return splitting(inverted(spansOf(pattern)), "Removed");
		}
		case "WhitespaceSplit":
			return splitting(charactersThat(isSpace), "Removed");
		default:
			throw new Error(`"${members.path}" is "${members.type}", which is not supported`);
	}
}

function chain(...steps: PreTokenizer[]): PreTokenizer {
	return (pieces) => steps.reduce((pieces, step) => step(pieces), pieces);
}

function changing(change: (text: string) => string): PreTokenizer {
	return (pieces) => pieces.map(({ text, isFirst }) => ({ text: change(text), isFirst }));
}

/** Cuts each piece into the parts of a split. */
export function splitting(find: FindSpans, behavior: Behavior): PreTokenizer {
	return (pieces) =>
		pieces.flatMap(({ text, isFirst }) =>
			splitSpans(find(text), behavior).map(({ start, end }) => ({
				text: text.slice(start, end),
				isFirst: isFirst && start === 0,
			}))
		);
}

function inverted(find: FindSpans): FindSpans {
	return (text) => find(text).map((span) => ({ ...span, isMatch: !span.isMatch }));
}

function fixedLength(members: Members): PreTokenizer {
	const length = members.count("length", 5);
	if (length === 0) members.refuse("length", 0, "at least 1");
	return (pieces) =>
		pieces.flatMap(({ text, isFirst }) => {
			const characters = Array.from(text);
			const count = Math.ceil(characters.length / length);
			return Array.from({ length: count }, (_, i) => ({
				text: characters.slice(i * length, (i + 1) * length).join(""),
				isFirst: isFirst && i === 0,
			}));
		});
}

function metaspace(members: Members): PreTokenizer {
	members.ignore("str_rep"); // always the replacement
	const replacement = members.text("replacement", "▁");
	let scheme = members.choice("prepend_scheme", ["always", "first", "never"], "always");
	if (members.value("add_prefix_space") === false) {
		if (members.has("prepend_scheme") && scheme !== "never") {
			members.refuse("add_prefix_space", false, `consistent with prepend_scheme "${scheme}"`);
		}
		scheme = "never";
	}
	const splits = members.flag("split", true);
	const mark = changing((text) => text.replaceAll(" ", replacement));
	const prepend: PreTokenizer = (pieces) =>
		pieces.map(({ text, isFirst }) => {
			const isMarked = text === "" || scheme === "never" || scheme === "first" && !isFirst ||
				text.startsWith(replacement);
			return { text: isMarked ? text : replacement + text, isFirst };
		});
	const cut = splitting(
		charactersThat((character) => character === replacement),
		"MergedWithNext",
	);
	return chain(mark, prepend, ...(splits ? [cut] : []));
}
