/** A rotation of the input of linear layers: random signs, then a Hadamard transform of runs. */
export interface Rotation {
	/** The seed of the signs: an integer from 0 to 2³² - 1. */
	seed: number;
	/** Entries of a run: a power of two that divides the width. */
	block: number;
}

/**
 * A transform of the input of a linear layer, y = W~ · 2^exponent · R x: the layer stores the rows of its
 * weight rotated like x, and divided by 2^exponent.
 */
export interface InputTransform {
	/** R; none if absent. */
	rotation?: Rotation;
	/** 0 if absent. */
	exponent?: number;
}

/** The smallest and the largest run of a rotation. */
export const [LEAST_RUN, MOST_RUN] = [16, 512];

/**
 * The run of a rotation of vectors of this width: the largest power of two that divides it, at most
 * `most`; undefined if the width is not a multiple of {@link LEAST_RUN}.
 */
export function runFor(width: number, most: number): number | undefined {
	const run = Math.min(most, width & -width);
	return run < LEAST_RUN ? undefined : run;
}

/** The hash input of column 0, u32; that of column j is j more. */
export function signStart(seed: number): number {
	return Math.imul(seed, 0x9e3779b9) >>> 0;
}

/**
 * The sign bit of a column: bit 31 of a hash.
 *
 * @param start See {@link signStart}.
 * @see Wellons, "Prospecting for hash functions", https://nullprogram.com/blog/2018/07/31/
 */
export function isNegative(start: number, col: number): boolean {
	let h = (start + col) | 0;
	h ^= h >>> 16;
	h = Math.imul(h, 0x7feb352d);
	h ^= h >>> 15;
	h = Math.imul(h, 0x846ca68b);
	h ^= h >>> 16;
	return h < 0;
}

/** The factor of a transform in f32: that of the orthonormal Hadamard transform times 2^exponent. */
export function transformFactor({ rotation, exponent = 0 }: InputTransform): number {
	return Math.fround(Math.fround((rotation?.block ?? 1) ** -0.5) * 2 ** exponent);
}

/** Rotates rows of vectors, f32 `[rows, cols]`, in place: 2^exponent · R x. */
export function transformOnHost(
	values: Float32Array,
	cols: number,
	transform: InputTransform,
): void {
	if (transform.rotation) applySigns(values, cols, transform.rotation);
	hadamard(values, transform);
}

/**
 * Undoes the transform of rows of a weight, f32 `[rows, cols]`, in place: their original layout, with the
 * bits that the GPU gets.
 */
export function undoOnHost(values: Float32Array, cols: number, transform: InputTransform): void {
	hadamard(values, transform);
	if (transform.rotation) applySigns(values, cols, transform.rotation);
}

function applySigns(values: Float32Array, cols: number, { seed }: Rotation): void {
	const start = signStart(seed);
	for (let col = 0; col < cols; col++) {
		if (!isNegative(start, col)) continue;
		for (let at = col; at < values.length; at += cols) values[at] = -values[at];
	}
}

/** Butterflies at distance 1, 2, 4 ..., each sum rounded to f32, then one product. */
function hadamard(values: Float32Array, transform: InputTransform): void {
	const { block = 1 } = transform.rotation ?? {};
	for (let distance = 1; distance < block; distance *= 2) {
		for (let start = 0; start < values.length; start += 2 * distance) {
			for (let i = start; i < start + distance; i++) {
				const [a, b] = [values[i], values[i + distance]];
				values[i] = a + b;
				values[i + distance] = a - b;
			}
		}
	}
	const factor = transformFactor(transform);
	for (let i = 0; i < values.length; i++) values[i] *= factor;
}
