import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { SALIENT_PLACE } from "./vector_product_source.ts";
import {
	arrangedScales,
	type BillmSource,
	type BillmTensors,
	columnOrder,
	paddedFactors,
	SALIENT,
	scaleShape,
	TILE_ROWS,
	tilesOf,
	UNIT_COLS,
	unitsOf,
	uploadBits,
} from "./tensors.ts";
import { type BillmLayout, bitPlanes } from "./quantize_block.ts";

/** Row alignment of the layers in a group: whole tiles, which meet the alignment of bindings. */
const PART_ROWS = 128;
/** Alignment in units of a layer's salient mask, for the alignment of bindings. */
const PART_UNITS = 16;

/**
 * The tensors of a group: at most three BiLLM layers that share an input and are multiplied with a
 * vector in one dispatch. Their layouts are equal except for their rows; each has its own column order.
 */
export interface BillmGroupTensors extends BillmLayout {
	/** Rows of the product, from the first row of the first layer to the last row of the last one. */
	rows: number;
	/** The first row of each layer. */
	starts: readonly number[];
	/** The individual layers, as views of the group's tensors. */
	weights: readonly BillmTensors[];
	/** As in {@link BillmTensors}, for the tiles of all layers. */
	bits: Tensor;
	scales: Tensor;
	factors?: Tensor;
	/** The salient mask of each layer, u32 `[layers, padded units, 4]`. */
	salient: Tensor;
	order: Tensor;
	/**
	 * The position of each column in its unit, with {@link SALIENT_PLACE} set if salient, u32
	 * `[layers, units, 32]`. Byte i of word w belongs to column 32 i + w.
	 */
	places: Tensor;
}

/** Whether layers can be multiplied as a group. */
export function canGroup(hosts: readonly BillmSource[]): boolean {
	const [{ cols, blockSize, zones, planes, codes }] = hosts;
	return hosts.length <= 3 &&
		hosts.every((host) =>
			host.cols === cols && host.blockSize === blockSize && host.zones === zones &&
			host.planes === planes && (host.codes === undefined) === (codes === undefined)
		);
}

/**
 * Uploads BiLLM layers as a group.
 *
 * @returns The tensors, owned by the caller; see {@link freeGroup}.
 */
export async function uploadGroup(
	gpu: Gpu,
	hosts: readonly BillmSource[],
): Promise<BillmGroupTensors> {
	const [first] = hosts;
	const { cols, blockSize, zones, planes } = first;
	const units = unitsOf(first);
	const starts: number[] = [];
	let rows = 0;
	for (const host of hosts) {
		starts.push(Math.ceil(rows / PART_ROWS) * PART_ROWS);
		rows = starts.at(-1)! + host.rows;
	}
	const tiles = Math.ceil(rows / TILE_ROWS);
	const unitStride = Math.ceil(units / PART_UNITS) * PART_UNITS;
	const [, blocks, words] = scaleShape(first);
	const scaleTile = blocks * words * TILE_ROWS;

	const scales = new Uint32Array(tiles * scaleTile);
	const factors = first.codes && new Float32Array(tiles * TILE_ROWS * 2);
	const salient = new Uint32Array(hosts.length * unitStride * 4);
	const order = new Uint32Array(hosts.length * units * UNIT_COLS);
	const places = new Uint8Array(hosts.length * units * UNIT_COLS);
	for (const [i, host] of hosts.entries()) {
		const tile = starts[i] / TILE_ROWS;
		scales.set(arrangedScales(host), tile * scaleTile);
		factors?.set(paddedFactors(host), tile * TILE_ROWS * 2);
		const columnsOfHost = columnOrder(host);
		salient.set(columnsOfHost.salient, i * unitStride * 4);
		order.set(columnsOfHost.order, i * units * UNIT_COLS);
		places.set(placesOf(columnsOfHost.order), i * units * UNIT_COLS);
	}
	const group = {
		...{ rows, cols, blockSize, zones, planes, starts },
		bits: gpu.empty([tiles, units, bitPlanes(first), TILE_ROWS, 4], "u32"),
		scales: gpu.upload(scales, [tiles, blocks, words, TILE_ROWS]),
		factors: factors && gpu.upload(factors, [tiles * TILE_ROWS, 2]),
		salient: gpu.upload(salient, [hosts.length, unitStride, 4]),
		order: gpu.upload(order, [hosts.length, units, UNIT_COLS]),
		places: gpu.upload(new Uint32Array(places.buffer), [hosts.length, units, UNIT_COLS / 4]),
	};
	const weights = hosts.map((host, i): BillmTensors => {
		const [tile, count] = [starts[i] / TILE_ROWS, tilesOf(host)];
		const part = (tensor: Tensor) => {
			const [all, ...rest] = tensor.shape;
			return tensor.view(tile * tensor.size / all, [count, ...rest]);
		};
		return {
			...{ rows: host.rows, cols, blockSize, zones, planes },
			bits: part(group.bits),
			scales: part(group.scales),
			factors: group.factors?.view(2 * tile * TILE_ROWS, [count * TILE_ROWS, 2]),
			salient: group.salient.view(i * unitStride * 4, [units, 4]),
			order: group.order.view(i * units * UNIT_COLS, [units, UNIT_COLS]),
		};
	});
	for (const [i, host] of hosts.entries()) await uploadBits(gpu, host, weights[i]);
	return { ...group, weights };
}

/** The places of all columns, see {@link BillmGroupTensors.places}. */
function placesOf(order: Uint32Array): Uint8Array {
	const places = new Uint8Array(order.length);
	for (const [position, marked] of order.entries()) {
		const column = marked % SALIENT;
		const inUnit = column % UNIT_COLS;
		places[column - inUnit + 4 * (inUnit % 32) + (inUnit >> 5)] = position % UNIT_COLS |
			(marked === column ? 0 : SALIENT_PLACE);
	}
	return places;
}

/** Frees the tensors of a group. */
export function freeGroup(gpu: Gpu, group: BillmGroupTensors): void {
	const { bits, scales, factors, salient, order, places } = group;
	gpu.free(bits, scales, salient, order, places, ...(factors ? [factors] : []));
}
