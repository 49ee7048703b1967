import type { Architecture, ArchitectureFamily } from "./architecture.ts";
import { Fields } from "./fields.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import { opt } from "./opt.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3 } from "./qwen3.ts";

/**
 * The families that {@link readArchitecture} knows, by their `model_type`. A new one is a file beside
 * this one and a line here; a program may add its own before it opens a model:
 * `ARCHITECTURES.mine = { read: ... }`.
 */
export const ARCHITECTURES: Record<string, ArchitectureFamily> = {
  llama,
  mistral,
  opt,
  qwen2,
  qwen3,
};

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
  if (typeof modelType !== "string" || !Object.hasOwn(ARCHITECTURES, modelType)) {
    const known = Object.keys(ARCHITECTURES).sort().join(", ");
    return fields.fail("model_type", `a supported one (${known})`);
  }
  return { modelType, ...ARCHITECTURES[modelType].read(fields) };
}
