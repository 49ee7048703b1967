import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { TooNested } from "../storage/json_nesting.ts";
import { parsePythonJson } from "../storage/json.ts";
import { foreignFile, type Line, MOST_LINE_BYTES, readLines } from "./lines.ts";

/**
 * The values of a column of a JSON Lines file, plain or gzip.
 *
 * @param column Key in the object of each line.
 * @throws {UserError} If the file cannot be read, or a line is not an object with such a string.
 */
export async function* jsonRows(path: string, column: string): AsyncGenerator<string> {
	for await (const line of readLines(path)) yield textOfLine(path, line, column);
}

/**
 * The objects of a JSON Lines file, plain or gzip.
 *
 * @throws {UserError} If the file cannot be read, or a line is not an object.
 */
export async function* jsonObjects(path: string): AsyncGenerator<Record<string, unknown>> {
	for await (const line of readLines(path)) yield objectOfLine(path, line);
}

/**
 * The value of a column in a line of a JSON Lines file.
 *
 * @throws {UserError} If the line is not an object with such a string.
 */
export function textOfLine(path: string, line: Line, column: string): string {
	const row = objectOfLine(path, line);
	const { number } = line;
	if (!Object.hasOwn(row, column)) {
		const found = Object.keys(row).join(", ") || "none";
		throw unreadable(path, `line ${number} has no column "${column}" (columns: ${found})`);
	}
	const text = row[column];
	if (typeof text !== "string") {
		const problem = `column "${column}" of line ${number} is ${kindOf(text)}, not a string`;
		throw unreadable(path, problem);
	}
	return text;
}

function objectOfLine(path: string, { bytes, number }: Line): Record<string, unknown> {
	if (bytes.length > MOST_LINE_BYTES) {
		const [found, most] = [bytesText(bytes.length), bytesText(MOST_LINE_BYTES)];
		throw unreadable(path, `line ${number} has ${found}, more than ${most}`);
	}
	let json = "";
	try {
		json = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
	} catch {
		throw unreadable(path, `line ${number} is not UTF-8`);
	}
	let row: unknown;
	try {
		row = parsePythonJson(json);
	} catch (error) {
		if (error instanceof TooNested) throw unreadable(path, `line ${number}: ${error.message}`);
		const foreign = number === 1 ? foreignFile(path) : undefined;
		const problem = `line ${number} is not JSON; each line must be a JSON object`;
		throw unreadable(path, foreign ?? problem);
	}
	if (typeof row !== "object" || row === null || Array.isArray(row)) {
		throw unreadable(path, `line ${number} is ${kindOf(row)}, not a JSON object`);
	}
	return row as Record<string, unknown>;
}

function unreadable(path: string, problem: string): UserError {
	return new UserError(`Cannot read "${path}": ${problem}`);
}

/** A description of a value that is not a string. */
export function kindOf(value: unknown): string {
	if (Array.isArray(value)) return "a list";
	return typeof value === "object" && value !== null ? "an object" : String(value);
}
