import type { Architecture, ArchitectureFamily } from "./architecture.ts";
import { Fields } from "./fields.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import { opt } from "./opt.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3 } from "./qwen3.ts";

const table: Record<string, ArchitectureFamily> = {
  llama,
  mistral,
  opt,
  qwen2,
  qwen3,
};

/**
 * The families that {@link readArchitecture} knows, by their `model_type`. A new one is a file beside
 * this one and a line in the table.
 */
export const ARCHITECTURES: Readonly<Record<string, ArchitectureFamily>> = table;

/**
 * Adds a family of a program's own: its models can be quantized, packed, evaluated and continued.
 *
 * @returns Takes it out of the table again when it is disposed of.
 * @throws {Error} If the model type is known already.
 */
export function addArchitecture(modelType: string, family: ArchitectureFamily): Disposable {
  if (Object.hasOwn(table, modelType)) throw new Error(`There is a "${modelType}" already`);
  table[modelType] = family;
  return { [Symbol.dispose]: () => void delete table[modelType] };
}

/**
 * Reads what a config.json describes; both its present form (`rope_parameters`) and the older one
 * (`rope_theta`, `rope_scaling`).
 *
 * @param file For messages.
 * @throws {UserError} If the model type is unknown or a field is missing, wrong or not supported.
 */
export function readArchitecture(config: Record<string, unknown>, file: string): Architecture {
  const fields = new Fields(config, file);
  const modelType = config.model_type;
  if (typeof modelType !== "string" || !Object.hasOwn(table, modelType)) {
    const known = Object.keys(table).sort().join(", ");
    return fields.fail("model_type", `a supported one (${known})`);
  }
  return { modelType, ...table[modelType].read(fields) };
}
