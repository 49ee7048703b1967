import type { Gpu } from "../../gpu/device.ts";
import { shapeText, type Tensor } from "../../gpu/tensor.ts";
import type { Addends, InputTransform, VectorOptions, Weight, WeightGroup } from "../codec.ts";
import { multiplySlabs } from "./slabs.ts";
import { multiplyRows, transformsRows } from "./vector.ts";
import type { RowCode } from "./vector_source.ts";

/** The token count up to which a packed weight is read once per token instead of being unpacked. */
export const ROW_TOKENS = 8;

/** The most linear layers of a group. */
const MOST_LAYERS = 3;

/** Row alignment of the layers in a group, for the alignment of bindings: usual, and at most. */
const PART_ROWS = 64;
export const MOST_PART_ROWS = 256;

/** Alignment of the order of columns of each layer in a group, likewise. */
const PART_COLS = 64;

/** Linear layers on the GPU that share an input, packed row by row: one of them, or a group. */
export interface PackedRows {
	/** Rows of the product, from the first row of the first layer to the last row of the last one. */
	readonly rows: number;
	readonly cols: number;
	/** The first row of each layer. */
	readonly starts: readonly number[];
	/** The codec's tensors, in the order of those of its {@link RowCode}. */
	readonly tensors: readonly Tensor[];
	/**
	 * The column of x that belongs to each column of the weight, u32 `[layers, columns]`, padded with
	 * numbers that are no column; absent if columns have no order of their own.
	 */
	readonly order?: Tensor;
	/** Further pipeline constants of the codec's text. */
	readonly constants?: Readonly<Record<string, number>>;
	/** How the weights are decoded, for products with so many rows. */
	code(gpu: Gpu, rows: number): RowCode;
	/**
	 * The dequantized weights of some rows of the layer, f32 `[rows, cols]`; of a single layer only.
	 *
	 * @param out Receives them; a new tensor, owned by the caller, if absent.
	 */
	unpack(gpu: Gpu, first: number, rows: number, out?: Tensor): Promise<Tensor>;
}

/** A linear layer that is multiplied in packed form; owns its tensors unless they are views. */
export class PackedRowsWeight implements Weight {
	constructor(readonly gpu: Gpu, readonly layer: PackedRows) {}

	get rows(): number {
		return this.layer.rows;
	}

	get cols(): number {
		return this.layer.cols;
	}

	async multiply(x: Tensor, addends: Addends = {}): Promise<Tensor> {
		const { gpu, layer, rows, cols } = this;
		const [tokens, width] = x.shape;
		if (width !== cols) {
			throw new RangeError(
				`Cannot multiply ${shapeText(x.shape)} with a packed weight of ${shapeText([rows, cols])}`,
			);
		}
		if (tokens <= ROW_TOKENS) return await multiplyRows(gpu, x, layer, addends);
		const y = gpu.empty([tokens, rows]);
		await multiplySlabs(
			gpu,
			x,
			{
				rows,
				unpack: (first, count) => layer.unpack(gpu, first, count),
			},
			addends,
			y,
		);
		return y;
	}

	[Symbol.dispose](): void {
		freeRows(this.gpu, this.layer);
	}
}

/** A group of linear layers that are multiplied with a vector in one dispatch; owns its tensors. */
export class PackedRowsGroup implements WeightGroup {
	readonly weights: readonly PackedRowsWeight[];

	/** @param layers The individual layers, as views of the group's tensors. */
	constructor(readonly gpu: Gpu, readonly group: PackedRows, layers: readonly PackedRows[]) {
		this.weights = layers.map((layer) => new PackedRowsWeight(gpu, layer));
	}

	get rows(): number {
		return this.group.rows;
	}

	get starts(): readonly number[] {
		return this.group.starts;
	}

	transforms(transform: InputTransform): boolean {
		return transformsRows(this.gpu, this.group, transform);
	}

	multiplyVector(x: Tensor, options?: VectorOptions): Promise<Tensor> {
		return multiplyRows(this.gpu, x, this.group, options);
	}

	[Symbol.dispose](): void {
		freeRows(this.gpu, this.group);
	}
}

function freeRows(gpu: Gpu, { tensors, order }: PackedRows): void {
	gpu.free(...tensors, ...(order ? [order] : []));
}

/**
 * The first row of each layer of a group and the rows of all, with the gaps between them.
 *
 * @param alignment Each layer begins at a multiple of so many rows.
 */
export function placeLayers(
	layers: readonly { rows: number }[],
	alignment = PART_ROWS,
): { starts: number[]; rows: number } {
	const starts: number[] = [];
	let rows = 0;
	for (const layer of layers) {
		starts.push(Math.ceil(rows / alignment) * alignment);
		rows = starts.at(-1)! + layer.rows;
	}
	return { starts, rows };
}

/**
 * Uploads the rows of each layer to their places in one tensor, with zeros between them.
 *
 * @param parts The data of each layer.
 * @param words Words of a row.
 * @returns u32 `[rows, words]`, owned by the caller.
 */
export function uploadParts(
	gpu: Gpu,
	{ starts, rows }: { starts: readonly number[]; rows: number },
	parts: readonly Uint32Array<ArrayBuffer>[],
	words: number,
): Tensor {
	function* pieces(): Generator<Uint8Array> {
		let done = 0; // bytes
		for (const [i, part] of parts.entries()) {
			const start = 4 * words * starts[i];
			if (start > done) yield new Uint8Array(start - done);
			yield new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
			done = start + part.byteLength;
		}
	}
	return gpu.upload(pieces(), [rows, words], "u32");
}

/**
 * The part of a group's tensor that belongs to a layer.
 *
 * @param tensor `[rows, words]`, or `[⌈rows / unit⌉, words]`.
 */
export function partOf(tensor: Tensor, start: number, rows: number, unit = 1): Tensor {
	const [, words] = tensor.shape;
	return tensor.view(start / unit * words, [Math.ceil(rows / unit), words]);
}

/**
 * Whether layers can be a group: at most {@link MOST_LAYERS}, equal in what `kindOf` tells, and together
 * within a binding.
 *
 * @param kindOf What layers of a group have in common.
 * @param words Words of a row in the largest tensor.
 */
export function canGroupRows<Host extends { rows: number }>(
	gpu: Pick<Gpu, "maxBinding">,
	hosts: readonly Host[],
	kindOf: (host: Host) => readonly unknown[],
	words: number,
): boolean {
	const kind = kindOf(hosts[0]);
	const { rows } = placeLayers(hosts, MOST_PART_ROWS);
	return hosts.length <= MOST_LAYERS &&
		hosts.every((host) => kindOf(host).every((value, i) => value === kind[i])) &&
		4 * words * rows <= gpu.maxBinding;
}

/** Uploads orders of columns as {@link PackedRows.order}; undefined if the layers have none. */
export function uploadOrders(
	gpu: Gpu,
	orders: readonly (Uint32Array | undefined)[],
): Tensor | undefined {
	const [first] = orders;
	if (!first) return undefined;
	const stride = Math.ceil(first.length / PART_COLS) * PART_COLS;
	const all = new Uint32Array(orders.length * stride).fill(0xffffffff);
	orders.forEach((order, i) => all.set(order!, i * stride));
	return gpu.upload(all, [orders.length, stride]);
}

/** The order of columns of layer `i` of a group, as a view. */
export function orderOf(order: Tensor | undefined, i: number): Tensor | undefined {
	if (!order) return undefined;
	const [, stride] = order.shape;
	return order.view(i * stride, [1, stride]);
}
