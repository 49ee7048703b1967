import { shapeText } from "../../gpu/tensor.ts";
import type { Checkpoint } from "../../storage/checkpoint.ts";
import { type TensorToWrite, toFloat32 } from "../../storage/safetensors.ts";
import type { PackedShape } from "../codec.ts";
import { partBytes, PartReader } from "../part_reader.ts";
import { tableOf } from "./tables.ts";
import {
	hasTable,
	STATE_BITS,
	stepsOf,
	TILE,
	tilesOf,
	TRELLIS_BITS,
	type TrellisLayout,
} from "./trellis.ts";

/** A trellis layer in host memory; its arrays match those of {@link TrellisTensors}. */
export interface TrellisHost extends TrellisLayout {
	/** `[⌈rows / 16⌉, ⌈cols / 16⌉, words]`. */
	stream: Uint32Array<ArrayBuffer>;
	/** `[rows]`. */
	scales: Float32Array<ArrayBuffer>;
	/** `[cols]`, a permutation; absent if tiles are in the order of columns. */
	order?: Uint32Array<ArrayBuffer>;
}

/** The most columns that U16 can name. */
const MOST_PLACES = 65536;

/**
 * The tensors that store a trellis layer. The shape of the stream tells the table: three dimensions for
 * the large one, two for the small one.
 */
export function storeTrellis(name: string, host: TrellisHost): TensorToWrite[] {
	const { rows, cols, stateBits, stream, scales, order } = host;
	const [below, beside] = tilesOf(host);
	const { words } = stepsOf(host);
	const tensors: TensorToWrite[] = [
		{
			name: `${name}.trellis`,
			dtype: "U32",
			shape: stateBits === 12 ? [below, beside, words] : [below, beside * words],
			data: partBytes(stream),
		},
		{
			name: `${name}.trellis_scales`,
			dtype: "F16",
			shape: [rows],
			data: partBytes(Float16Array.from(scales)),
		},
	];
	if (order) {
		const isShort = cols <= MOST_PLACES;
		tensors.push({
			name: `${name}.trellis_order`,
			dtype: isShort ? "U16" : "U32",
			shape: [cols],
			data: partBytes(isShort ? Uint16Array.from(order) : order),
		});
	}
	return tensors;
}

/**
 * The bytes that {@link storeTrellis} takes.
 *
 * @param isOrdered Whether the order of the columns is stored.
 */
export function trellisBytes(layout: TrellisLayout, isOrdered: boolean): number {
	const { rows, cols } = layout;
	const [below, beside] = tilesOf(layout);
	const order = isOrdered ? (cols <= MOST_PLACES ? 2 : 4) * cols : 0;
	return 4 * below * beside * stepsOf(layout).words + 2 * rows + order;
}

/**
 * Loads a trellis layer.
 *
 * @throws {UserError} If a tensor is missing, has an unexpected dtype, or its shape does not match the
 *   others.
 */
export function loadTrellis(
	checkpoint: Checkpoint,
	name: string,
	{ cols }: PackedShape,
): TrellisHost {
	const reader = new PartReader(checkpoint, name, "trellis");
	const [rows] = reader.get("_scales").shape;
	const [below, beside] = tilesOf({ rows, cols });
	const { shape } = reader.get("");
	const layouts = STATE_BITS.flatMap((stateBits) =>
		TRELLIS_BITS.map((bits): TrellisLayout => ({ rows, cols, bits, stateBits }))
	).filter(hasTable);
	const shapeOf = (layout: TrellisLayout) => {
		const { words } = stepsOf(layout);
		return layout.stateBits === 12 ? [below, beside, words] : [below, beside * words];
	};
	const wordsOf = (stateBits: number) =>
		layouts.filter((layout) => layout.stateBits === stateBits)
			.map((layout) => stepsOf(layout).words).join(", ");
	const layout: TrellisLayout =
		layouts.find((layout) => shapeText(shapeOf(layout)) === shapeText(shape)) ?? reader.refuse(
			"",
			shapeText(shape),
			`[${below}, ${beside}, N] with N = ${wordsOf(12)}, or [${below}, ${beside} N] with N = ${
				wordsOf(8)
			}`,
		);
	const stream = new Uint32Array(reader.read("", "U32", shape).buffer);
	const scales = toFloat32(reader.read("_scales", "F16", [rows]), "F16");
	const order = readOrder();
	return { ...layout, stream, scales, ...(order && { order }) };

	/** The column at each place of the tiles; undefined if they are in the order of columns. */
	function readOrder(): Uint32Array<ArrayBuffer> | undefined {
		if (!reader.has("_order")) return undefined;
		const order = cols <= MOST_PLACES
			? Uint32Array.from(new Uint16Array(reader.read("_order", "U16", [cols]).buffer))
			: new Uint32Array(reader.read("_order", "U32", [cols]).buffer);
		const seen = new Uint8Array(cols);
		order.forEach((col) => {
			if (col >= cols || seen[col]++) {
				reader.refuse("_order", `a list with column ${col}`, `each of ${cols} once`);
			}
		});
		return order;
	}
}

/** State `step` of a tile whose words begin at `first`; see {@link TrellisTensors.stream}. */
export function stateAt(
	layout: Pick<TrellisLayout, "bits" | "stateBits">,
	stream: Uint32Array,
	first: number,
	step: number,
): number {
	const { stepBits, words } = stepsOf(layout);
	const { stateBits } = layout;
	const start = ((step + 1) * stepBits - stateBits + 32 * words) % (32 * words);
	const word = start >>> 5;
	const shift = start & 31;
	let window = stream[first + word] << shift;
	if (shift > 0) window |= stream[first + (word + 1) % words] >>> (32 - shift);
	return window >>> (32 - stateBits);
}

/**
 * The dequantized weights of a trellis layer, or `rows` rows of them from row `first`, f32
 * `[rows, cols]`; bit-identical to `dequantizeTrellis()` on the GPU.
 */
export function dequantizeTrellisHost(
	host: TrellisHost,
	first = 0,
	rows = host.rows - first,
): Float32Array<ArrayBuffer> {
	const { cols, stream, scales, order } = host;
	const table = tableOf(host);
	const { stepWeights, words } = stepsOf(host);
	const [, beside] = tilesOf(host);
	const weight = new Float32Array(rows * cols);
	for (let i = 0; i < rows; i++) {
		const row = first + i;
		const tileRow = Math.floor(row / TILE) * beside;
		for (let place = 0; place < cols; place += stepWeights) {
			const tile = (tileRow + Math.floor(place / TILE)) * words;
			const step = ((row % TILE) * TILE + place % TILE) / stepWeights;
			const state = stateAt(host, stream, tile, step);
			for (let v = 0; v < stepWeights && place + v < cols; v++) {
				const col = order ? order[place + v] : place + v;
				weight[i * cols + col] = table[state * stepWeights + v] * scales[row];
			}
		}
	}
	return weight;
}
