import type { Architecture } from "./architectures/architecture.ts";
import type { TensorPart } from "../storage/safetensors.ts";
import { groupsOf, kindOf } from "./ops/mod.ts";
import type { LinearGroup } from "./ops/op.ts";

/** The place of a tensor, or of a part of it, in a plain model. */
export interface Place {
	name: string;
	/** The shape of the whole tensor. */
	shape: readonly number[];
	part?: TensorPart;
	/** Added to what is stored; nothing if absent. */
	offset?: number;
}

/** The place of a linear layer's weight or bias: a tensor of its own, or rows of a fused one. */
export function placeOf(
	prefix: string,
	{ linears, cols, fused, stack }: LinearGroup,
	linear: number,
	what: "weight" | "bias",
): Place {
	const { module, rows } = linears[linear];
	const rest = what === "weight" ? [cols] : [];
	if (!fused) return { name: `${prefix}${module}.${what}`, shape: [rows, ...rest] };
	const starts = [0];
	for (const { rows } of linears) starts.push(starts.at(-1)! + rows);
	const shape = [starts.at(-1)!, ...rest];
	const part = { first: starts[linear], rows };
	const name = `${prefix}${fused}.${what}`;
	if (!stack) return { name, shape, part };
	const { matrix, of, columns } = stack;
	if (!columns) return { name, shape: [of, ...shape], part: { ...part, matrix } };
	return {
		name: `${prefix}${fused}${what === "bias" ? "_bias" : ""}`,
		shape: [of, ...shape.toReversed()],
		part: { matrix, first: linear, rows, step: linears.length, transposed: what === "weight" },
	};
}

/**
 * The tensors of a decoder layer of a plain model, in the order of execution. The weight of a linear
 * layer comes with the layer's name, under which it may be packed.
 */
export function* layerPlaces(
	{ steps, names }: Architecture,
	layer: number,
): Generator<Place & { linear?: string }> {
	const prefix = names.layer(layer);
	for (const op of steps(layer)) {
		for (const { name, ...tensor } of kindOf(op).tensors?.(op) ?? []) {
			yield { name: prefix + name, ...tensor };
		}
		for (const group of groupsOf(op)) {
			for (const [i, { module }] of group.linears.entries()) {
				yield { ...placeOf(prefix, group, i, "weight"), linear: prefix + module };
				if (group.bias) yield placeOf(prefix, group, i, "bias");
			}
		}
	}
}

/** The tensors of a plain model outside its decoder layers. */
export interface OutsidePlaces {
	embedding: Place;
	/** Absent if the head is tied to the embedding. */
	head?: Place;
	projectIn?: Place;
	projectOut?: Place;
	positions?: Place;
	finalNorm: readonly Place[];
}

/** The tensors of an architecture outside its decoder layers. */
export function outsidePlaces(architecture: Architecture): OutsidePlaces {
	const { names, vocabularySize, embeddingSize, hiddenSize, maxLength, finalNorm } = architecture;
	const { head, projectIn, projectOut, positions } = names;
	const place = (name: string, ...shape: number[]): Place => ({ name: `${name}.weight`, shape });
	return {
		embedding: place(names.embedding, vocabularySize, embeddingSize),
		head: head ? place(head, vocabularySize, embeddingSize) : undefined,
		projectIn: projectIn ? place(projectIn, hiddenSize, embeddingSize) : undefined,
		projectOut: projectOut ? place(projectOut, embeddingSize, hiddenSize) : undefined,
		positions: positions && place(positions.name, maxLength + positions.offset, hiddenSize),
		finalNorm: finalNorm ? kindOf(finalNorm).tensors!(finalNorm) : [],
	};
}
