import { UserError } from "../base/errors.ts";
import { isRecord } from "../base/record.ts";
import { versionProblem } from "../storage/packed_metadata.ts";

/** The `quantization_config` object in the config.json of a packed model. */
export interface QuantizationConfig {
  quant_method: "billm";
  /** The stage that quantized the linear layers, such as "gptq"; absent for BiLLM's own method. */
  method?: string;
  format_version: number;
  /** Columns that share scales. */
  block_size: number;
  /**
   * Columns of each linear layer by module, or by full name where decoder layers differ. Needed because
   * the stored bits are padded to whole words.
   */
  columns: Record<string, number>;
  /**
   * Fused modules, whose weights are one tensor in the plain model ("self_attn.qkv_proj"), each with the
   * linear layers that its rows hold, in order. Absent if there are none.
   */
  fused?: Record<string, string[]>;
}

/**
 * Reads `quantization_config`.
 *
 * @returns Undefined for a model that is not quantized.
 * @throws {UserError} If the model was quantized by another method or a later version of this one, or
 *   if a field is missing or invalid.
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
  if (!isRecord(found)) refuse("", "an object", found);
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
  const { method, block_size: blockSize, columns, fused } = found;
  if (method !== undefined && typeof method !== "string") {
    refuse(".method", "the name of a method", method);
  }
  if (!isCount(blockSize) || blockSize % 32) {
    refuse(".block_size", "a multiple of 32", blockSize);
  }
  if (!isRecord(columns) || !Object.values(columns).every(isCount)) {
    refuse(".columns", "a whole number for each linear layer", columns);
  }
  const isNames = (value: unknown) =>
    Array.isArray(value) && value.length > 0 && value.every((name) => typeof name === "string");
  if (fused !== undefined && !(isRecord(fused) && Object.values(fused).every(isNames))) {
    refuse(".fused", "a list of linear layers for each fused module", fused);
  }
  return found;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}

/** Columns of a packed linear layer; undefined if config.json does not state them. */
export function columnsOf(
  { columns }: Pick<QuantizationConfig, "columns">,
  name: string,
): number | undefined {
  const module = Object.hasOwn(columns, name)
    ? name
    : Object.keys(columns).find((known) => name.endsWith(`.${known}`));
  return module === undefined ? undefined : columns[module];
}

/**
 * The fused module of the plain model that contains a packed linear layer, and all linear layers that
 * its rows hold, in order; the linear layer itself if it is not fused.
 */
export function fusedOf(
  { fused = {} }: Pick<QuantizationConfig, "fused">,
  name: string,
): { name: string; linears: string[] } {
  for (const [module, linears] of Object.entries(fused)) {
    const own = linears.find((linear) => name.endsWith(`.${linear}`));
    if (!own) continue;
    const prefix = name.slice(0, -own.length);
    return { name: prefix + module, linears: linears.map((linear) => prefix + linear) };
  }
  return { name, linears: [name] };
}
