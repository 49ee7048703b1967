/** What a template may use while it is read and rendered. */
export const LIMITS = {
	/** Steps: nodes that are evaluated, items that are visited, and each 8 to 64 characters of a text. */
	steps: 10_000_000,
	/** Characters of a text, the output included. */
	characters: 100_000_000,
	/** Items of a list. */
	items: 1_000_000,
	/** Items of `range()`, as in Jinja's sandbox. */
	range: 100_000,
	/** Calls of macros and recursive loops, one within the other. */
	depth: 200,
	/** Decimal digits of an integer, as in Python. */
	digits: 4300,
};

/** An error of a template: in its syntax, in its values, or a limit. */
export class TemplateError extends Error {
	override name = "TemplateError";

	/** @param line The line in the template; 0 if it does not matter, undefined if not yet known. */
	constructor(message: string, public line?: number) {
		super(message);
	}

	/** The message with the line. */
	get text(): string {
		return this.line ? `line ${this.line}: ${this.message}` : this.message;
	}
}

/** What is left of the limits during one rendering. Its methods throw a {@link TemplateError}. */
export class Budget {
	#steps = LIMITS.steps;
	#depth = 0;

	/** Counts work. */
	step(count = 1): void {
		this.#steps -= count;
		if (this.#steps < 0) refuse("takes more than", LIMITS.steps, "steps");
	}

	/** Counts a text of this length before it is made or read. @returns The length. */
	characters(length: number): number {
		if (!(length <= LIMITS.characters)) refuse("makes more than", LIMITS.characters, "characters");
		this.step(length / 64);
		return length;
	}

	/** Counts a text whose characters are treated one by one, which takes longer. */
	each(length: number): void {
		this.step(length / 8);
	}

	/** Counts a list of this length before it is made or read. @returns The length. */
	items(length: number): number {
		if (!(length <= LIMITS.items)) refuse("makes a list of more than", LIMITS.items, "items");
		this.step(length);
		return length;
	}

	/** The items as a list, counted while it grows. */
	collect<Item>(items: Iterable<Item>): Item[] {
		const list: Item[] = [];
		for (const item of items) {
			if (list.push(item) % 1024 !== 0) continue;
			this.step(1024);
			if (list.length > LIMITS.items) this.items(list.length);
		}
		return list;
	}

	/** Checks an integer. @returns It. */
	integer(value: bigint): bigint {
		if (value > GREATEST || value < -GREATEST) {
			refuse("makes an integer of more than", LIMITS.digits, "digits");
		}
		return value;
	}

	/** Runs a call that can contain itself. */
	nested<Result>(call: () => Result): Result {
		if (++this.#depth > LIMITS.depth) refuse("calls itself more than", LIMITS.depth, "times deep");
		try {
			return call();
		} finally {
			this.#depth--;
		}
	}
}

const GREATEST = 10n ** BigInt(LIMITS.digits);

function refuse(does: string, limit: number, unit: string): never {
	throw new TemplateError(`the template ${does} ${limit.toLocaleString("en")} ${unit}`);
}

/**
 * Runs a function that recurses as deep as a template is nested.
 *
 * @throws {TemplateError} If that is deeper than the stack.
 */
export function withinStack<Result>(run: () => Result): Result {
	try {
		return run();
	} catch (error) {
		if (error instanceof RangeError && /call stack/.test(error.message)) {
			throw new TemplateError("the template, or a value in it, is nested too deeply");
		}
		throw error;
	}
}
