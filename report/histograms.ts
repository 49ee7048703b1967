import { z } from "zod";
import type { WeightKind } from "../codecs/codec.ts";
import { dequantizedLinear, loadLinear } from "../codecs/mod.ts";
import { type Rotation, transformOnHost } from "../gpu/kernels/rotation/rotation.ts";
import type { ModelFiles } from "../models/model_files.ts";
import { roleOf } from "../models/ops/experts.ts";
import { PlainWeights } from "../models/plain_weights.ts";
import type { LayerRecord } from "../pipeline/run/events.ts";
import { rowOfPart } from "../storage/safetensors.ts";
import { Checkpoint } from "../storage/checkpoint.ts";
import { joined, sum } from "../base/figures.ts";
import { denoFolder } from "../storage/deno_folder.ts";

/** The distribution of the weights of a linear layer before and after quantization. */
export interface Histogram {
	/** "model.layers.0.self_attn.q_proj" */
	name: string;
	layer: number;
	rows: number;
	cols: number;
	/** Number of counted weights: for a large layer those of evenly spaced rows. */
	weights: number;
	/** The bins cover -limit to limit; weights outside count in the outermost bins. */
	limit: number;
	/** Counts of original weights by class and bin. */
	groups: Partial<Record<WeightKind, number[]>>;
	/** Counts of stored values by bin. */
	stored: number[];
	/** |w| that best separates the low zone from the high zone. */
	split?: number;
	/** Whether all weights are those that multiply the rotated input. */
	rotated?: true;
	/** RMS of the weights and of the quantization error. */
	rms: number;
	errorRms: number;
}

/** Classes of weights in the order of their colours. */
export const WEIGHT_KINDS: readonly WeightKind[] = ["low", "high", "salient", "all"];

const BINS = 80;

const counts = z.array(z.int().min(0)).min(1).max(1000);
const magnitude = z.number().min(0).max(1e40);

/** The form of histograms.json, which may have been damaged. */
export const histogramsForm = z.looseObject({
	histograms: z.array(
		z.looseObject({
			name: z.string(),
			layer: z.int().min(0),
			rows: z.int().min(1),
			cols: z.int().min(1),
			weights: z.int().min(1),
			limit: magnitude.min(1e-46),
			groups: z.partialRecord(z.enum(["low", "high", "salient", "all"]), counts),
			stored: counts,
			split: magnitude.optional(),
			rotated: z.boolean().optional(),
			rms: magnitude.nullable(),
			errorRms: magnitude.nullable(),
		}).refine(
			({ groups, stored }) => Object.values(groups).every(({ length }) => length === stored.length),
			"must have as many bins of each class as of stored values",
		),
	).max(100_000),
});
/** Approximate number of counted weights per linear layer. */
const SAMPLE = 1 << 18;
/** One in this many weights may be outside the bins. */
const BEYOND = 1000;

/** Indices of the first, the middle and the last decoder layer. */
export function chosenLayers(layers: number): number[] {
	return [...new Set([0, layers >> 1, layers - 1])].filter((layer) => layer >= 0 && layer < layers);
}

/**
 * Histograms of all quantized linear layers in some decoder layers.
 *
 * @param original The original model, whose files may have to be fetched, or its folder.
 * @param packedFolder Folder of the packed model.
 * @param chosen Indices of decoder layers, from 0.
 * @param pause Called periodically; may throw to abort.
 * @throws {UserError} If a model cannot be read, or the models do not match.
 */
export async function countWeights(
	original: ModelFiles | string,
	packedFolder: string,
	layers: readonly LayerRecord[],
	chosen: readonly number[],
	pause: () => Promise<void> = async () => {},
): Promise<Histogram[]> {
	using opened = typeof original === "string" ? Checkpoint.open(denoFolder(original)) : undefined;
	const model = typeof original === "string" ? undefined : original;
	const checkpoint = opened ?? model!.checkpoint;
	using packed = PlainWeights.open(denoFolder(packedFolder));
	const histograms: Histogram[] = [];
	for (const { layer, linears } of layers.filter(({ layer }) => chosen.includes(layer))) {
		await model?.fetchLayer(layer, true);
		for (const { name, rows, cols, dense } of linears) {
			if (dense) continue; // nothing has changed
			if (roleOf(name) !== name && !name.includes("experts.0.")) continue; // one stands for all
			const sample = sampledRows(rows, cols);
			const place = packed.placeOf(name);
			const before = joined(
				sample.map((row) => checkpoint.readFloat32(place.name, rowOfPart(place.part, row))),
			);
			const { after, groups, rotation } = storedRows(packed, name, sample);
			if (rotation) transformOnHost(before, cols, { rotation });
			histograms.push({
				...{ name, layer, rows, cols, ...histogramOf(before, after, groups) },
				...(rotation && { rotated: true }),
			});
			await pause();
		}
	}
	return histograms;
}

