import type { Tensor } from "../tensor.ts";
import type { ActivationName } from "./elementwise/activation.ts";

/** A function of the input vector that a kernel computes in its prologue (fused). */
export type VectorSource =
	/** The RMS norm of the vector. */
	| { op: "rms"; weight: Tensor; epsilon: number }
	/**
	 * An activation function of the vector; with `up`, the activation of its first half times its second
	 * half, which begins at element `up`.
	 */
	| { op: "activation"; name: ActivationName; up?: number };

/** The prologue of a kernel that multiplies with a vector: the function of its input that it computes. */
export type VectorInput =
	/** The input itself. */
	| "plain"
	/** The RMS norm of the input. */
	| "rms"
	/** An activation function of the input. */
	| "activation"
	/** An activation function of the input's first half, times its second half. */
	| "gated";

/** The prologue that computes a source. */
export function vectorInput(source?: VectorSource): VectorInput {
	if (!source) return "plain";
	if (source.op === "rms") return "rms";
	return source.up === undefined ? "activation" : "gated";
}
