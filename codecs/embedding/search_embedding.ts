import { bitWords } from "../../base/bits.ts";
import { refuseNonFinite, UserError } from "../../base/errors.ts";
import { constant } from "../../gpu/constant.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Checkpoint } from "../../storage/checkpoint.ts";
import type { TensorToWrite } from "../../storage/safetensors.ts";
import { searchGrid } from "../grid/search_grid.ts";
import { embeddingScaleGroups } from "./dequantize_embedding.ts";
import { LEAST_TOP_SCALE, type ZEROS_BITS, type ZEROS_GROUPS } from "./embedding.ts";

/** Values that are on the GPU at a time. */
const CHUNK = 1 << 22;

/** The largest finite f16. */
const MOST_F16 = 65504;

/** The form of an embedding with zeros. */
export interface SearchedForm {
	bits: typeof ZEROS_BITS[number];
	/** Columns of a scale group. */
	group: typeof ZEROS_GROUPS[number];
}

/**
 * Quantizes an embedding or a head, `[rows, cols]`, with a scale and a real zero for each scale group,
 * which are those of the least squared error that a search on the GPU finds.
 *
 * @param name The name without ".weight".
 * @param model The model's name in messages.
 * @returns NAME.codes, NAME.group_scales, NAME.group_zeros and NAME.table_layout.
 * @throws {UserError} If it holds NaN or infinite values, values that are too large or too small for
 *   scales in f16, or is not stored as floating-point numbers.
 */
export async function searchEmbedding(
	gpu: Gpu,
	checkpoint: Checkpoint,
	name: string,
	{ bits, group }: SearchedForm,
	model = checkpoint.folder,
): Promise<TensorToWrite[]> {
	const { shape: [rows, cols] } = checkpoint.get(`${name}.weight`);
	const groups = embeddingScaleGroups({ rows, cols, bits, group });
	const words = bitWords(cols * bits);
	const codes = new Uint32Array(rows * words);
	const scales = new Float16Array(rows * groups);
	const zeros = new Float16Array(rows * groups);
	const costs = constant(gpu, new Float32Array(cols).fill(1));
	const together = Math.max(1, Math.floor(CHUNK / cols));
	const mostCode = 2 ** bits - 1;
	let bad = 0;
	let topScale = 0;
	let isZero = true;
	for (let first = 0; first < rows; first += together) {
		const count = Math.min(together, rows - first);
		const values = checkpoint.readFloat32(`${name}.weight`, { first, rows: count });
		bad += values.reduce((bad, value) => bad + Number(!Number.isFinite(value)), 0);
		if (bad > 0) continue;
		const fits = await fitsOf(values, count);
		for (let row = 0; row < count; row++) {
			for (let g = 0; g < groups; g++) {
				const [start, end] = [g * group, Math.min(cols, (g + 1) * group)];
				const at = row * groups + g;
				const largest = magnitude(values, row * cols + start, row * cols + end);
				if (largest === 0) continue; // scale, zero and codes are 0
				isZero = false;
				if (largest > MOST_F16) {
					throw new UserError(
						`"${model}": "${name}.weight" holds values that are too large for a scale in f16; ` +
							`use embeddings: stored`,
					);
				}
				const [scale, zero] = [fits[2 * at], fits[2 * at + 1]];
				scales[first * groups + at] = scale;
				zeros[first * groups + at] = zero;
				topScale = Math.max(topScale, scale);
				for (let col = start; col < end; col++) {
					const nearest = Math.floor(values[row * cols + col] / scale + zero + 0.5);
					const code = Math.max(0, Math.min(mostCode, nearest));
					const bit = col * bits;
					const word = (first + row) * words + (bit >>> 5);
					const shift = bit & 31;
					codes[word] |= code << shift;
					if (shift + bits > 32) codes[word + 1] |= code >>> (32 - shift);
				}
			}
		}
	}
	refuseNonFinite(model, `${name}.weight`, bad);
	if (!isZero && topScale < LEAST_TOP_SCALE) {
		throw new UserError(
			`"${model}": "${name}.weight" holds only values that are too small for scales in f16; ` +
				`use embeddings: stored`,
		);
	}
	const halves = (part: string, values: Float16Array<ArrayBuffer>): TensorToWrite => ({
		name: `${name}.${part}`,
		dtype: "F16",
		shape: [rows, groups],
		data: new Uint8Array(values.buffer),
	});
	const integers = (part: string, shape: number[], values: Uint32Array<ArrayBuffer>) => ({
		name: `${name}.${part}`,
		dtype: "U32" as const,
		shape,
		data: new Uint8Array(values.buffer),
	});
	return [
		integers("codes", [rows, words], codes),
		halves("group_scales", scales),
		halves("group_zeros", zeros),
		integers("table_layout", [3], Uint32Array.of(cols, bits, group)),
	];

	/** Scale and zero of each scale group of some rows. */
	async function fitsOf(values: Float32Array<ArrayBuffer>, count: number): Promise<Float32Array> {
		using weight = gpu.upload(values, [count, cols]);
		using fits = gpu.empty([count, groups, 2]);
		await searchGrid(gpu, { bits, zeros: "free", weight, groupSize: group, costs, fits });
		return await gpu.read(fits);
	}
}

/** The largest magnitude in `start .. end`. */
function magnitude(values: Float32Array, start: number, end: number): number {
	let largest = 0;
	for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(values[i]));
	return largest;
}
