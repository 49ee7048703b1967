import type { Rotary, RotaryScaling } from "../rotary.ts";
import type { Fields } from "./fields.ts";

/**
 * Reads rotary positions from `rope_parameters` or, in the older form, `rope_theta` and
 * `rope_scaling`.
 */
export function readRotary(fields: Fields, headDim: number): Rotary {
  const rotary: Rotary = { headDim, theta: readTheta(fields, 10000) };
  for (const key of ["rope_scaling", "rope_parameters"]) {
    const value = fields.json[key];
    if (value == null) continue;
    if (typeof value !== "object" || Array.isArray(value)) fields.fail(key, "an object");
    const inner = fields.within(key);
    rotary.theta = readTheta(inner, rotary.theta);
    const scaling = readScaling(fields, inner);
    if (scaling) rotary.scaling = scaling;
  }
  return rotary;
}

/** The base of the frequencies, none of which may exceed 1. */
function readTheta(fields: Fields, fallback: number): number {
  const theta = fields.number("rope_theta", fallback);
  if (theta < 1) fields.fail("rope_theta", "at least 1");
  return theta;
}

function readScaling(fields: Fields, inner: Fields): RotaryScaling | undefined {
  switch (inner.json.rope_type ?? inner.json.type ?? "default") {
    case "default":
      return undefined;
    case "linear":
      return { type: "linear", factor: inner.number("factor") };
    case "llama3": {
      const longest = fields.integer("max_position_embeddings", 2048);
      const [lowTurns, highTurns] = ["low_freq_factor", "high_freq_factor"]
        .map((key) => inner.number(key));
      if (lowTurns >= highTurns) {
        inner.fail("high_freq_factor", `above low_freq_factor, ${lowTurns}`);
      }
      return {
        type: "llama3",
        factor: inner.number("factor"),
        lowTurns,
        highTurns,
        originalLength: inner.integer("original_max_position_embeddings", longest),
      };
    }
    default:
      return fields.fail(inner.prefix.slice(0, -1), "of the type default, linear or llama3");
  }
}
