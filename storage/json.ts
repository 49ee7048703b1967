import { UserError } from "../base/errors.ts";
import { readText, type SourceFile } from "./folder.ts";
import { checkNesting, TooNested } from "./json_nesting.ts";
import { foreignContent } from "./safetensors.ts";

/**
 * Reads a JSON object from a file of a model.
 *
 * @throws {UserError} If the file cannot be read or does not hold a JSON object.
 */
export function readJson(source: SourceFile): Record<string, unknown> {
	return readObject(source);
}

/**
 * Reads a JSON object to write it again: `JSON.stringify` spells its numbers as the file does. Programs in
 * Python tell the float 30.0 from the integer 30.
 *
 * @throws {UserError} As {@link readJson} does.
 */
export function readJsonToWrite(source: SourceFile): Record<string, unknown> {
	return readObject(source, asSpelled);
}

function readObject(source: SourceFile, revive?: Reviver): Record<string, unknown> {
	const refuse = (problem: string): never => {
		throw new UserError(`Cannot read "${source.path}": ${problem}`);
	};
	const text = readText(source);
	let value: unknown;
	try {
		value = parsePythonJson(text, revive);
	} catch (error) {
		if (error instanceof TooNested) refuse(error.message);
		refuse(foreignContent(text) ?? "it is not JSON; download it again");
	}
	if (typeof value !== "object" || value === null || Array.isArray(value)) {
		refuse("it does not hold a JSON object");
	}
	return value as Record<string, unknown>;
}

/** A function of `JSON.parse` that also gets the spelling of a value. */
type Reviver = (key: string, value: unknown, context?: { source?: string }) => unknown;

/** A number that `JSON.stringify` writes with the spelling of its source. */
const asSpelled: Reviver = (_key, value, context) => {
	const { rawJSON } = JSON as unknown as { rawJSON(text: string): unknown };
	return typeof value === "number" ? rawJSON(context!.source!) : value;
};

/**
 * Parses JSON as Python writes it: a byte order mark is left out, and NaN, Infinity and -Infinity, which JSON
 * does not have, become texts, so that whoever needs a number there refuses them by name.
 *
 * @throws {TooNested} If it is nested too deep.
 * @throws {SyntaxError} If it is not JSON apart from that.
 */
export function parsePythonJson(text: string, revive?: Reviver): unknown {
	const plain = text.replace(/^\ufeff/, "");
	checkNesting(plain);
	try {
		return JSON.parse(plain, revive);
	} catch (error) {
		if (!/NaN|Infinity/.test(plain)) throw error;
		// Long strings take no memory for steps back in this form.
		const tokens = /"[^"\\]*(?:\\.[^"\\]*)*"|-?Infinity\b|\bNaN\b/g;
		return JSON.parse(
			plain.replace(tokens, (token) => token[0] === '"' ? token : `"${token}"`),
			revive,
		);
	}
}
