import { isSpace, WORD } from "./characters.ts";
import type { Normalizer } from "./normalizers.ts";
import type { AddedToken } from "./tokenizer_settings.ts";

/** An added token with its id. */
export type PlacedToken = AddedToken & { id: number };

/** A part of a text: a token, or text between tokens. */
export type Section =
	| { id: number }
	| {
		text: string;
		/** Whether it is at the very start of the whole text. */
		isFirst: boolean;
	};

const STARTS_WITH_WORD = new RegExp(`^${WORD}`, "u");
const ENDS_WITH_WORD = new RegExp(`${WORD}$`, "u");

/** A branch of the tree of the tokens' contents, by UTF-16 units. */
interface Node {
	next: Map<number, Node>;
	token?: PlacedToken;
}

/** The added tokens, which are found in a text before, or after, it is normalized. */
export class AddedTokens {
	readonly #plain: Node = { next: new Map() };
	readonly #normalized: Node = { next: new Map() };
	readonly #normalize: Normalizer;

	constructor(tokens: readonly PlacedToken[], normalize: Normalizer) {
		this.#normalize = normalize;
		for (const token of tokens) {
			const isNormalized = token.normalized ?? !token.special;
			if (isNormalized) add(this.#normalized, normalize(token.content), token);
			else add(this.#plain, token.content, token);
		}
	}

	/** The sections of a text, those without tokens normalized. */
	split(text: string): Section[] {
		return sectionsOf(this.#plain, { text, isFirst: true }).flatMap((section): Section[] => {
			if ("id" in section) return [section];
			const normalized = { text: this.#normalize(section.text), isFirst: section.isFirst };
			return sectionsOf(this.#normalized, normalized);
		});
	}
}

function add(root: Node, content: string, token: PlacedToken): void {
	if (content === "") return;
	let branch = root;
	for (let i = 0; i < content.length; i++) {
		const unit = content.charCodeAt(i);
		let next = branch.next.get(unit);
		if (!next) branch.next.set(unit, next = { next: new Map() });
		branch = next;
	}
	branch.token ??= token;
}

/** Cuts a text at tokens: the leftmost ones and, of several that begin there, the longest. */
function sectionsOf(root: Node, { text, isFirst }: { text: string; isFirst: boolean }): Section[] {
	const sections: Section[] = [];
	let start = 0; // of what is not yet in a section
	const push = (end: number) => {
		if (start < end) {
			sections.push({ text: text.slice(start, end), isFirst: isFirst && start === 0 });
		}
	};
	for (let at = 0; at < text.length && root.next.size > 0;) {
		const token = longestAt(root, text, at);
		if (!token) {
			at++;
			continue;
		}
		let first = at;
		let end = at + token.length;
		at = end;
		const { single_word, lstrip, rstrip, id } = token.token;
		if (
			single_word && (ENDS_WITH_WORD.test(lastCharacter(text, first)) ||
				STARTS_WITH_WORD.test(text.slice(end, end + 2)))
		) continue;
		if (lstrip) { while (first > start && isSpace(text[first - 1])) first--; }
		if (rstrip) { while (end < text.length && isSpace(text[end])) end++; }
		push(first);
		sections.push({ id });
		start = end;
		at = Math.max(at, end);
	}
	push(text.length);
	return sections;
}

function longestAt(
	root: Node,
	text: string,
	at: number,
): { token: PlacedToken; length: number } | undefined {
	let found: { token: PlacedToken; length: number } | undefined;
	let branch: Node | undefined = root;
	for (let i = at; i < text.length; i++) {
		branch = branch.next.get(text.charCodeAt(i));
		if (!branch) break;
		if (branch.token) found = { token: branch.token, length: i + 1 - at };
	}
	return found;
}

/** The character before a place; empty at the start. */
function lastCharacter(text: string, end: number): string {
	return Array.from(text.slice(Math.max(0, end - 2), end)).at(-1) ?? "";
}
