import type { Fields } from "./fields.ts";

/** The sliding window of each layer, in tokens; undefined where a layer attends to all tokens. */
export type SlidingWindows = (number | undefined)[];

/**
 * The sliding window in config.json, in tokens; undefined if the field is null.
 *
 * @param fallback The window if the field is absent.
 */
export function readSlidingWindow(
	fields: Fields,
	fallback: number | undefined = 4096,
): number | undefined {
	const { sliding_window: window } = fields.json;
	if (window === null || window === undefined && fallback === undefined) return undefined;
	return fields.integer("sliding_window", fallback);
}

/** Which layers slide, by `layer_types`; undefined if config.json does not list them. */
function readLayerTypes(fields: Fields, layers: number): boolean[] | undefined {
	const types = fields.json.layer_types;
	if (types == null) return undefined;
	const known = ["full_attention", "sliding_attention"];
	if (
		!Array.isArray(types) || types.length !== layers || types.some((type) => !known.includes(type))
	) {
		fields.fail("layer_types", `${layers} times one of ${known.join(", ")}`);
	}
	return types.map((type) => type === "sliding_attention");
}

/**
 * The sliding window of each layer.
 *
 * @param slides Whether a layer has the window if config.json does not list `layer_types`.
 * @param fallback The window if config.json does not state it.
 */
export function readLayerWindows(
	fields: Fields,
	layers: number,
	slides: (layer: number) => boolean,
	fallback?: number,
): SlidingWindows {
	const window = readSlidingWindow(fields, fallback);
	const types = readLayerTypes(fields, layers) ??
		Array.from({ length: layers }, (_, layer) => slides(layer));
	return types.map((slides) => slides ? window : undefined);
}

/**
 * The sliding window of each layer if `use_sliding_window` is set.
 *
 * @param slides As for {@link readLayerWindows}.
 */
export function readOptionalWindows(
	fields: Fields,
	layers: number,
	slides: (layer: number) => boolean,
	fallback?: number,
): SlidingWindows {
	const windows = readLayerWindows(fields, layers, slides, fallback);
	return fields.boolean("use_sliding_window", false) ? windows : windows.map(() => undefined);
}

/**
 * The sliding window of each layer where every `pattern`-th layer attends to all tokens.
 *
 * @param pattern If config.json does not state it.
 */
export function readPatternWindows(
	fields: Fields,
	layers: number,
	pattern: number,
): SlidingWindows {
	const every = fields.integer(
		"sliding_window_pattern",
		fields.integer("_sliding_window_pattern", pattern),
	);
	return readLayerWindows(fields, layers, (layer) => (layer + 1) % every !== 0, 4096);
}

/**
 * The sliding window of each layer of a Qwen model. config.json lists the layers with sliding-window
 * attention or, in the older form, the first of them.
 */
export function readQwenWindows(fields: Fields, layers: number): SlidingWindows {
	const first = fields.count("max_window_layers", 28);
	return readOptionalWindows(fields, layers, (layer) => layer >= first, 4096);
}
