import type { Rotary, RotaryScaling } from "../rotary.ts";
import type { Fields } from "./fields.ts";

/** What a family's rotary positions are where config.json does not say it. */
export interface RotaryDefaults {
	/** 10000 if absent. */
	theta?: number;
	/** The share of a head that is rotated, from its first entry on; 1 if absent. */
	share?: number;
	/** Whether neighbours rotate together. */
	interleaved?: true;
}

/**
 * Reads rotary positions from `rope_parameters` or, in the older form, `rope_theta`, `rope_scaling` and
 * `partial_rotary_factor`.
 *
 * @param kind The kind of layers, in config.json with parameters for each kind.
 */
export function readRotary(
	fields: Fields,
	headDim: number,
	{ theta = 10000, share: defaultShare = 1, interleaved }: RotaryDefaults = {},
	kind?: "full_attention" | "sliding_attention",
): Rotary {
	const rotary: Rotary = { headDim, theta: readTheta(fields, theta) };
	let shares = fields;
	let share = fields.number("partial_rotary_factor", defaultShare);
	let readScalingOf: Fields | undefined;
	for (const key of ["rope_scaling", "rope_parameters"]) {
		const value = fields.json[key];
		if (value == null) continue;
		if (typeof value !== "object" || Array.isArray(value)) fields.fail(key, "an object");
		let inner = fields.within(key);
		if (kind && inner.json[kind] != null) inner = inner.within(kind);
		rotary.theta = readTheta(inner, rotary.theta);
		if (inner.json.partial_rotary_factor != null) {
			share = inner.number("partial_rotary_factor");
			shares = inner;
		}
		readScalingOf = typeOf(inner) === "default" ? readScalingOf : inner;
	}
	const dims = Math.floor(headDim * share);
	if (share > 1 || dims < 2 || dims % 2) {
		shares.fail(
			"partial_rotary_factor",
			`such that an even part of each head, ${headDim}, rotates`,
		);
	}
	if (dims < headDim) rotary.dims = dims;
	if (interleaved) rotary.interleaved = true;
	if (readScalingOf) rotary.scaling = readScaling(fields, readScalingOf, dims);
	return rotary;
}

/** The base of the frequencies, none of which may exceed 1. */
function readTheta(fields: Fields, fallback: number): number {
	const theta = fields.number("rope_theta", fallback);
	if (theta < 1) fields.fail("rope_theta", "at least 1");
	return theta;
}

function typeOf({ json }: Fields): unknown {
	return json.rope_type ?? json.type ?? "default";
}

/** @param dims The entries of a head that are rotated. */
function readScaling(fields: Fields, inner: Fields, dims: number): RotaryScaling {
	const longest = fields.integer("max_position_embeddings", 2048);
	const top = "original_max_position_embeddings";
	const originalLength = () =>
		fields.json[top] == null ? inner.integer(top, longest) : fields.integer(top);
	const type = typeOf(inner);
	switch (type) {
		case "linear":
			return { type, factor: inner.number("factor") };
		case "llama3":
			return {
				type,
				factor: inner.number("factor"),
				...readTurns(inner, "low_freq_factor", "high_freq_factor"),
				originalLength: inner.integer("original_max_position_embeddings", longest),
			};
		case "yarn": {
			const factor = inner.number("factor");
			const turns = readTurns(inner, "beta_slow", "beta_fast", 1, 32);
			const magnitude = (scale = 1) => factor > 1 ? 0.1 * scale * Math.log(factor) + 1 : 1;
			const [one, all] = ["mscale", "mscale_all_dim"].map((key) => inner.optional(key));
			const own = one && all ? magnitude(one) / magnitude(all) : magnitude();
			return {
				type,
				factor,
				...turns,
				originalLength: originalLength(),
				truncate: inner.boolean("truncate", true),
				magnitude: inner.number("attention_factor", own),
			};
		}
		case "dynamic": {
			if (dims < 4) inner.fail("rope_type", `other than dynamic for ${dims} rotated entries`);
			return { type, factor: inner.number("factor"), originalLength: longest };
		}
		case "longrope":
		case "su": {
			const original = originalLength();
			const factor = inner.number("factor", longest / original);
			const own = factor > 1 ? Math.sqrt(1 + Math.log(factor) / Math.log(original)) : 1;
			return {
				type: "longrope",
				short: inner.numbers("short_factor", dims / 2),
				long: inner.numbers("long_factor", dims / 2),
				originalLength: original,
				magnitude: inner.number("attention_factor", own),
			};
		}
		default:
			return fields.fail(inner.prefix.slice(fields.prefix.length, -1), TYPES);
	}
}

const TYPES = "of the type default, linear, llama3, yarn, dynamic or longrope";

function readTurns(
	inner: Fields,
	low: string,
	high: string,
	defaultLow?: number,
	defaultHigh?: number,
): { lowTurns: number; highTurns: number } {
	const [lowTurns, highTurns] = [inner.number(low, defaultLow), inner.number(high, defaultHigh)];
	if (lowTurns >= highTurns) inner.fail(high, `above ${low}, ${lowTurns}`);
	return { lowTurns, highTurns };
}

/**
 * The longest text that rotary positions allow for.
 *
 * @param length `max_position_embeddings`: the length before scaling or, where the scaling states the
 *   original length, possibly after it.
 */
export function scaledLength({ scaling }: Rotary, length: number): number {
	switch (scaling?.type) {
		case "linear":
		case "dynamic":
			return Math.floor(length * scaling.factor);
		case "yarn":
			return Math.max(length, Math.floor(scaling.originalLength * scaling.factor));
		default:
			return length;
	}
}
