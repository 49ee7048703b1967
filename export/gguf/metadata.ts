import { UserError } from "../../base/errors.ts";
import { type Rotary, rotaryFrequencies, rotaryPairs } from "../../models/rotary.ts";
import { type GgufArchitecture, isClose } from "./architectures.ts";
import type { ModelFacts } from "./facts.ts";
import type { MetadataValue } from "./writer.ts";

/** Metadata of a model's shape, and vectors that scale rotary frequencies, by the names of tensors. */
export interface ShapeMetadata {
	/** By the key behind the architecture's name; undefined values are left out. */
	values: Record<string, MetadataValue | undefined>;
	vectors: Record<string, Float32Array>;
	notes: string[];
}

const u32 = (value: number): MetadataValue => ({ type: "u32", value });
const f32 = (value: number): MetadataValue => ({ type: "f32", value });
const text = (value: string): MetadataValue => ({ type: "text", value });

/**
 * The metadata of a model's shape.
 *
 * @throws {UserError} If llama.cpp computes the model in another way.
 */
export function shapeMetadata(facts: ModelFacts, target: GgufArchitecture): ShapeMetadata {
	const { architecture, heads, keyValueHeads, headDim, norm, rotary } = facts;
	checkFacts(facts, target);
	const notes: string[] = [];
	const note = target.note?.(facts);
	if (note !== undefined) notes.push(note);
	let length = architecture.maxLength;
	const limit = (tokens: number, why: string) => {
		if (tokens >= length) return;
		length = tokens;
		notes.push(`the context is limited to ${tokens} tokens, as ${why}`);
	};
	const windows = windowMetadata(facts, target, limit);
	const scaling = scalingMetadata(facts, target, limit, notes);
	const epsilon = norm.kind === "rms" ? "layer_norm_rms_epsilon" : "layer_norm_epsilon";
	return {
		values: {
			"block_count": u32(architecture.layers),
			"context_length": u32(length),
			"embedding_length": u32(architecture.hiddenSize),
			"feed_forward_length": u32(facts.inner),
			"attention.head_count": u32(heads),
			"attention.head_count_kv": u32(keyValueHeads),
			"attention.key_length": u32(headDim),
			"attention.value_length": u32(headDim),
			[`attention.${epsilon}`]: f32(norm.epsilon),
			"vocab_size": u32(architecture.vocabularySize),
			"rope.dimension_count": u32(2 * rotaryPairs(rotary)),
			"rope.freq_base": f32(rotary.theta),
			...windows,
			...scaling.values,
			...target.metadata?.(facts),
		},
		vectors: scaling.vectors,
		notes,
	};
}

/** @throws {UserError} If llama.cpp computes the model in another way. */
function checkFacts(facts: ModelFacts, target: GgufArchitecture): void {
	const { architecture, heads, headDim, attentions: [{ scale }], activation } = facts;
	const { hiddenSize, names, embeddingFactor, logitFactor, logitCap, modelType } = architecture;
	const has = target.metadata?.(facts) ?? {};
	const problems = [
		target.problem?.(facts),
		target.isSquare && heads * headDim !== hiddenSize
			? `${heads} heads of ${headDim} have to be as wide as the hidden states, ${hiddenSize}`
			: undefined,
		(target.activations ?? ["silu", "swish"]).includes(activation.name)
			? undefined
			: `the activation is ${(target.activations ?? ["silu"])[0]}, not ${activation.name}`,
		target.head === "tied" && names.head ? "the head is always the embedding" : undefined,
		embeddingFactor !== undefined && embeddingFactor !== 1 && !has["embedding_scale"] &&
			!target.name.startsWith("gemma")
			? "embeddings have no factor"
			: undefined,
		logitFactor !== undefined && logitFactor !== 1 && !has["logit_scale"]
			? "logits have no factor"
			: undefined,
		logitCap !== undefined && !has["final_logit_softcapping"] ? "logits are not capped" : undefined,
		scale !== undefined && !has["attention.scale"] && !target.name.startsWith("gemma") &&
			!isClose(scale, 1 / Math.sqrt(headDim))
			? `scores are divided by √${headDim}`
			: undefined,
		(facts.residualFactor ?? 1) !== 1 && !has["residual_scale"]
			? "the residual stream has no factor"
			: undefined,
	].filter((problem) => problem !== undefined);
	if (problems.length > 0) {
		throw new UserError(
			`Cannot export this ${modelType} model to gguf: in llama.cpp's architecture ` +
				`"${target.name}", ${problems.join(", and ")}`,
		);
	}
}

type Limit = (tokens: number, why: string) => void;

