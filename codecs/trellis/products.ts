import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import {
	canGroupRows,
	MOST_PART_ROWS,
	orderOf,
	type PackedRows,
	PackedRowsGroup,
	PackedRowsWeight,
	partOf,
	placeLayers,
	uploadOrders,
	uploadParts,
} from "../packed_rows/packed_rows.ts";
import { PackedRowsStack } from "../packed_rows/stack.ts";
import { decodeRows } from "../packed_rows/unpack.ts";
import type { RowCode } from "../packed_rows/vector_source.ts";
import arrange from "./arrange_trellis.wgsl" with { type: "text" };
import {
	partsOf,
	tableFormsOf,
	trellisRowCode,
	type TrellisVectorForm,
	WHOLE_TILES,
} from "./row_code.ts";
import type { TrellisHost } from "./store.ts";
import { tableOnGpu } from "./tables.ts";
import { stepsOf, TILE, tilesOf, type Trellis, type TrellisLayout } from "./trellis.ts";
import { trellisUnpacking } from "./unpack_source.ts";

/** The least workgroup memory that holds a table beside x: a usual one, and one of pairs. */
const TABLE_MEMORY = 32768;
const PAIRS_MEMORY = 49152;

/**
 * Rows of tiles from which a workgroup takes two, and four: there are nearly as many workgroups as
 * multiprocessors, and twice as many. Four only if a thread has a quarter of a tile, as the 1024 threads
 * then have 64 registers each.
 */
const MANY_BANDS = 224;
const MOST_BANDS = 1024;
/** Threads of a workgroup for each row of tiles. */
const BAND_THREADS = 256;
/** Rows of a stack that count in the choice of a form for each row of an expert. */
const STACK_ROWS = 4;
/** Turns of a thread, so that a panel of x and the table are within 48 KB. */
const MOST_TURNS = 4;

/**
 * The form of products with a vector: of as many parts as the words of a tile permit, on GPUs.
 *
 * @param rows Of the product.
 */
export function vectorForm(
	gpu: Pick<Gpu, "software" | "device">,
	trellis: Trellis,
	rows: number,
): TrellisVectorForm {
	const { maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupStorageSize } = gpu.device.limits;
	const entries = maxComputeWorkgroupStorageSize >= TABLE_MEMORY ? "entries" : "stored";
	if (gpu.software) return { ...WHOLE_TILES, table: entries };
	const tiles = rows / TILE;
	const parts = partsOf(trellis);
	const wanted = tiles < MANY_BANDS ? 1 : tiles >= MOST_BANDS && parts === 4 ? 4 : 2;
	const most = Math.floor(maxComputeInvocationsPerWorkgroup / BAND_THREADS);
	const bands = Math.max(1, Math.min(wanted, most));
	const table = maxComputeWorkgroupStorageSize >= PAIRS_MEMORY
		? tableFormsOf(trellis).at(-1)!
		: entries;
	return { parts, bands, threads: bands * BAND_THREADS, turns: MOST_TURNS, table };
}

/** The tensors of trellis layers in the layout of their products: one layer, or a group. */
class TrellisRows implements PackedRows {
	readonly rows: number;
	readonly cols: number;

	constructor(
		readonly layout: TrellisLayout,
		readonly starts: readonly number[],
		/**
		 * The words of all tiles, u32 `[⌈rows / 16⌉, words / 4 · ⌈cols / 16⌉ · 4]`; the scale of each row, f32
		 * `[rows]`; the table in the form of products with a vector.
		 */
		readonly tensors: readonly [stream: Tensor, scales: Tensor, table: Tensor],
		readonly order?: Tensor,
		/** The form of products with a vector; the one that suits the adapter if absent. */
		readonly form?: TrellisVectorForm,
	) {
		[this.rows, this.cols] = [layout.rows, layout.cols];
	}

	/** Layer `i` of a group, as views of its tensors. */
	layer({ rows }: TrellisLayout, i: number): TrellisRows {
		const { layout, starts, tensors: [stream, scales, table], order } = this;
		return new TrellisRows(
			{ ...layout, rows },
			[0],
			[partOf(stream, starts[i], rows, TILE), partOf(scales, starts[i], rows), table],
			orderOf(order, i),
			this.form,
		);
	}

