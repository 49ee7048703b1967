import { UserError } from "../pipeline/errors.ts";
import { bytesText } from "../pipeline/units.ts";
import { foreignFile, type Line, readLines } from "./lines.ts";
import { MAX_LENGTH } from "./texts.ts";

/**
 * The values of a column of a JSON Lines file, plain or gzip.
 *
 * @param column The member of each line's object.
 * @throws {UserError} If the file cannot be read, or a line is not an object with such a string.
 */
export async function* jsonRows(path: string, column: string): AsyncGenerator<string> {
  for await (const line of readLines(path)) yield textOfLine(path, line, column);
}

/**
 * The value of a column in a line of a JSON Lines file.
 *
 * @throws {UserError} If the line is not an object with such a string.
 */
export function textOfLine(path: string, { bytes, number }: Line, column: string): string {
  const refuse = (problem: string): never => {
    throw new UserError(`Cannot read "${path}": ${problem}`);
  };
  if (bytes.length > MAX_LENGTH) {
    refuse(`line ${number} has ${bytesText(bytes.length)}, more than ${bytesText(MAX_LENGTH)}`);
  }
  let json = "";
  try {
    json = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    refuse(`line ${number} is not UTF-8`);
  }
  let row: unknown;
  try {
    row = JSON.parse(json);
  } catch {
    const foreign = number === 1 ? foreignFile(path) : undefined;
    refuse(foreign ?? `line ${number} is not JSON; each line must be a JSON object`);
  }
  if (typeof row !== "object" || row === null || Array.isArray(row)) {
    return refuse(`line ${number} is ${kindOf(row)}, not a JSON object`);
  }
  if (!Object.hasOwn(row, column)) {
    const found = Object.keys(row).join(", ") || "none";
    refuse(`line ${number} has no column "${column}" (columns: ${found})`);
  }
  const text: unknown = (row as Record<string, unknown>)[column];
  if (typeof text !== "string") {
    return refuse(`column "${column}" of line ${number} is ${kindOf(text)}, not a string`);
  }
  return text;
}

/** What a value that should have been a string is, in words. */
export function kindOf(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  return typeof value === "object" && value !== null ? "an object" : String(value);
}
