import { UserError } from "../base/errors.ts";
import { kindOf } from "./json_rows.ts";

/**
 * A row of a question data set; values are checked on access.
 *
 * @internal
 */
export class QuestionRow {
	readonly #values: Record<string, unknown>;

	/**
	 * @param path Path of the file, for messages.
	 * @param number Row number, from 1.
	 */
	constructor(values: Record<string, unknown>, readonly path: string, readonly number: number) {
		this.#values = values;
	}

	has(column: string): boolean {
		return Object.hasOwn(this.#values, column);
	}

	/** A string. @throws {UserError} If the column is absent or not a string. */
	text(column: string): string {
		return this.#string(this.#value(column), `"${column}"`);
	}

	/** A list of strings. @throws {UserError} If it is absent, empty or of another type. */
	texts(column: string): string[] {
		return this.#strings(this.#value(column), `"${column}"`);
	}

	/** A non-negative integer, which may be stored as a string or a boolean. */
	index(column: string): number {
		const value = this.#value(column);
		const number = typeof value === "string" && /^\d+$/.test(value) ? Number(value) : value;
		if (typeof number === "bigint" || typeof number === "number" || typeof number === "boolean") {
			const index = Number(number);
			if (Number.isSafeInteger(index) && index >= 0) return index;
		}
		throw this.refuse(`"${column}" is ${shown(value)}, not the number of a choice`);
	}

	/** The labels and texts of a column. */
	labelled(column: string): { labels: string[]; texts: string[] } {
		const value = this.#value(column);
		if (typeof value !== "object" || value === null || Array.isArray(value)) {
			throw this.refuse(`"${column}" is ${kindOf(value)}, not a map with "text" and "label"`);
		}
		const { text, label } = value as Record<string, unknown>;
		const texts = this.#strings(text, `"text" of "${column}"`);
		const labels = this.#strings(label, `"label" of "${column}"`);
		if (texts.length === labels.length) return { labels, texts };
		throw this.refuse(`"${column}" has ${texts.length} texts and ${labels.length} labels`);
	}

	/** An error with the place of the row. */
	refuse(problem: string): UserError {
		return new UserError(`Cannot read "${this.path}": row ${this.number}: ${problem}`);
	}

	#value(column: string): unknown {
		if (this.has(column)) return this.#values[column];
		const found = Object.keys(this.#values).join(", ") || "none";
		throw this.refuse(`there is no column "${column}" (columns: ${found})`);
	}

	#string(value: unknown, what: string): string {
		if (typeof value === "string") return value;
		const found = value instanceof Uint8Array ? "not UTF-8" : `${kindOf(value)}, not a string`;
		throw this.refuse(`${what} is ${found}`);
	}

	#strings(value: unknown, what: string): string[] {
		if (!Array.isArray(value) || value.length === 0) {
			const found = Array.isArray(value) ? "an empty list" : kindOf(value);
			throw this.refuse(`${what} is ${found}, not a list of strings`);
		}
		return value.map((text, i) => this.#string(text, `entry ${i + 1} of ${what}`));
	}
}

function shown(value: unknown): string {
	return typeof value === "string" ? `"${value}"` : kindOf(value);
}
