import { refuseNonFinite, UserError } from "../../base/errors.ts";
import { type Gpu, UPLOAD_CHUNK } from "../../gpu/device.ts";
import { shapeText, type Tensor } from "../../gpu/tensor.ts";
import type { Checkpoint } from "../../storage/checkpoint.ts";
import { type StoredTensor, type TensorToWrite, toFloat32 } from "../../storage/safetensors.ts";
import {
	dequantizeEmbedding,
	type EmbeddingBits,
	type EmbeddingLayout,
	embeddingRowBytes,
	embeddingScaleGroups,
	type EmbeddingTensors,
} from "./dequantize_embedding.ts";
import { lookUpEmbedding } from "./look_up_embedding.ts";
import { embeddingMatvec } from "./embedding_matvec.ts";

/** Columns of a scale group without zeros, by code width. */
const GROUPS = { 8: 64, 4: 32 } as const;

/** Code widths with zeros, and the columns that a scale group may have. */
export const ZEROS_BITS = [3, 4, 5, 6] as const;
export const ZEROS_GROUPS = [32, 64, 128] as const;

/** The suffixes of the tensors of a quantized embedding; the last two are there with zeros. */
const PARTS = ["codes", "group_scales", "group_zeros", "table_layout"];

/** Whether a tensor is a part of a quantized embedding, by its name. */
export function isEmbeddingPart(tensor: string): boolean {
	return PARTS.includes(tensor.slice(tensor.lastIndexOf(".") + 1));
}

/**
 * The largest scale of a table is at least this: f16 numbers below 2^-14 are steps of 2^-24, which are
 * coarse for even smaller ones.
 */
export const LEAST_TOP_SCALE = 2 ** -18;

/** Number of values that are quantized at a time. */
const CHUNK = 1 << 20;

/**
 * Whether a checkpoint holds a matrix as a quantized embedding.
 *
 * @param name The name without ".weight".
 */
export function isPackedEmbedding(checkpoint: Checkpoint, name: string): boolean {
	return checkpoint.has(`${name}.codes`);
}

/**
 * The layout of a quantized embedding.
 *
 * @throws {UserError} If the shapes or dtypes of its tensors do not match.
 */
export function embeddingLayout(checkpoint: Checkpoint, name: string): EmbeddingLayout {
	if (checkpoint.has(`${name}.table_layout`)) return layoutWithZeros(checkpoint, name);
	const codes = checkpoint.get(`${name}.codes`);
	const [rows, width] = codes.shape;
	if (codes.shape.length !== 2 || (codes.dtype !== "I8" && codes.dtype !== "U8")) {
		refuse(codes, "I8 [rows, cols] or U8 [rows, cols / 2]");
	}
	const bits = codes.dtype === "I8" ? 8 : 4;
	const layout = { rows, cols: width * 8 / bits, bits, group: GROUPS[bits] } as const;
	check(checkpoint.get(`${name}.group_scales`), "F16", [rows, embeddingScaleGroups(layout)]);
	return layout;
}

/** The layout of an embedding with zeros, which states its columns, bits and group. */
function layoutWithZeros(checkpoint: Checkpoint, name: string): EmbeddingLayout {
	const stated = checkpoint.get(`${name}.table_layout`);
	check(stated, "U32", [3]);
	const [cols, bits, group] = new Uint32Array(checkpoint.readBytes(stated.name).buffer);
	const isIn = (list: readonly number[], value: number) => list.includes(value);
	if (cols === 0 || !isIn(ZEROS_BITS, bits) || !isIn(ZEROS_GROUPS, group)) {
		throw new UserError(
			`"${stated.file}": "${stated.name}" is ${cols}, ${bits}, ${group}; expected columns, ` +
				`${ZEROS_BITS.join(", ")} bits and groups of ${ZEROS_GROUPS.join(", ")}; ` +
				"the file is damaged",
		);
	}
	const codes = checkpoint.get(`${name}.codes`);
	const rows = codes.shape[0];
	const layout: EmbeddingLayout = { rows, cols, bits: bits as EmbeddingBits, group, zeros: true };
	check(codes, "U32", [rows, embeddingRowBytes(layout) / 4]);
	for (const part of ["group_scales", "group_zeros"]) {
		check(checkpoint.get(`${name}.${part}`), "F16", [rows, embeddingScaleGroups(layout)]);
	}
	return layout;
}

