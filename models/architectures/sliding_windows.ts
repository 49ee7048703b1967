import type { Fields } from "./fields.ts";

/** The window that config.json states, in tokens, 4096 if nothing; null is none. */
export function readSlidingWindow(fields: Fields): number | undefined {
  return fields.json.sliding_window === null ? undefined : fields.integer("sliding_window", 4096);
}

/**
 * The windows of a Qwen model, which states layer by layer where attention slides or, in the older
 * form, from which layer on.
 */
export function readQwenWindows(fields: Fields, layers: number): (number | undefined)[] {
  const window = fields.boolean("use_sliding_window", false)
    ? readSlidingWindow(fields)
    : undefined;
  const types = fields.json.layer_types;
  if (types == null) {
    const first = fields.count("max_window_layers", 28);
    return Array.from({ length: layers }, (_, layer) => layer >= first ? window : undefined);
  }
  const known = ["full_attention", "sliding_attention"];
  if (
    !Array.isArray(types) || types.length !== layers || types.some((type) => !known.includes(type))
  ) {
    fields.fail("layer_types", `${layers} times one of ${known.join(", ")}`);
  }
  return types.map((type) => type === "sliding_attention" ? window : undefined);
}
