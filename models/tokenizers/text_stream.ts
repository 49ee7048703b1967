import type { TextTokenizer } from "./tokenizer.ts";

/** A character that is not whole yet: its last bytes are in the next token. */
const INCOMPLETE = "\ufffd";
/** A character has at most four bytes, so what is incomplete for longer stays so. */
const MOST_INCOMPLETE = 4;
/** Tokens before the next one that its text may depend on, such as the one that a space stands before. */
const CONTEXT = 6;

/**
 * Gives the text of tokens as they come. What it gave stays: characters of several tokens come when
 * the last of them is there.
 */
export class TextStream {
  /** The last tokens of the text; those that are incomplete among them. */
  #ids: number[];
  /** The part of their text that was given. */
  #given: string;

  /** @param before The tokens that stand before those to come. */
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

  /** What is left when no more tokens come: a character that stayed incomplete. */
  end(): string {
    const text = this.tokenizer.decode(this.#ids);
    const rest = text.slice(this.#given.length);
    this.#given = text;
    return rest;
  }
}
