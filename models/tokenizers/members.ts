/**
 * The members of an object of `tokenizer.json`. Each has to be read or ignored by name; {@link end} refuses
 * the rest, so that none is passed over in silence.
 */
export class Members {
	readonly #json: Record<string, unknown>;
	readonly #known = new Set(["type"]);

	/**
	 * @param path The object's place in messages: "pre_tokenizer.pretokenizers[0]".
	 * @throws {Error} If the value is no object.
	 */
	constructor(readonly path: string, value: unknown) {
		if (typeof value !== "object" || value === null || Array.isArray(value)) {
			throw new Error(`"${path}" is ${textOf(value)}, not an object`);
		}
		this.#json = value as Record<string, unknown>;
	}

	/** The kind of the component. */
	get type(): string {
		return this.text("type");
	}

	has(name: string): boolean {
		return Object.hasOwn(this.#json, name) && this.#json[name] !== null;
	}

	/** A member of any kind; null counts as absent. */
	value(name: string): unknown {
		this.#known.add(name);
		return Object.hasOwn(this.#json, name) ? this.#json[name] ?? undefined : undefined;
	}

	/** @param fallback The value if it is absent; without one it is needed. */
	text(name: string, fallback?: string): string {
		return this.#typed(name, "string", "a text", fallback);
	}

	flag(name: string, fallback?: boolean): boolean {
		return this.#typed(name, "boolean", "true or false", fallback);
	}

	/** A whole number of at least 0. */
	count(name: string, fallback?: number): number {
		const value = this.#typed(name, "number", "a whole number", fallback);
		if (!Number.isSafeInteger(value) || value < 0) this.refuse(name, value, "a whole number");
		return value;
	}

	choice<Choice extends string>(
		name: string,
		choices: readonly Choice[],
		fallback?: Choice,
	): Choice {
		const value = this.text(name, fallback) as Choice;
		if (!choices.includes(value)) this.refuse(name, value, `one of ${choices.join(", ")}`);
		return value;
	}

	list(name: string): unknown[] {
		const value = this.value(name);
		if (!Array.isArray(value)) this.refuse(name, value, "a list");
		return value as unknown[];
	}

	/** The members of an inner object. */
	object(name: string): Members {
		return new Members(`${this.path}.${name}`, this.value(name) ?? null);
	}

	/** Declares members that have no effect on ids and texts. */
	ignore(...names: string[]): void {
		for (const name of names) this.#known.add(name);
	}

	/** @throws {Error} If there is a member that nobody has read. */
	end(): void {
		const unknown = Object.keys(this.#json).find((name) =>
			!this.#known.has(name) && this.#json[name] !== null
		);
		if (unknown === undefined) return;
		throw new Error(
			`"${this.path}" has "${unknown}": ${textOf(this.#json[unknown])}, which is not supported`,
		);
	}

	/** @throws {Error} Always. */
	refuse(name: string, found: unknown, expected: string): never {
		throw new Error(`"${this.path}.${name}" is ${textOf(found)}, not ${expected}`);
	}

	#typed<Value>(name: string, type: string, expected: string, fallback?: Value): Value {
		const value = this.value(name) ?? fallback;
		const kind: string = typeof value;
		if (kind !== type) this.refuse(name, value, expected);
		return value as Value;
	}
}

/** A value in a message, cut to a length that can be read. */
function textOf(value: unknown): string {
	const text = value === undefined ? "missing" : JSON.stringify(value);
	return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}
