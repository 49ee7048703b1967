import type { TextTokenizer } from "./tokenizer.ts";

/** The replacement of an incomplete character, whose last bytes are in the next token. */
const INCOMPLETE = "\ufffd";
/** Tokens after which an incomplete character stays incomplete: a character has at most four bytes. */
const MOST_INCOMPLETE = 4;
/**
 * Number of preceding tokens that the text of a token may depend on, for example for a leading space.
 */
const CONTEXT = 6;

/**
 * An incremental decoder of tokens to text. Returned text is final: a character of several tokens is
 * returned with the last of them.
 */
export class TextStream {
	/** The last tokens of the text, including those of an incomplete character. */
	#ids: number[];
	/** The part of their text that was returned. */
	#given: string;

	/** @param before The tokens before the first one. */
	constructor(readonly tokenizer: TextTokenizer, before: readonly number[] = []) {
		this.#ids = before.slice(-CONTEXT);
		this.#given = tokenizer.decode(this.#ids);
	}

	/** The text that a token adds: empty, or more than its own where it completes a character. */
	push(id: number): string {
		this.#ids.push(id);
		const text = this.tokenizer.decode(this.#ids);
		let length = text.length;
		while (length > 0 && text[length - 1] === INCOMPLETE) length--;
		if (text.length - length >= MOST_INCOMPLETE) length = text.length;
		if (length <= this.#given.length) return "";
		const added = text.slice(this.#given.length, length);
		this.#given = text.slice(0, length);
		if (length === text.length && this.#ids.length >= 4 * CONTEXT) {
			this.#ids = this.#ids.slice(-CONTEXT);
			this.#given = this.tokenizer.decode(this.#ids);
		}
		return added;
	}

	/** The remaining text after the last token: a character that stayed incomplete. */
	end(): string {
		const text = this.tokenizer.decode(this.#ids);
		const rest = text.slice(this.#given.length);
		this.#given = text;
		return rest;
	}
}
