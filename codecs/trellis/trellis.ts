import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/** Rows and columns of a tile, whose weights share a stream of bits. */
export const TILE = 16;

/** The supported rates, in bits per weight. */
export const TRELLIS_BITS = [1, 1.5, 2, 2.5, 3] as const;
export type TrellisBits = typeof TRELLIS_BITS[number];

/** The bits of a state, log2 of the entries of a table. */
export const STATE_BITS = [12, 8] as const;
export type StateBits = typeof STATE_BITS[number];

/** Bits and weights of a step by the rate. */
const STEPS: Record<TrellisBits, { stepBits: number; stepWeights: 1 | 2 }> = {
	1: { stepBits: 1, stepWeights: 1 },
	1.5: { stepBits: 3, stepWeights: 2 },
	2: { stepBits: 2, stepWeights: 1 },
	2.5: { stepBits: 5, stepWeights: 2 },
	3: { stepBits: 3, stepWeights: 1 },
};

/** A bit-shift trellis: each step shifts new bits into the state, whose table entry is its weights. */
export interface Trellis {
	/** Bits per weight. */
	bits: TrellisBits;
	/** The bits of a state; the table has 2^stateBits entries. */
	stateBits: StateBits;
}

/** The numbers that follow from a {@link Trellis}. */
export interface TrellisSteps {
	/** New bits of a step. */
	stepBits: number;
	/** Weights of a step, neighbours in a row of the tile. */
	stepWeights: 1 | 2;
	/** Steps of a tile. */
	steps: number;
	/** u32 words of the stream of a tile. */
	words: number;
}

export function stepsOf({ bits }: Pick<Trellis, "bits">): TrellisSteps {
	const { stepBits, stepWeights } = STEPS[bits];
	const steps = TILE * TILE / stepWeights;
	return { stepBits, stepWeights, steps, words: steps * stepBits / 32 };
}

/** Whether there is a table for this trellis: small ones only for 1 and 2 bits. */
export function hasTable({ bits, stateBits }: Trellis): boolean {
	return stateBits === 12 || bits === 1 || bits === 2;
}

/** The layout of a trellis layer. */
export interface TrellisLayout extends Trellis {
	rows: number;
	cols: number;
}

/** The number of tiles below and beside each other. */
export function tilesOf({ rows, cols }: { rows: number; cols: number }): [number, number] {
	return [Math.ceil(rows / TILE), Math.ceil(cols / TILE)];
}

/** A trellis layer in GPU memory. */
export interface TrellisTensors extends TrellisLayout {
	/**
	 * u32 `[⌈rows / 16⌉, ⌈cols / 16⌉, words]`. The bits of a tile are a ring: bit i is bit 31 - i % 32 of
	 * word i / 32, and state t is the last bits before bit (t + 1) · stepBits, the earliest one highest.
	 */
	stream: Tensor;
	/** The scale of each row, f32 `[rows]`, exact f16 values. */
	scales: Tensor;
	/**
	 * The column of the weights at each place of the tiles, a permutation, u32 `[cols]`; absent if they are
	 * in the order of columns.
	 */
	order?: Tensor;
}

/** Allocates a trellis layer, without an order of columns. */
export function emptyTrellis(gpu: Gpu, layout: TrellisLayout): TrellisTensors {
	return {
		...layout,
		stream: gpu.empty([...tilesOf(layout), stepsOf(layout).words], "u32"),
		scales: gpu.empty([layout.rows]),
	};
}

/** Frees a trellis layer. */
export function freeTrellis(gpu: Gpu, { stream, scales, order }: TrellisTensors): void {
	gpu.free(stream, scales, ...(order ? [order] : []));
}
