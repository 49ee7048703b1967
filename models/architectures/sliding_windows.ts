import type { Fields } from "./fields.ts";

/**
 * The sliding window in config.json, in tokens; 4096 if the field is absent, undefined if it is null.
 */
export function readSlidingWindow(fields: Fields): number | undefined {
  return fields.json.sliding_window === null ? undefined : fields.integer("sliding_window", 4096);
}

/**
 * The sliding window of each layer of a Qwen model. config.json lists the layers with sliding-window
 * attention or, in the older form, the first of them.
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
