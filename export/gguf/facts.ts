import { UserError } from "../../base/errors.ts";
import type { Architecture } from "../../models/architectures/architecture.ts";
import type { Op } from "../../models/ops/mod.ts";
import type { AttentionOp } from "../../models/ops/attention.ts";
import type { NormOp } from "../../models/ops/norm.ts";
import type { Rotary } from "../../models/rotary.ts";

type OpOf<Name extends Op["op"]> = Extract<Op, { op: Name }>;

/** What llama.cpp needs to know of a model, gathered from the operations of its layers. */
export interface ModelFacts {
	architecture: Architecture;
	/** The attention of each layer. */
	attentions: readonly AttentionOp[];
	heads: number;
	keyValueHeads: number;
	headDim: number;
	/** The width inside the feed-forward layers, and their activation function. */
	inner: number;
	activation: OpOf<"activation">;
	norm: NormOp;
	/** The rotary positions of layers that attend to all tokens, or of all layers. */
	rotary: Rotary;
	/** Those of layers with a sliding window, if they differ. */
	slidingRotary?: Rotary;
	/** The sliding window of each layer, in tokens; undefined where a layer attends to all tokens. */
	windows: readonly (number | undefined)[];
	/** Factor of what is added to the residual stream. */
	residualFactor?: number;
	/** Whether attention and feed-forward layers both read the layer's input. */
	isParallel: boolean;
}

/** @throws {UserError} If layers differ in what a GGUF file states once. */
export function factsOf(architecture: Architecture): ModelFacts {
	const layers = Array.from({ length: architecture.layers }, (_, i) => architecture.steps(i));
	const attentions = layers.map((ops) => only(ops, "attention"));
	const [first] = layers;
	const [{ heads, keyValueHeads, headDim }] = attentions;
	const activation = only(first, "activation");
	const rotaries = attentions.map(({ rotary }) => rotary);
	const windows = attentions.map(({ slidingWindow }) => slidingWindow);
	const of = (slides: boolean) => rotaries.filter((_, i) => (windows[i] !== undefined) === slides);
	const known = (list: (Rotary | undefined)[]) => list.find((rotary) => rotary !== undefined);
	const rotary = known(of(false)) ?? known(of(true));
	if (!rotary) {
		throw new UserError(`Cannot export a model without rotary positions to gguf`);
	}
	const sliding = known(of(true));
	const odd = attentions.find((op) =>
		op.heads !== heads || op.keyValueHeads !== keyValueHeads || op.headDim !== headDim
	);
	if (odd) throw new UserError("Cannot export layers with different heads to gguf");
	const sums = first.filter((op) => op.op === "add");
	return {
		architecture,
		attentions,
		heads,
		keyValueHeads,
		headDim,
		inner: activation.width,
		activation,
		norm: first.find((op) => op.op === "norm")!,
		rotary,
		...(sliding && sliding !== rotary && { slidingRotary: sliding }),
		windows,
		residualFactor: sums[0]?.factor,
		isParallel: isParallel(first),
	};
}

function only<Name extends Op["op"]>(ops: readonly Op[], name: Name): OpOf<Name> {
	const found = ops.filter((op): op is OpOf<Name> => op.op === name);
	if (found.length !== 1) {
		throw new UserError(
			`Cannot export a decoder layer with ${found.length} operations "${name}" to gguf`,
		);
	}
	return found[0];
}

/** Whether no norm comes between attention and the first feed-forward layer. */
function isParallel(ops: readonly Op[]): boolean {
	const attention = ops.findIndex(({ op }) => op === "attention");
	const activation = ops.findIndex(({ op }) => op === "activation");
	return !ops.slice(attention, activation).some(({ op }) => op === "norm");
}
