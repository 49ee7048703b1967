import type { Op } from "../ops/mod.ts";
import type { NormOp } from "../ops/norm.ts";
import type { Fields } from "./fields.ts";

/** The architecture of a model, as read from its config.json. */
export interface Architecture {
	/** `model_type` of config.json. */
	modelType: string;
	/** Tokens in the vocabulary. */
	vocabularySize: number;
	/** Width of the residual stream. */
	hiddenSize: number;
	/** Width of the embedding and of the head's input; `hiddenSize` if the model has no projections. */
	embeddingSize: number;
	/** Number of decoder layers. */
	layers: number;
	/** The longest window that the model supports, in tokens. */
	maxLength: number;
	/** Factor of the embedding; 1 if absent. */
	embeddingFactor?: number;
	/** Factor of the logits; 1 if absent. */
	logitFactor?: number;
	/** Bounds logits softly, cap · tanh(logit / cap); unbounded if absent. */
	logitCap?: number;
	/** The operations of a decoder layer; layers are counted from 0. */
	steps(layer: number): readonly Op[];
	/** The norm after the last layer; its module is named as in the checkpoint. */
	finalNorm?: NormOp;
	/** Names in the checkpoint, without ".weight" and ".bias". */
	names: {
		/** The name prefix of the modules of layer i. */
		layer(i: number): string;
		embedding: string;
		/** The head's module; absent if the head is tied to the embedding. */
		head?: string;
		/** The module of learned positions, and the row of position 0. */
		positions?: { name: string; offset: number };
		projectIn?: string;
		projectOut?: string;
	};
}

/** A family of architectures: the models with one `model_type`. */
export interface ArchitectureFamily {
	/** The models of the family by their usual names, for lists of what is supported. */
	models?: string;
	/** What sets it apart from LLaMA, in a few words. */
	features?: string;
	/**
	 * Reads the architecture from a config.json.
	 *
	 * @returns The architecture without its model type.
	 * @throws {UserError} If a field is missing, invalid or not supported.
	 */
	read(fields: Fields): Omit<Architecture, "modelType">;
}
