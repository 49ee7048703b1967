/**
 * A scanner for texts that end a generated one. What might be the start of a stop text is held back until
 * it is clear, so that no part of one is ever passed on.
 */
export class StopTexts {
	/** Text that may be the start of a stop text. */
	#held = "";
	#found = false;

	/** @param stops Well-formed and not empty. */
	constructor(readonly stops: readonly string[]) {}

	/** Whether a stop text has occurred. */
	get found(): boolean {
		return this.#found;
	}

	/**
	 * Adds a piece of the text.
	 *
	 * @returns What can be passed on: up to the first stop text, if there is one.
	 */
	push(piece: string): string {
		if (this.#found) return "";
		const text = this.#held + piece;
		const places = this.stops.map((stop) => text.indexOf(stop)).filter((place) => place >= 0);
		if (places.length > 0) {
			this.#found = true;
			this.#held = "";
			return text.slice(0, Math.min(...places));
		}
		const clear = text.length - Math.max(0, ...this.stops.map((stop) => overlap(text, stop)));
		this.#held = text.slice(clear);
		return text.slice(0, clear);
	}

	/** What was held back, when the text ends. */
	end(): string {
		const rest = this.#held;
		this.#held = "";
		return rest;
	}
}

/** Length of the longest end of a text that a stop text begins with. */
function overlap(text: string, stop: string): number {
	for (let length = Math.min(text.length, stop.length - 1); length > 0; length--) {
		if (text.endsWith(stop.slice(0, length))) return length;
	}
	return 0;
}
