import type { ContinuedToken } from "../models/generation/generation.ts";
import type { Logprobs } from "../models/generation/logprobs.ts";
import { StopTexts } from "../models/generation/stop_texts.ts";
import { TextStream } from "../models/tokenizers/text_stream.ts";
import type { TextTokenizer } from "../models/tokenizers/tokenizer.ts";

/** A token with its log-probabilities. */
export interface TokenPiece {
	id: number;
	logprobs: Logprobs;
	/** UTF-16 units of the text before the token. */
	start: number;
}

/** A piece of a generated text, which may be empty. */
export interface Piece {
	text: string;
	/** The tokens that end in the piece, if their log-probabilities are asked for. */
	tokens: TokenPiece[];
}

/** Makes a text of tokens, up to a stop text, and gives tokens together with their text. */
export class TextPieces {
	readonly #stream: TextStream;
	readonly #stops: StopTexts;
	/** UTF-16 units of the text so far, with what is held back, and without. */
	#decoded = 0;
	#given = 0;
	/** Tokens whose text is held back, each with where it ends. */
	readonly #waiting: { piece: TokenPiece; end: number }[] = [];

	/** @param before Tokens before the text that its first token depends on. */
	constructor(tokenizer: TextTokenizer, before: readonly number[], stops: readonly string[]) {
		this.#stream = new TextStream(tokenizer, before);
		this.#stops = new StopTexts(stops);
	}

	/** Whether a stop text has ended the text. */
	get isStopped(): boolean {
		return this.#stops.found;
	}

	push({ id, reason, logprobs }: ContinuedToken): Piece {
		const start = this.#decoded;
		const isEnd = reason === "stop-token";
		const added = (isEnd ? "" : this.#stream.push(id)) + (reason ? this.#stream.end() : "");
		this.#decoded += added.length;
		let text = this.#stops.push(added);
		if (reason) text += this.#stops.end();
		this.#given += text.length;
		if (logprobs && !isEnd) {
			this.#waiting.push({ piece: { id, logprobs, start }, end: this.#decoded });
		}
		const isGiven = ({ piece, end }: { piece: TokenPiece; end: number }) =>
			this.isStopped ? piece.start < this.#given : end <= this.#given;
		const held = this.#waiting.findIndex((token) => !isGiven(token));
		const count = held < 0 ? this.#waiting.length : held;
		return { text, tokens: this.#waiting.splice(0, count).map(({ piece }) => piece) };
	}
}
