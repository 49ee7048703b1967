import { UserError } from "../../base/errors.ts";
import { joined } from "../../base/figures.ts";
import { kindOf, type Op } from "../../models/ops/mod.ts";
import type { NormOp } from "../../models/ops/norm.ts";
import type { LinearGroup } from "../../models/ops/op.ts";
import { outsidePlaces, placeOf } from "../../models/places.ts";
import type { ExportSource, Matrix } from "../source.ts";
import { type GgufArchitecture, MODULE_NAMES, NORM_NAMES } from "./architectures.ts";

/** Rows of a matrix, in the order of the file. */
export interface Piece {
	matrix: Matrix;
	/** The row of the matrix at each place; in their own order if absent. */
	rowAt?(place: number): number;
}

/** A tensor of the file: a matrix of pieces that follow one another, or a vector in f32. */
export type PlannedTensor =
	| { name: string; pieces: readonly Piece[] }
	| { name: string; shape: readonly number[]; values(): Float32Array };

/** The tensors of a model under llama.cpp's names, in the order of the file. */
export function* plannedTensors(
	source: ExportSource,
	target: GgufArchitecture,
): Generator<PlannedTensor> {
	const { architecture } = source.model;
	const { embedding, head, finalNorm } = outsidePlaces(architecture);
	const matrix = (place: typeof embedding) => [{ matrix: source.matrix(place) }];
	yield { name: "token_embd.weight", pieces: matrix(embedding) };
	for (let layer = 0; layer < architecture.layers; layer++) {
		yield* layerTensors(source, target, layer);
	}
	for (const place of finalNorm) {
		const name = `output_norm.${suffix(place.name)}`;
		yield { name, shape: place.shape, values: () => source.vector(place) };
	}
	if (head) yield { name: "output.weight", pieces: matrix(head) };
	else if (target.head === "needed") yield { name: "output.weight", pieces: matrix(embedding) };
}

function suffix(name: string): string {
	return name.slice(name.lastIndexOf(".") + 1);
}

function* layerTensors(
	source: ExportSource,
	target: GgufArchitecture,
	layer: number,
): Generator<PlannedTensor> {
	const { architecture } = source.model;
	const prefix = architecture.names.layer(layer);
	const ops = architecture.steps(layer);
	for (const op of ops) {
		if (op.op === "norm") yield* normTensors(source, target, prefix, layer, op);
		const group = kindOf(op).group?.(op);
		if (!group) continue;
		const joined = target.joined?.find(({ modules }) =>
			modules.every((module, i) => group.linears[i]?.module === module)
		);
		const parts = joined
			? [{ name: joined.name, linears: group.linears.map((_, i) => i) }]
			: group.linears.map(({ module }, i) => ({ name: moduleName(module), linears: [i] }));
		for (const { name, linears } of parts) {
			const full = `blk.${layer}.${name}`;
			const pieces = linears.map((i) => pieceOf(source, target, ops, prefix, group, i));
			yield { name: `${full}.weight`, pieces };
			if (group.bias) yield biasOf(source, prefix, group, linears, pieces, full);
		}
	}
}

function* normTensors(
	source: ExportSource,
	{ norms, name: family }: GgufArchitecture,
	prefix: string,
	layer: number,
	op: NormOp,
): Generator<PlannedTensor> {
	const name = norms?.[op.module] ?? NORM_NAMES[op.module];
	if (!name) unknown(op.module, family);
	const tensors = kindOf(op).tensors!(op).map((tensor) => ({
		...tensor,
		name: prefix + tensor.name,
	}));
	const { heads = 1, width, perHead } = op;
	const shape = perHead ? [heads, width] : [width];
	for (const part of ["weight", "bias"]) {
		const places = tensors.filter((tensor) => suffix(tensor.name) === part);
		if (places.length === 0) continue;
		const values = () => joined(places.map((place) => source.vector(place)));
		yield { name: `blk.${layer}.${name}.${part}`, shape, values };
	}
}

function unknown(module: string, family: string): never {
	throw new UserError(
		`Cannot export "${module}" to gguf: llama.cpp's architecture "${family}" has no such module`,
	);
}

function moduleName(module: string): string {
	return MODULE_NAMES[module] ?? unknown(module, "of this kind");
}

/** A linear layer with the order of its rows in the file. */
function pieceOf(
	source: ExportSource,
	target: GgufArchitecture,
	ops: readonly Op[],
	prefix: string,
	group: LinearGroup,
	i: number,
): Piece {
	const { module, to } = group.linears[i];
	const place = { ...placeOf(prefix, group, i, "weight"), linear: prefix + module };
	const rowAt = rowOrder(target, ops, to);
	return { matrix: source.matrix(place), ...(rowAt && { rowAt }) };
}

/**
 * The order of the rows that make a register. Where neighbouring entries of a head rotate together, entry i
 * of the first half comes before entry i of the second one. Queries, keys and values that are mixed head by
 * head come one after the other.
 */
function rowOrder(
	{ rotatesNeighbours }: GgufArchitecture,
	ops: readonly Op[],
	register: string,
): Piece["rowAt"] {
	const split = ops.find((op) => op.op === "split" && op.from === register);
	if (split?.op === "split") {
		const { heads, width, to } = split;
		return (place) => {
			const [part, rest] = [Math.floor(place / (heads * width)), place % (heads * width)];
			return (Math.floor(rest / width) * to.length + part) * width + rest % width;
		};
	}
	const attention = ops.find((op) => op.op === "attention");
	if (!rotatesNeighbours || attention?.op !== "attention") return undefined;
	if (register !== attention.query && register !== attention.key) return undefined;
	const { headDim } = attention;
	return (place) => {
		const entry = place % headDim;
		return place - entry + (entry & 1) * headDim / 2 + (entry >> 1);
	};
}

/** The biases of linear layers that are one tensor in the file. */
function biasOf(
	source: ExportSource,
	prefix: string,
	group: LinearGroup,
	linears: readonly number[],
	pieces: readonly Piece[],
	full: string,
): PlannedTensor {
	const places = linears.map((i) => placeOf(prefix, group, i, "bias"));
	const values = () =>
		joined(places.map((place, i) => {
			const own = source.vector(place);
			const { rowAt } = pieces[i];
			return rowAt ? own.map((_, at) => own[rowAt(at)]) : own;
		}));
	const rows = pieces.reduce((sum, { matrix }) => sum + matrix.rows, 0);
	return { name: `${full}.bias`, shape: [rows], values };
}