	code(gpu: Gpu, rows: number): RowCode {
		return trellisRowCode(this.layout, this.form ?? vectorForm(gpu, this.layout, rows));
	}

	unpack(gpu: Gpu, first: number, rows: number, out?: Tensor): Promise<Tensor> {
		const { layout, cols, tensors: [stream, scales], order } = this;
		const tensors = [stream, scales, tableOnGpu(gpu, layout)];
		return decodeRows(gpu, {
			...{ first, rows, cols, code: trellisUnpacking(layout), tensors, order, out },
		});
	}
}

/** Uploads a trellis layer for products with its stream. */
export async function uploadTrellis(gpu: Gpu, host: TrellisHost): Promise<PackedRowsWeight> {
	return new PackedRowsWeight(gpu, await uploadRows(gpu, [host]));
}

/**
 * Uploads trellis layers as a group; undefined if their layouts differ.
 *
 * @param form The form of products with a vector, for benchmarks and tests; the one that suits the adapter
 *   if absent.
 */
export async function uploadTrellisGroup(
	gpu: Gpu,
	hosts: readonly TrellisHost[],
	form?: TrellisVectorForm,
): Promise<PackedRowsGroup | undefined> {
	const [layout] = hosts;
	const words = tilesOf(layout)[1] * stepsOf(layout).words / TILE;
	if (!canGroupRows(gpu, hosts, kindOf, words)) return undefined;
	const group = await uploadRows(gpu, hosts, form);
	return new PackedRowsGroup(gpu, group, hosts.map((host, i) => group.layer(host, i)));
}

/** What trellis layers have in common in a group or stack. */
function kindOf({ cols, bits, stateBits, order }: TrellisHost) {
	return [cols, bits, stateBits, order !== undefined];
}

/** {@link kindOf} as a word. */
export function trellisKind(host: TrellisHost): string {
	return kindOf(host).join(" ");
}

/** Uploads trellis layers of experts, of one {@link trellisKind} and shape. */
export async function uploadTrellisStack(
	gpu: Gpu,
	hosts: readonly TrellisHost[],
): Promise<PackedRowsStack> {
	const [host] = hosts;
	// A token passes through several experts, so there are workgroups of several times their rows.
	const form = vectorForm(gpu, host, STACK_ROWS * host.rows);
	const all = await uploadRows(gpu, hosts, form);
	return new PackedRowsStack(gpu, host.rows, all, hosts.map((host, i) => all.layer(host, i)));
}

/** Uploads layers of one layout, whose tensors the caller owns. */
async function uploadRows(
	gpu: Gpu,
	hosts: readonly TrellisHost[],
	form?: TrellisVectorForm,
): Promise<TrellisRows> {
	const [{ cols, bits, stateBits }] = hosts;
	// Whole rows of tiles, 16 of them so that bindings of the stream are aligned.
	const { starts, rows } = placeLayers(hosts, MOST_PART_ROWS);
	const layout: TrellisLayout = { rows, cols, bits, stateBits };
	const [below, beside] = tilesOf(layout);
	const { words } = stepsOf(layout);
	const stream = gpu.empty([below, beside * words], "u32");
	const kernel = await gpu.kernel({
		name: "arrange_trellis",
		source: arrange,
		constants: { QUADS: words / 4 },
	});
	for (const [i, host] of hosts.entries()) {
		using stored = gpu.upload(host.stream, [host.stream.length]);
		kernel.dispatch({
			params: uniform([tilesOf(host)[0], beside]),
			tensors: [stored, partOf(stream, starts[i], host.rows, TILE)],
			workgroups: Math.ceil(host.stream.length / 4 / 64),
		});
	}
	const ofRows = hosts.map(({ scales }) => new Uint32Array(scales.slice().buffer));
	const scales = uploadParts(gpu, { starts, rows }, ofRows, 1);
	const order = uploadOrders(gpu, hosts.map((host) => host.order));
	const { table } = form ?? vectorForm(gpu, layout, rows);
	const tensors = [stream, scales, tableOnGpu(gpu, layout, table)] as const;
	return new TrellisRows(layout, starts, tensors, order, form);
}
