import { UserError } from "../base/errors.ts";
import { kindOf } from "./json_rows.ts";

/** A row of a data set of questions; each value is checked when it is asked for. */
export class QuestionRow {
  readonly #values: Record<string, unknown>;

  /**
   * @param path Of the file, for messages.
   * @param number From 1.
   */
  constructor(values: Record<string, unknown>, readonly path: string, readonly number: number) {
    this.#values = values;
  }

  has(column: string): boolean {
    return Object.hasOwn(this.#values, column);
  }

  /** @throws {UserError} If there is no such string. */
  text(column: string): string {
    return this.#string(this.#value(column), `"${column}"`);
  }

  /** @throws {UserError} If there is no such list of strings, or it is empty. */
  texts(column: string): string[] {
    return this.#strings(this.#value(column), `"${column}"`);
  }

  /** A whole number from 0 on, also if it is written as a string, or a truth value. */
  index(column: string): number {
    const value = this.#value(column);
    const number = typeof value === "string" && /^\d+$/.test(value) ? Number(value) : value;
    if (typeof number === "bigint" || typeof number === "number" || typeof number === "boolean") {
      const index = Number(number);
      if (Number.isSafeInteger(index) && index >= 0) return index;
    }
    throw this.refuse(`"${column}" is ${shown(value)}, not the number of a choice`);
  }

  /** The lists of a column of labels and texts. */
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

  /** An error that says where it is. */
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