function check(tensor: StoredTensor, dtype: string, shape: readonly number[]): void {
	if (tensor.dtype === dtype && shapeText(tensor.shape) === shapeText(shape)) return;
	refuse(tensor, `${dtype} ${shapeText(shape)}`);
}

function refuse({ file, name, dtype, shape }: StoredTensor, wanted: string): never {
	throw new UserError(
		`"${file}": "${name}" is ${dtype} ${shapeText(shape)}, expected ${wanted}; ` +
			`the file is damaged`,
	);
}

/**
 * Quantizes an embedding or a head, `[rows, cols]`, without zeros.
 *
 * 8 bits: codes -127 .. 127; the scale of a group is its largest magnitude / 127. 4 bits: codes
 * -8 .. 7; of several scales near the largest magnitude / 8, the one with the least squared error.
 * Scales are f16.
 *
 * @param name The name without ".weight".
 * @param model The model's name in messages.
 * @returns NAME.codes and NAME.group_scales.
 * @throws {UserError} If it holds NaN or infinite values, or is not stored as floating-point numbers.
 */
export function packEmbedding(
	checkpoint: Checkpoint,
	name: string,
	bits: 8 | 4,
	model = checkpoint.folder,
): TensorToWrite[] {
	const { shape: [rows, cols] } = checkpoint.get(`${name}.weight`);
	const layout: EmbeddingLayout = { rows, cols, bits, group: GROUPS[bits] };
	const [rowBytes, groups] = [embeddingRowBytes(layout), embeddingScaleGroups(layout)];
	const codes = new Uint8Array(rows * rowBytes);
	const scales = new Float16Array(rows * groups);
	const together = Math.max(1, Math.floor(CHUNK / cols));
	let bad = 0;
	let topScale = 0;
	let isZero = true;
	for (let first = 0; first < rows; first += together) {
		const count = Math.min(together, rows - first);
		const values = checkpoint.readFloat32(`${name}.weight`, { first, rows: count });
		for (let row = 0; row < count; row++) {
			const rowStart = row * cols;
			const at = (first + row) * rowBytes;
			for (let g = 0; g < groups; g++) {
				const start = rowStart + g * layout.group;
				const end = Math.min(rowStart + cols, start + layout.group);
				const top = largest(values, start, end);
				if (!Number.isFinite(top)) {
					for (let i = start; i < end; i++) bad += Number(!Number.isFinite(values[i]));
					continue;
				}
				const scale = bits === 8
					? Math.f16round(Math.abs(top) / 127)
					: bestScale(values, start, end, top);
				if (!Number.isFinite(scale)) {
					throw new UserError(
						`"${model}": "${name}.weight" holds values that are too large for a scale in f16; ` +
							`use embeddings: stored`,
					);
				}
				scales[(first + row) * groups + g] = scale;
				topScale = Math.max(topScale, Math.abs(scale));
				isZero &&= top === 0;
				if (scale === 0) {
					if (bits === 4) {
						codes.fill(0x88, at + ((start - rowStart) >> 1), at + ((end - rowStart + 1) >> 1));
					}
					continue;
				}
				for (let i = start; i < end; i++) {
					const col = i - rowStart;
					if (bits === 8) codes[at + col] = codeOf(values[i], scale, -127, 127);
					else codes[at + (col >> 1)] |= (codeOf(values[i], scale, -8, 7) + 8) << (4 * (col & 1));
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
	const data = new Uint8Array(scales.buffer);
	return [
		{
			name: `${name}.codes`,
			dtype: bits === 8 ? "I8" : "U8",
			shape: [rows, rowBytes],
			data: codes,
		},
		{ name: `${name}.group_scales`, dtype: "F16", shape: [rows, groups], data },
	];
}

/** The nearest code. */
function codeOf(value: number, scale: number, least: number, most: number): number {
	const code = Math.floor(value / scale + 0.5);
	return code < least ? least : code > most ? most : code;
}

/** The value of largest magnitude in `start .. end`, with its sign; NaN if any value is NaN. */
function largest(values: Float32Array, start: number, end: number): number {
	let top = 0;
	for (let i = start; i < end; i++) {
		const value = values[i];
		if (value !== value) return NaN;
		if (Math.abs(value) > Math.abs(top)) top = value;
	}
	return top;
}

/**
 * Candidate divisors for 4-bit scales: they map the largest magnitude to -8 or 7 or slightly beyond.
 */
const DIVISORS = [-8, -8.5, -9, -7.5, 7, 7.5, 8];

/**
 * The candidate scale of 4-bit codes with the least squared error.
 *
 * @param top The value of largest magnitude.
 */
function bestScale(values: Float32Array, start: number, end: number, top: number): number {
	let best = 0;
	let least = Infinity;
	for (const divisor of DIVISORS) {
		const scale = Math.f16round(top / divisor);
		if (!Number.isFinite(scale)) return scale;
		if (scale === 0) continue;
		let error = 0;
		for (let i = start; i < end; i++) {
			const off = values[i] - codeOf(values[i], scale, -8, 7) * scale;
			error += off * off;
		}
		if (error < least) [least, best] = [error, scale];
	}
	return best;
}

/** A quantized embedding, or some rows of one, in GPU memory. */
export class GpuEmbedding implements Disposable {
	private constructor(
		readonly layout: EmbeddingLayout,
		readonly codes: Tensor,
		readonly scales: Tensor,
		readonly zeros: Tensor | undefined,
	) {}

	/** Uploads some rows of a quantized embedding; all rows from `first` on if `rows` is absent. */
	static upload(
		gpu: Gpu,
		checkpoint: Checkpoint,
		name: string,
		first = 0,
		rows?: number,
	): GpuEmbedding {
		const whole = embeddingLayout(checkpoint, name);
		const layout = { ...whole, rows: rows ?? whole.rows };
		const part = { first, rows: layout.rows };
		const upload = (tensor: string, bytes: number) => {
			const chunks = checkpoint.readChunks(`${name}.${tensor}`, UPLOAD_CHUNK, part);
			return gpu.upload(padded(chunks, bytes), [Math.ceil(bytes / 4)], "u32");
		};
		const halves = 2 * layout.rows * embeddingScaleGroups(layout);
		return new GpuEmbedding(
			layout,
			upload("codes", layout.rows * embeddingRowBytes(layout)),
			upload("group_scales", halves),
			layout.zeros && upload("group_zeros", halves),
		);
	}

	/**
	 * Some dequantized rows, f32 `[rows, cols]`, owned by the caller.
	 *
	 * @param first A multiple of 256, for the alignment of bindings.
	 */
	async dequantized(first: number, rows: number): Promise<Tensor> {
		return await dequantizeEmbedding(this.codes.gpu, this.#part(first, rows));
	}

	/**
	 * Queues out = x · tableᵀ for one token.
	 *
	 * @param x f32 `[1, cols]`.
	 * @param out Receives the products, f32 `[1, rows]`.
	 */
	async multiply(x: Tensor, out: Tensor): Promise<void> {
		for (const { first, ...part } of this.#parts()) {
			await embeddingMatvec(x.gpu, { x, ...part, out, start: first });
		}
	}

	/**
	 * Looks token ids up.
	 *
	 * @param ids Row indices, u32 `[tokens]`.
	 * @param out Receives the rows, or is accumulated to, f32 `[tokens, cols]`.
	 * @param from The row of id 0, for positions.
	 */
	async lookUp(ids: Tensor, out: Tensor, accumulate: boolean, from?: number): Promise<void> {
		const moves = from !== undefined;
		for (const { first, ...part } of this.#parts()) {
			await lookUpEmbedding(ids.gpu, ids, part, out, accumulate, first - (from ?? 0), moves);
		}
	}

	/** The parts that fit the binding limit. */
	*#parts() {
		const { rows } = this.layout;
		const { maxBinding } = this.codes.gpu;
		const most = Math.max(256, Math.floor(maxBinding / embeddingRowBytes(this.layout) / 256) * 256);
		for (let first = 0; first < rows; first += most) {
			yield { first, ...this.#part(first, Math.min(most, rows - first)) };
		}
	}

	/** Some rows; `first` as in {@link dequantized}. */
	#part(first: number, rows: number): EmbeddingTensors {
		const layout = { ...this.layout, rows };
		const part = (tensor: Tensor, rowBytes: number) =>
			tensor.view(first * rowBytes / 4, [Math.ceil(rows * rowBytes / 4)]);
		const groupBytes = 2 * embeddingScaleGroups(layout);
		return {
			layout,
			codes: part(this.codes, embeddingRowBytes(layout)),
			scales: part(this.scales, groupBytes),
			zeros: this.zeros && part(this.zeros, groupBytes),
		};
	}

	[Symbol.dispose](): void {
		this.codes.gpu.free(this.codes, this.scales);
		this.zeros?.[Symbol.dispose]();
	}
}

/** Adds zeros up to whole words. */
function* padded(chunks: Iterable<Uint8Array>, bytes: number): Generator<Uint8Array> {
	yield* chunks;
	if (bytes % 4) yield new Uint8Array(4 - bytes % 4);
}

/** Some dequantized rows of a quantized embedding, f32 `[rows, cols]`; bit-identical to the GPU's. */
export function dequantizeEmbeddingOnHost(
	checkpoint: Checkpoint,
	name: string,
	first: number,
	rows: number,
): Float32Array<ArrayBuffer> {
	const layout = embeddingLayout(checkpoint, name);
	if (layout.zeros) return dequantizeFields(checkpoint, name, layout, first, rows);
	const { cols, bits, group } = layout;
	const [rowBytes, groups] = [embeddingRowBytes(layout), embeddingScaleGroups(layout)];
	const part = { first, rows };
	const codes = checkpoint.readBytes(`${name}.codes`, part);
	const scales = toFloat32(checkpoint.readBytes(`${name}.group_scales`, part), "F16");
	const table = new Float32Array(rows * cols);
	for (let row = 0; row < rows; row++) {
		for (let col = 0; col < cols; col++) {
			const byte = codes[row * rowBytes + (col * bits >> 3)];
			const code = bits === 8 ? byte << 24 >> 24 : (byte >> (4 * (col & 1)) & 15) - 8;
			table[row * cols + col] = code * scales[row * groups + Math.floor(col / group)] + 0; // no -0
		}
	}
	return table;
}

/** {@link dequantizeEmbeddingOnHost} of an embedding with zeros. */
function dequantizeFields(
	checkpoint: Checkpoint,
	name: string,
	layout: EmbeddingLayout,
	first: number,
	rows: number,
): Float32Array<ArrayBuffer> {
	const { cols, bits, group } = layout;
	const [words, groups] = [embeddingRowBytes(layout) / 4, embeddingScaleGroups(layout)];
	const part = { first, rows };
	const codes = new Uint32Array(checkpoint.readBytes(`${name}.codes`, part).buffer);
	const [scales, zeros] = ["group_scales", "group_zeros"].map((tensor) =>
		toFloat32(checkpoint.readBytes(`${name}.${tensor}`, part), "F16")
	);
	const table = new Float32Array(rows * cols);
	for (let row = 0; row < rows; row++) {
		for (let col = 0; col < cols; col++) {
			const at = row * groups + Math.floor(col / group);
			const difference = Math.fround(fieldAt(codes, row * words, col, bits) - zeros[at]);
			table[row * cols + col] = difference * scales[at] + 0; // no -0
		}
	}
	return table;
}

/** The field of `bits` bits at index `i`, counted from word `first`. */
function fieldAt(words: Uint32Array, first: number, i: number, bits: number): number {
	const word = first + (i * bits >>> 5);
	const shift = i * bits & 31;
	let field = words[word] >>> shift;
	if (shift + bits > 32) field |= words[word + 1] << (32 - shift);
	return field & (2 ** bits - 1);
}
