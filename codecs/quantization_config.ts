import { UserError } from "../base/errors.ts";
import { versionProblem } from "../storage/packed_metadata.ts";

/** `quantization_config` in the config.json of a packed model. */
export interface QuantizationConfig {
  quant_method: "billm";
  /** The stage that quantized the linear layers, such as "gptq"; absent for BiLLM's own method. */
  method?: string;
  format_version: number;
  /** Columns that share scales. */
  block_size: number;
  /** Columns of each linear layer by module: the bits are padded to whole words. */
  columns: Record<string, number>;
}

/**
 * @returns Undefined for a model that is not quantized.
 * @throws {UserError} If it was quantized by another method or a later version of this one, or a
 *   field is missing or wrong.
 */
export function readQuantizationConfig(
  config: Record<string, unknown>,
  file: string,
): QuantizationConfig | undefined {
  const found = config.quantization_config as QuantizationConfig | undefined;
  if (found == null) return undefined;
  const refuse = (field: string, wanted: string, value: unknown): never => {
    throw new UserError(
      `"${file}": quantization_config${field} must be ${wanted}, found ` +
        (value === undefined ? "nothing" : JSON.stringify(value)),
    );
  };
  if (!isObject(found)) refuse("", "an object", found);
  if (found.quant_method !== "billm") {
    throw new UserError(
      `"${file}": the model is quantized with ${JSON.stringify(found.quant_method)}, ` +
        `which cannot be read; use the original model`,
    );
  }
  if (!isCount(found.format_version)) {
    refuse(".format_version", "a whole number", found.format_version);
  }
  const problem = versionProblem(found.format_version);
  if (problem) throw new UserError(`"${file}": ${problem}`);
  const { method, block_size: blockSize, columns } = found;
  if (method !== undefined && typeof method !== "string") {
    refuse(".method", "the name of a method", method);
  }
  if (!isCount(blockSize) || blockSize % 32) {
    refuse(".block_size", "a multiple of 32", blockSize);
  }
  if (!isObject(columns) || !Object.values(columns).every(isCount)) {
    refuse(".columns", "a whole number for each linear layer", columns);
  }
  return found;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}

/** Columns of a packed linear layer; undefined if config.json does not say. */
export function columnsOf({ columns }: QuantizationConfig, name: string): number | undefined {
  const module = Object.keys(columns).find((known) => name.endsWith(`.${known}`));
  return module === undefined ? undefined : columns[module];
}
