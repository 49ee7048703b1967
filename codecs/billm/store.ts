import { bitWords } from "../../base/bits.ts";
import { shapeText } from "../../gpu/tensor.ts";
import type { Checkpoint } from "../../storage/checkpoint.ts";
import { type StoredDtype, type TensorToWrite, toFloat32 } from "../../storage/safetensors.ts";
import type { PackedShape, StoreForm } from "../codec.ts";
import { decodeFlags, encodeFlags } from "../flag_codes.ts";
import { partBytes, PartReader } from "../part_reader.ts";
import { type BillmCodes, type BillmHost, salientColumns } from "./host.ts";
import { type BillmLayout, bitPlanes, scalesPerBlock } from "./quantize_block.ts";

/** The greatest number of bit planes of salient columns. */
const MAX_PLANES = 4;

/**
 * The first bit plane that is stored compactly, for the salient columns only. In the plain form the
 * second sign of a salient weight is stored in place of its flag.
 */
function firstCompactPlane({ zones }: BillmLayout, flags: StoreForm["flags"]): number {
	return flags === "entropy" ? 1 : zones;
}

/** The number of bit planes that are stored compactly. */
function compactPlanes(layout: BillmLayout, flags: StoreForm["flags"]): number {
	const planes = flags === "entropy" ? layout.planes : bitPlanes(layout);
	return Math.max(0, planes - firstCompactPlane(layout, flags));
}

/** The bit mask of the salient columns; all zeros if there are no planes for them. */
function marksOf({ cols, planes, salient }: BillmHost): Uint32Array {
	return planes > 0 ? salient : new Uint32Array(bitWords(cols));
}

/**
 * The tensors that store a BiLLM layer: NAME.signs and so on.
 *
 * @param form The storage form; `flags` has no effect with a single zone.
 */
export function storeBillm(
	name: string,
	host: BillmHost,
	form: Pick<StoreForm, "flags">,
): TensorToWrite[] {
	const flags = host.zones === 2 ? form.flags : "plain";
	const { rows, cols, blockSize, zones, planes, bits } = host;
	const width = bitWords(cols);
	const plane = (k: number) => bits.subarray(k * rows * width, (k + 1) * rows * width);
	const columns = salientColumns(host);
	const tensors: TensorToWrite[] = [];
	const add = (part: string, dtype: StoredDtype, shape: number[], data: Uint8Array) =>
		tensors.push({ name: `${name}.${part}`, dtype, shape, data });
	add("signs", "U32", [rows, width], partBytes(plane(0)));
	if (flags === "entropy") {
		const codes = encodeFlags({ rows, cols, plane: plane(1), salient: marksOf(host) });
		add("flags", "U16", [codes.length], partBytes(codes));
	} else if (zones === 2) {
		add("flags", "U32", [rows, width], partBytes(plane(1)));
	}
	if (planes > 0) add("salient_columns", "U32", [width], partBytes(host.salient));
	const compact = compactPlanes(host, flags);
	if (compact > 0 && columns.length > 0) {
		const planeWords = bitWords(rows * columns.length);
		const packed = new Uint32Array(compact * planeWords);
		for (let k = 0; k < compact; k++) {
			const source = plane(firstCompactPlane(host, flags) + k);
			const target = packed.subarray(k * planeWords, (k + 1) * planeWords);
			for (let row = 0, at = 0; row < rows; row++) {
				for (const col of columns) {
					const bit = (source[row * width + (col >> 5)] >>> (col & 31)) & 1;
					target[at >> 5] |= bit << (at & 31);
					at++;
				}
			}
		}
		add("salient_signs", "U32", [compact, planeWords], partBytes(packed));
	}
	const shape = [rows, Math.ceil(cols / blockSize), scalesPerBlock(host)];
	if (host.codes) {
		if (host.codes.bits === 4) {
			add("scales", "U8", nibbleShape(host), toNibbles(host, host.codes.values));
		} else {
			add("scales", "I8", shape, partBytes(host.codes.values));
		}
		add("scale_factors", "F16", [rows, 2], partBytes(Float16Array.from(host.codes.factors)));
	} else {
		add("scales", "F16", shape, partBytes(Float16Array.from(host.scales)));
	}
	return tensors;
}

/**
 * Loads a BiLLM layer.
 *
 * @throws {UserError} If a tensor is missing, has an unexpected dtype, or its shape does not match the
 *   others.
 */
