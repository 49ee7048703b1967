import { UserError } from "../base/errors.ts";
import { readText, type SourceFile } from "./folder.ts";
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
    value = JSON.parse(text);
  } catch {
    refuse(foreignContent(text) ?? "it is not JSON; download it again");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    refuse("it does not hold a JSON object");
  }
  return value as Record<string, unknown>;
}
