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
  const refuse = (problem: string): never => {
    throw new UserError(`Cannot read "${source.path}": ${problem}`);
  };
  const text = readText(source);
  let value: unknown;
  try {
    value = parsePythonJson(text);
  } catch (error) {
    if (error instanceof TooNested) refuse(error.message);
    refuse(foreignContent(text) ?? "it is not JSON; download it again");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    refuse("it does not hold a JSON object");
  }
  return value as Record<string, unknown>;
}

/**
 * Parses JSON as Python writes it: a byte order mark is left out, and NaN, Infinity and -Infinity, which JSON
 * does not have, become texts, so that whoever needs a number there refuses them by name.
 *
 * @throws {TooNested} If it is nested too deep.
 * @throws {SyntaxError} If it is not JSON apart from that.
 */
export function parsePythonJson(text: string): unknown {
  const plain = text.replace(/^\ufeff/, "");
  checkNesting(plain);
  try {
    return JSON.parse(plain);
  } catch (error) {
    if (!/NaN|Infinity/.test(plain)) throw error;
    // Long strings take no memory for steps back in this form.
    const tokens = /"[^"\\]*(?:\\.[^"\\]*)*"|-?Infinity\b|\bNaN\b/g;
    return JSON.parse(plain.replace(tokens, (token) => token[0] === '"' ? token : `"${token}"`));
  }
}