export function loadBillm(
	checkpoint: Checkpoint,
	name: string,
	{ cols, blockSize }: PackedShape,
): BillmHost {
	const reader = new PartReader(checkpoint, name);
	const read = reader.read.bind(reader);
	const [rows] = reader.get("signs").shape;
	const width = bitWords(cols);
	const blocks = Math.ceil(cols / blockSize);
	const zones = reader.has("flags") ? 2 : 1;
	const storedScales = reader.get("scales");
	const isNibbles = storedScales.dtype === "U8";
	const perBlock = storedScales.shape[isNibbles ? 0 : 2];
	// Two per zone and, with salient columns, a mean and one scale per plane.
	const planes = perBlock === 2 * zones ? 0 : perBlock - 2 * zones - 1;
	if (!(perBlock === 2 * zones || planes >= 1 && planes <= MAX_PLANES)) {
		const [least, most] = [2 * zones + 2, 2 * zones + 1 + MAX_PLANES];
		reader.refuse(
			"scales",
			shapeText(storedScales.shape),
			(isNibbles ? `[N, ${rows}, ${Math.ceil(blocks / 2)}]` : `[${rows}, ${blocks}, N]`) +
				` with N = ${2 * zones} or ${least} .. ${most}`,
		);
	}
	const layout: BillmLayout = { rows, cols, blockSize, zones, planes };
	const bits = new Uint32Array(bitPlanes(layout) * rows * width);
	const plane = (k: number) => bits.subarray(k * rows * width, (k + 1) * rows * width);
	plane(0).set(new Uint32Array(read("signs", "U32", [rows, width]).buffer));
	const flags = zones === 2 && reader.get("flags").dtype === "U16" ? "entropy" : "plain";
	if (zones === 2 && flags === "plain") {
		plane(1).set(new Uint32Array(read("flags", "U32", [rows, width]).buffer));
	}
	const shape = [rows, blocks, perBlock];
	let scales: Float32Array<ArrayBuffer>;
	let codes: BillmCodes | undefined;
	if (reader.has("scale_factors")) {
		const values = isNibbles
			? fromNibbles(layout, read("scales", "U8", nibbleShape(layout)))
			: new Int8Array(read("scales", "I8", shape).buffer);
		const factors = toFloat32(read("scale_factors", "F16", [rows, 2]), "F16");
		codes = { values, factors, ...(isNibbles && { bits: 4 }) };
		scales = decodeScales(layout, codes);
	} else {
		scales = toFloat32(read("scales", "F16", shape), "F16");
	}
	const salient = new Uint32Array(width);
	if (planes > 0) salient.set(new Uint32Array(read("salient_columns", "U32", [width]).buffer));
	const host: BillmHost = { ...layout, bits, scales, salient, ...(codes && { codes }) };
	if (flags === "entropy") {
		const codes = new Uint16Array(read("flags", "U16", [reader.get("flags").bytes / 2]).buffer);
		if (!decodeFlags(codes, { rows, cols, plane: plane(1), salient: marksOf(host) })) {
			reader.refuse("flags", "no entropy code of flags", `one of ${rows} x ${cols}`);
		}
	}
	const compact = compactPlanes(layout, flags);
	const columns = salientColumns(host);
	if (compact > 0 && columns.length > 0) {
		// In version 1 each row begins at a word boundary.
		const isOfWords = reader.get("salient_signs").shape.length === 3;
		const rowWords = bitWords(columns.length);
		const rowBits = isOfWords ? 32 * rowWords : columns.length;
		const planeWords = bitWords(rows * rowBits);
		const shape = isOfWords ? [compact, rows, rowWords] : [compact, planeWords];
		const packed = new Uint32Array(read("salient_signs", "U32", shape).buffer);
		for (let k = 0; k < compact; k++) {
			const source = packed.subarray(k * planeWords, (k + 1) * planeWords);
			const target = plane(firstCompactPlane(layout, flags) + k);
			for (let row = 0; row < rows; row++) {
				columns.forEach((col, i) => {
					const at = row * rowBits + i;
					target[row * width + (col >> 5)] |= ((source[at >> 5] >>> (at & 31)) & 1) << (col & 31);
				});
			}
		}
	}
	return host;
}

/** The kind of each number of a row and block: mean (0) or scale (1). */
function kindsOf(layout: BillmLayout): number[] {
	return Array.from(
		{ length: scalesPerBlock(layout) },
		(_, i) => i < 2 * layout.zones ? i % 2 : Number(i > 2 * layout.zones),
	);
}

/**
 * The shape of 4-bit codes: one plane per number of a block; a byte holds two adjacent blocks of a
 * row.
 */
function nibbleShape(layout: BillmLayout): [numbers: number, rows: number, bytes: number] {
	const blocks = Math.ceil(layout.cols / layout.blockSize);
	return [scalesPerBlock(layout), layout.rows, Math.ceil(blocks / 2)];
}

/** Visits the byte, shift and offset of each 4-bit code; the offset is 8 for means, 0 for scales. */
function visitNibbles(
	layout: BillmLayout,
	visit: (code: number, at: number, shift: number, plus: number) => void,
): void {
	const [perBlock, rows, rowBytes] = nibbleShape(layout);
	const blocks = Math.ceil(layout.cols / layout.blockSize);
	const plus = kindsOf(layout).map((kind) => kind === 0 ? 8 : 0);
	for (let row = 0, code = 0; row < rows; row++) {
		for (let block = 0; block < blocks; block++) {
			for (let i = 0; i < perBlock; i++, code++) {
				const at = (i * rows + row) * rowBytes + (block >> 1);
				visit(code, at, 4 * (block & 1), plus[i]);
			}
		}
	}
}

function toNibbles(layout: BillmLayout, codes: Int8Array): Uint8Array {
	const bytes = new Uint8Array(nibbleShape(layout).reduce((product, size) => product * size));
	visitNibbles(layout, (i, at, shift, plus) => bytes[at] |= (codes[i] + plus) << shift);
	return bytes;
}

function fromNibbles(layout: BillmLayout, bytes: Uint8Array): Int8Array<ArrayBuffer> {
	const blocks = Math.ceil(layout.cols / layout.blockSize);
	const codes = new Int8Array(layout.rows * blocks * scalesPerBlock(layout));
	visitNibbles(layout, (i, at, shift, plus) => codes[i] = ((bytes[at] >> shift) & 15) - plus);
	return codes;
}

/** The decoded scales, f32 `[rows, blocks, scalesPerBlock]`. */
function decodeScales(
	layout: BillmLayout,
	{ values, factors }: BillmCodes,
): Float32Array<ArrayBuffer> {
	const perBlock = scalesPerBlock(layout);
	const perRow = values.length / layout.rows;
	const kinds = kindsOf(layout);
	const scales = new Float32Array(values.length);
	for (let i = 0; i < values.length; i++) {
		scales[i] = values[i] * factors[2 * Math.floor(i / perRow) + kinds[i % perBlock]];
	}
	return scales;
}
