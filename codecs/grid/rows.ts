import { bitCount, bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import {
	canGroupRows,
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
import { codeWords, type GridLayout, groupsOf } from "./grid.ts";
import { GRID_CHUNK, gridRowCode, type GridWork } from "./row_code.ts";
import type { GridHost } from "./store.ts";
import { gridUnpacking } from "./unpack_source.ts";

/** Rows from which a workgroup takes two bands of them: there are enough workgroups, which each read x. */
const MANY_ROWS = 3584;

/** How products with a vector divide their work on an adapter, for so many rows. */
export function gridWork({ software }: Pick<Gpu, "software">, rows: number): GridWork {
	return {
		rows: software ? 4 : 8,
		bands: !software && rows >= MANY_ROWS ? 2 : 1,
		threads: 256,
	};
}

/**
 * The tensors of grid layers in the layout of their products: one layer, or a group of layers whose rows
 * follow each other.
 */
class GridRows implements PackedRows {
	readonly rows: number;
	readonly cols: number;
	readonly tensors: readonly Tensor[];
	readonly constants: Readonly<Record<string, number>>;

	constructor(
		readonly layout: GridLayout,
		readonly starts: readonly number[],
		readonly parts: {
			/** u32 `[rows, ⌈cols / 32⌉ · bits]`, as in the file. */
			codes: Tensor;
			/**
			 * Scale and zero or mean as two f16 in a word, u32 `[rows, groups]`; with salient weights the
			 * last one is theirs.
			 */
			fits: Tensor;
			/**
			 * The bit mask of salient weights and the place of the first of their codes, u32
			 * `[rows, ⌈cols / 32⌉ · 2]`.
			 */
			marks?: Tensor;
			/** The codes of salient weights row by row, bytes in u32 words. */
			salientCodes?: Tensor;
		},
		readonly order?: Tensor,
		/** How products with a vector divide their work, as far as that is not left to the class. */
		readonly work: Partial<GridWork> = {},
	) {
		const { rows, cols } = layout;
		const { codes, fits, marks, salientCodes } = parts;
		[this.rows, this.cols] = [rows, cols];
		this.tensors = [codes, fits, ...(marks ? [marks, salientCodes!] : [])];
		this.constants = { FITS: fits.shape[1], FIT_CHUNKS: fitChunks(layout) };
	}

	/** Layer `i` of a group, as views of its tensors. */
	layer({ rows }: GridLayout, i: number): GridRows {
		const { layout, starts, parts: { codes, fits, marks, salientCodes }, order } = this;
		const views = {
			codes: partOf(codes, starts[i], rows),
			fits: partOf(fits, starts[i], rows),
			marks: marks && partOf(marks, starts[i], rows),
			salientCodes: salientCodes?.view(0, salientCodes.shape),
		};
		return new GridRows({ ...layout, rows }, [0], views, orderOf(order, i), this.work);
	}

	code(gpu: Gpu, rows: number): RowCode {
		const { bits, salient, grid } = this.layout;
		const work: GridWork = { ...gridWork(gpu, rows), ...this.work };
		return gridRowCode({ bits, salient, centered: grid !== "range" }, work);
	}

	unpack(gpu: Gpu, first: number, rows: number, out?: Tensor): Promise<Tensor> {
		const { layout, cols, tensors, order, constants } = this;
		const { bits, salient, grid } = layout;
		const code = gridUnpacking({ bits, salient, centered: grid !== "range" });
		return decodeRows(gpu, { first, rows, cols, code, tensors, order, constants, out });
	}
}

/** Chunks of a scale group. */
function fitChunks({ cols, groupSize }: GridLayout): number {
	return Math.ceil(Math.min(groupSize, cols) / GRID_CHUNK);
}

/** Uploads a grid layer for products with its codes. */
export function uploadGrid(gpu: Gpu, host: GridHost): PackedRowsWeight {
	return new PackedRowsWeight(gpu, uploadRows(gpu, [host]));
}

/**
 * Uploads grid layers as a group; undefined if their layouts differ.
 *
 * @param work How products with a vector divide their work, for measurements; as suits the adapter if
 *   absent.
 */
export function uploadGridGroup(
	gpu: Gpu,
	hosts: readonly GridHost[],
	work?: Partial<GridWork>,
): PackedRowsGroup | undefined {
	const [{ cols, bits, salient }] = hosts;
	const isGroup = canGroupRows(gpu, hosts, kindOf, bitWords(cols) * (salient ? 8 : bits));
	if (!isGroup) return undefined;
	const group = uploadRows(gpu, hosts, work);
	return new PackedRowsGroup(gpu, group, hosts.map((host, i) => group.layer(host, i)));
}

/** What grid layers have in common in a group or stack. */
function kindOf({ cols, groupSize, grid, bits, salient, order }: GridHost) {
	return [cols, groupSize, grid, bits, salient, order !== undefined];
}

/** {@link kindOf} as a word. */
export function gridKind(host: GridHost): string {
	return kindOf(host).join(" ");
}

/** Uploads grid layers of experts, of one {@link gridKind} and shape. */
export function uploadGridStack(gpu: Gpu, hosts: readonly GridHost[]): PackedRowsStack {
	const all = uploadRows(gpu, hosts);
	return new PackedRowsStack(gpu, hosts[0].rows, all, hosts.map((host, i) => all.layer(host, i)));
}

/** Uploads layers of one layout, whose tensors the caller owns. */
function uploadRows(
	gpu: Gpu,
	hosts: readonly GridHost[],
	work?: Partial<GridWork>,
): GridRows {
	const [first] = hosts;
	const { cols, bits, salient } = first;
	const places = placeLayers(hosts);
	const { starts, rows } = places;
	const parts = {
		codes: uploadParts(gpu, places, hosts.map(ordinaryCodes), bitWords(cols) * bits),
		fits: uploadParts(gpu, places, hosts.map(packedFits), groupsOf(first) + Number(salient)),
		...(salient && uploadSalient(gpu, places, hosts)),
	};
	const order = uploadOrders(gpu, hosts.map((host) => host.order));
	return new GridRows({ ...first, rows }, starts, parts, order, work);
}

/** The codes without those of salient weights. */
function ordinaryCodes(host: GridHost): Uint32Array<ArrayBuffer> {
	if (!host.salient) return host.codes;
	const { rows, cols, bits } = host;
	const stride = codeWords(host);
	const count = rows * bitWords(cols);
	const codes = new Uint32Array(count * bits);
	for (let i = 0; i < count; i++) {
		codes.set(host.codes.subarray(i * stride, i * stride + bits), i * bits);
	}
	return codes;
}

/** The scales of each row, see {@link GridRows}. */
function packedFits(host: GridHost): Uint32Array<ArrayBuffer> {
	const { rows, fits, salientFits } = host;
	const groups = groupsOf(host);
	if (!salientFits) return new Uint32Array(new Float16Array(fits).buffer);
	const all = new Float16Array(rows * (groups + 1) * 2);
	for (let row = 0; row < rows; row++) {
		const at = row * (groups + 1) * 2;
		all.set(fits.subarray(row * groups * 2, (row + 1) * groups * 2), at);
		all.set(salientFits.subarray(row * 2, row * 2 + 2), at + 2 * groups);
	}
	return new Uint32Array(all.buffer);
}

function uploadSalient(
	gpu: Gpu,
	places: { starts: readonly number[]; rows: number },
	hosts: readonly GridHost[],
): { marks: Tensor; salientCodes: Tensor } {
	let count = 0;
	for (const { mask } of hosts) for (const bits of mask!) count += bitCount(bits);
	const all = new Uint8Array(Math.max(4, Math.ceil(count / 4) * 4));
	let at = 0;
	const marks = hosts.map((host) => {
		const { mask, codes, bits } = host;
		const stride = codeWords(host);
		const marks = new Uint32Array(2 * mask!.length);
		const bytes = new Uint8Array(codes.buffer, codes.byteOffset, codes.byteLength);
		for (let i = 0; i < mask!.length; i++) {
			marks[2 * i] = mask![i];
			marks[2 * i + 1] = at;
			for (let rest = mask![i]; rest !== 0; rest &= rest - 1) {
				const col = 31 - Math.clz32(rest & -rest);
				all[at++] = bytes[4 * (i * stride + bits) + col]; // little-endian, as WebGPU is
			}
		}
		return marks;
	});
	return {
		marks: uploadParts(gpu, places, marks, 2 * bitWords(hosts[0].cols)),
		salientCodes: gpu.upload(new Uint32Array(all.buffer), [all.length / 4]),
	};
}
