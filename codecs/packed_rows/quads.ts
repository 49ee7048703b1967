import type { Gpu } from "../../gpu/device.ts";
import { repeat } from "../../gpu/source_text.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { type PackedRows, partOf, placeLayers, uploadParts } from "./packed_rows.ts";
import { decodeRows } from "./unpack.ts";
import type { RowUnpacking } from "./unpack_source.ts";
import type { RowCode } from "./vector_source.ts";

/** Columns of a chunk: their bits of a plane are a word. */
export const QUAD_CHUNK = 32;

/**
 * A decoder of four weights at a time, from which both forms of products are made: it takes a few lines of
 * WGSL, where a `RowCode` of its own would be faster with one vector.
 */
export interface QuadCode {
	/** The part of the kernels' names that tells their texts from those of other codecs. */
	name: string;
	/** The WGSL types of the codec's tensors, read-only, by their names in the text. */
	tensors: Readonly<Record<string, string>>;
	/**
	 * Pipeline constants and functions:
	 *
	 *     struct Chunk                                                   what 32 columns of a row need
	 *     fn chunk_of(row: u32, chunk: u32, chunks: u32, part: u32) -> Chunk
	 *                                                                    of layer `part` of a group
	 *     fn four(c: Chunk, i: u32) -> vec4f                             the weights of columns i .. i + 3
	 */
	declarations: string;
}

/** A decoder of four weights in rowVectorKernel(), for workgroups of `rows` rows. */
export function quadRowCode({ name, tensors, declarations }: QuadCode, rows: number): RowCode {
	return {
		name,
		chunk: QUAD_CHUNK,
		rows,
		tensors,
		bytes: 0,
		text: () => ({
			declarations,
			load: repeat(
				rows,
				(r) => `let code${r} = chunk_of(row${r}, chunk, CHUNKS, part);`,
				"\n    ",
			),
			multiply: `for (var q = 0u; q < ${QUAD_CHUNK / 4}u; q++) {
        let x = xs[x_at + q];
        ${repeat(rows, (r) => `sum${r} += dot(four(code${r}, 4u * q), x);`, "\n        ")}
      }`,
		}),
	};
}

/** A decoder of four weights in unpackRowsKernel(). */
export function quadUnpacking({ name, tensors, declarations }: QuadCode): RowUnpacking {
	return {
		name,
		tensors,
		declarations,
		load: (r) => `let code${r} = chunk_of(row${r}, quad >> 3u, chunks, 0u);`,
		decode: (r) => `let weight${r} = four(code${r}, 4u * (quad & 7u));`,
	};
}

/** Rows of a workgroup in products with one vector. */
const ROWS = 4;

/** The alignment of each layer's part of {@link QuadTensors.byLayer}, in words. */
const LAYER_WORDS = 64;

/** The tensors of a {@link QuadCode}, in its order: first those by row, then those by layer. */
export interface QuadTensors<Data> {
	rows: number;
	cols: number;
	/** `[rows, words]` each. */
	byRow: readonly Data[];
	/** `[layers, words]` each; words are a multiple of 64 in a group. */
	byLayer: readonly Data[];
}

/** Linear layers whose weights are decoded four at a time: one layer, or a group. */
export class QuadRows implements PackedRows {
	readonly rows: number;
	readonly cols: number;
	readonly tensors: readonly Tensor[];

	constructor(
		readonly quads: QuadCode,
		readonly data: QuadTensors<Tensor>,
		readonly constants: Readonly<Record<string, number>>,
		readonly starts: readonly number[] = [0],
	) {
		[this.rows, this.cols] = [data.rows, data.cols];
		this.tensors = [...data.byRow, ...data.byLayer];
	}

	/** Layer `i` of a group, of so many rows, as views of its tensors. */
	layer(rows: number, i: number): QuadRows {
		const { quads, data, constants, starts } = this;
		const byRow = data.byRow.map((tensor) => partOf(tensor, starts[i], rows));
		const byLayer = data.byLayer.map((tensor) => partOf(tensor, i, 1));
		return new QuadRows(quads, { ...data, rows, byRow, byLayer }, constants);
	}

	code(): RowCode {
		return quadRowCode(this.quads, ROWS);
	}

	unpack(gpu: Gpu, first: number, rows: number): Promise<Tensor> {
		const { cols, tensors, constants } = this;
		const code = quadUnpacking(this.quads);
		return decodeRows(gpu, { first, rows, cols, code, tensors, constants });
	}
}

/** Words of a layer's part of a tensor by layer. */
export function layerWords(words: number): number {
	return Math.ceil(words / LAYER_WORDS) * LAYER_WORDS;
}

/** Uploads linear layers of one kind, whose tensors the caller owns. */
export function uploadQuads(
	gpu: Gpu,
	code: QuadCode,
	layers: readonly QuadTensors<Uint32Array<ArrayBuffer>>[],
	constants: Readonly<Record<string, number>>,
): QuadRows {
	const [first] = layers;
	const { starts, rows } = placeLayers(layers);
	const byRow = first.byRow.map((data, i) => {
		const words = data.length / first.rows;
		return uploadParts(gpu, { starts, rows }, layers.map(({ byRow }) => byRow[i]), words);
	});
	const byLayer = first.byLayer.map((data, i) => {
		const words = layerWords(data.length);
		const all = new Uint32Array(layers.length * words);
		layers.forEach(({ byLayer }, k) => all.set(byLayer[i], k * words));
		return gpu.upload(all, [layers.length, words]);
	});
	return new QuadRows(code, { rows, cols: first.cols, byRow, byLayer }, constants, starts);
}

/** The words of f32 values. */
export function wordsOf(values: Float32Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
	return new Uint32Array(values.buffer, values.byteOffset, values.length);
}