/** Indices of the sampled rows. */
function sampledRows(rows: number, cols: number): number[] {
	const count = Math.min(rows, Math.max(1, Math.ceil(SAMPLE / cols)));
	return Array.from({ length: count }, (_, i) => Math.floor((i + 0.5) * rows / count));
}

/**
 * Stored values of some rows, and the class of each weight as an index into WEIGHT_KINDS. Those of a
 * rotated linear layer are rotated, because that is what its codec divides into classes.
 */
function storedRows(
	packed: PlainWeights,
	name: string,
	rows: readonly number[],
): { after: Float32Array; groups: Uint8Array; rotation?: Rotation } {
	const { checkpoint, quantization } = packed;
	const linear = quantization && loadLinear(checkpoint, quantization, name);
	let rowOf: (row: number) => Float32Array;
	if (linear) {
		const { codec, host, transform } = linear;
		const unrotated = transform && { ...transform, rotation: undefined };
		rowOf = (row) => dequantizedLinear({ codec, host, transform: unrotated }, row, 1);
	} else {
		const { name: tensor, part } = packed.placeOf(name);
		rowOf = (row) => checkpoint.readFloat32(tensor, rowOfPart(part, row));
	}
	const after = joined(rows.map(rowOf));
	const kinds = linear?.codec.kinds && rows.flatMap((row) => linear.codec.kinds!(linear.host, row));
	const groups = kinds
		? Uint8Array.from(kinds, (kind) => WEIGHT_KINDS.indexOf(kind))
		: new Uint8Array(after.length).fill(WEIGHT_KINDS.indexOf("all"));
	return { after, groups, rotation: linear?.transform?.rotation };
}

/**
 * The histogram of some weights.
 *
 * @param groups Class of each weight, an index into WEIGHT_KINDS.
 */
export function histogramOf(
	before: Float32Array,
	after: Float32Array,
	groups: Uint8Array,
): Omit<Histogram, "name" | "layer" | "rows" | "cols"> {
	const limit = limitOf(before);
	const bin = (value: number) =>
		Math.max(0, Math.min(BINS - 1, Math.floor((value / limit + 1) / 2 * BINS)));
	const counts = WEIGHT_KINDS.map(() => new Array<number>(BINS).fill(0));
	const stored = new Array<number>(BINS).fill(0);
	let squares = 0;
	let errors = 0;
	for (let i = 0; i < before.length; i++) {
		counts[groups[i]][bin(before[i])]++;
		stored[bin(after[i])]++;
		squares += before[i] ** 2;
		errors += (after[i] - before[i]) ** 2;
	}
	const used = WEIGHT_KINDS.map((name, i) => [name, counts[i]] as const)
		.filter(([, bins]) => bins.some((count) => count > 0));
	const split = splitOf(counts[0], counts[1], limit);
	return {
		weights: before.length,
		limit,
		groups: Object.fromEntries(used),
		stored,
		...(split !== undefined && { split }),
		rms: Math.sqrt(squares / before.length),
		errorRms: Math.sqrt(errors / before.length),
	};
}

/** The magnitude that nearly all weights are within. */
function limitOf(weights: Float32Array): number {
	const sizes = weights.map(Math.abs).sort();
	return sizes[Math.max(0, sizes.length - 1 - Math.floor(sizes.length / BEYOND))] || 1;
}

/**
 * The magnitude that best separates the zones: the bin boundary with the fewest weights on the wrong
 * side.
 */
function splitOf(
	low: readonly number[],
	high: readonly number[],
	limit: number,
): number | undefined {
	if (sum(low) === 0 || sum(high) === 0) return undefined;
	const half = BINS / 2;
	const bySize = (counts: readonly number[]) =>
		Array.from({ length: half }, (_, i) => counts[half + i] + counts[half - 1 - i]);
	const [lows, highs] = [bySize(low), bySize(high)];
	const misplaced = Array.from(
		{ length: half + 1 },
		(_, border) => sum(highs.slice(0, border)) + sum(lows.slice(border)),
	);
	return misplaced.indexOf(Math.min(...misplaced)) * limit / half;
}