function windowMetadata(
	{ windows, architecture: { modelType } }: ModelFacts,
	{ name, windowPeriod }: GgufArchitecture,
	limit: Limit,
): Record<string, MetadataValue | undefined> {
	const sizes = windows.filter((window) => window !== undefined);
	if (windowPeriod === undefined) {
		if (sizes.length > 0) {
			limit(
				Math.min(...sizes),
				`llama.cpp's architecture "${name}" has no sliding window, which shorter texts do not need`,
			);
		}
		return {};
	}
	if (sizes.length === 0 && name === "olmo2") return {};
	const period = periodOf(windows);
	if (period === undefined || new Set(sizes).size > 1) {
		throw new UserError(
			`Cannot export this ${modelType} model to gguf: llama.cpp's architecture "${name}" has ` +
				`one sliding window for all layers but every N-th`,
		);
	}
	return {
		"attention.sliding_window": u32(sizes[0] ?? 2 ** 31 - 1),
		"attention.sliding_window_pattern": period === windowPeriod ? undefined : u32(period),
	};
}

/** The number N if all layers but every N-th have a window; undefined if that is not so. */
function periodOf(windows: readonly (number | undefined)[]): number | undefined {
	const first = windows.findIndex((window) => window === undefined);
	const period = first < 0 ? windows.length + 1 : first + 1;
	const isRegular = windows.every((window, i) =>
		(window === undefined) === ((i + 1) % period === 0)
	);
	return isRegular ? period : undefined;
}

/** The scaling of rotary frequencies. */
function scalingMetadata(
	{ rotary, slidingRotary, architecture: { modelType } }: ModelFacts,
	{ name, factors = [] }: GgufArchitecture,
	limit: Limit,
	notes: string[],
): Pick<ShapeMetadata, "values" | "vectors"> {
	const refuse = (what: string): never => {
		throw new UserError(
			`Cannot export this ${modelType} model to gguf: llama.cpp's architecture "${name}" has no ` +
				what,
		);
	};
	const { scaling } = rotary;
	const values: ShapeMetadata["values"] = {};
	const vectors: ShapeMetadata["vectors"] = {};
	if (slidingRotary) {
		if (slidingRotary.scaling && name !== "gemma2") {
			refuse("scaled positions of layers with a window");
		}
		values["rope.freq_base_swa"] = f32(slidingRotary.theta);
	}
	switch (scaling?.type) {
		case undefined:
			break;
		case "linear":
			Object.assign(values, {
				"rope.scaling.type": text("linear"),
				"rope.scaling.factor": f32(scaling.factor),
			});
			break;
		case "yarn": {
			const { factor, originalLength, magnitude, lowTurns, highTurns, truncate } = scaling;
			if (!truncate) refuse("YaRN whose ramp begins between frequencies (truncate: false)");
			if (lowTurns !== 1 || highTurns !== 32) {
				refuse(
					`YaRN with other turns than beta_slow 1 and beta_fast 32, found ${lowTurns} and ${highTurns}`,
				);
			}
			const usual = 0.1 * Math.log(factor) + 1;
			Object.assign(values, {
				"rope.scaling.type": text("yarn"),
				"rope.scaling.factor": f32(factor),
				"rope.scaling.original_context_length": u32(originalLength),
				"rope.scaling.attn_factor": isClose(magnitude, usual) ? undefined : f32(magnitude / usual),
			});
			break;
		}
		case "llama3":
			if (!factors.includes("llama3")) refuse("scaling of the type llama3");
			vectors["rope_freqs.weight"] = frequencyDivisors(rotary);
			break;
		case "longrope":
			if (!factors.includes("longrope")) refuse("LongRoPE");
			Object.assign(values, {
				"rope.scaling.type": text("longrope"),
				"rope.scaling.original_context_length": u32(scaling.originalLength),
				"rope.scaling.attn_factor": f32(scaling.magnitude),
			});
			notes.push(
				`with a context of more than ${scaling.originalLength} tokens, llama.cpp positions all ` +
					`texts as long ones; give it a shorter context (-c) for short texts`,
			);
			vectors["rope_factors_short.weight"] = Float32Array.from(scaling.short);
			vectors["rope_factors_long.weight"] = Float32Array.from(scaling.long);
			break;
		case "dynamic":
			limit(
				scaling.originalLength,
				"llama.cpp has no dynamic NTK, which shorter texts do not need",
			);
	}
	return { values, vectors };
}

/** What llama.cpp divides each frequency by, f32 `[pairs]`. */
function frequencyDivisors(rotary: Rotary): Float32Array {
	const { scaling: _, ...plain } = rotary;
	const scaled = rotaryFrequencies(rotary, 1);
	return rotaryFrequencies(plain, 1).map((frequency, i) => frequency / scaled[i]);
}
