import { bitWords } from "../../base/bits.ts";
import { shapeText } from "../../gpu/tensor.ts";
import type { Checkpoint } from "../../storage/checkpoint.ts";
import { type StoredDtype, type TensorToWrite, toFloat32 } from "../../storage/safetensors.ts";
import type { PackedShape } from "../codec.ts";
import { partBytes, PartReader } from "../part_reader.ts";
import { gatherBits, markedColumns, planeOf, scatterBits, setPlane } from "../salient_planes.ts";
import { type ArbHost, planesOf, salientOf } from "./host.ts";
import { type ArbLayout, arbPlanes, arbScales } from "./layout.ts";

const FORMS = [true, false].flatMap((columnScales) =>
	[true, false].map((bitmap) => ({ columnScales, bitmap }))
);

/** The tensors that store a linear layer: NAME.arb_signs and so on. */
export function storeArb(name: string, host: ArbHost): TensorToWrite[] {
	const { rows, cols, blockSize, columnScales, bitmap, scales, columns, mask } = host;
	const planes = planesOf(host);
	const { words } = planes;
	const salient = salientOf(host);
	const tensors: TensorToWrite[] = [];
	const add = (part: string, dtype: StoredDtype, shape: number[], data: Uint8Array) =>
		tensors.push({ name: `${name}.arb_${part}`, dtype, shape, data });
	const halves = (values: Float32Array) => partBytes(Float16Array.from(values));
	add("signs", "U32", [rows, words], partBytes(planeOf(planes, 0)));
	add("flags", "U32", [rows, words], partBytes(planeOf(planes, 1)));
	add("salient_columns", "U32", [words], partBytes(mask));
	if (bitmap && salient.length > 0) {
		const bits = gatherBits(planes, 2, salient);
		add("salient_signs", "U32", [bits.length], partBytes(bits));
	}
	const blocks = Math.ceil(cols / blockSize);
	add("scales", "F16", [rows, blocks, arbScales(host)], halves(scales));
	if (columnScales) {
		const of = (col: number, first: number) =>
			columns.subarray(4 * col + first, 4 * col + first + 2);
		const all = Array.from({ length: cols }, (_, col) => [...of(col, 0)]).flat();
		add("column_scales", "F16", [cols, 2], halves(Float32Array.from(all)));
		if (bitmap && salient.length > 0) {
			const more = salient.flatMap((col) => [...of(col, 2)]);
			add("salient_column_scales", "F16", [salient.length, 2], halves(Float32Array.from(more)));
		}
	}
	return tensors;
}

/** The bytes that {@link storeArb} takes for a linear layer with so many salient columns. */
export function arbBytes(layout: ArbLayout, salient: number): number {
	const { rows, cols, blockSize, columnScales, bitmap } = layout;
	const words = bitWords(cols);
	const bits = 4 * (2 * rows * words + words + (bitmap ? bitWords(rows * salient) : 0));
	const rowScales = 2 * rows * Math.ceil(cols / blockSize) * arbScales(layout);
	return bits + rowScales + (columnScales ? 4 * cols + (bitmap ? 4 * salient : 0) : 0);
}

/**
 * Loads a linear layer of the codec arb.
 *
 * @throws {UserError} If a tensor is missing, has an unexpected dtype, or its shape does not match the
 *   others.
 */
export function loadArb(
	checkpoint: Checkpoint,
	name: string,
	{ cols, blockSize }: PackedShape,
): ArbHost {
	const reader = new PartReader(checkpoint, name, "arb_");
	const [rows] = reader.get("signs").shape;
	const words = bitWords(cols);
	const blocks = Math.ceil(cols / blockSize);
	const stored = reader.get("scales").shape;
	const form = FORMS.find((form) =>
		shapeText(stored) === shapeText([rows, blocks, arbScales(form)])
	);
	if (!form) {
		const wanted = `[${rows}, ${blocks}, N] with N = ${FORMS.map(arbScales).sort().join(", ")}`;
		return reader.refuse("scales", shapeText(stored), wanted);
	}
	const floats = (part: string, shape: number[]) =>
		toFloat32(reader.read(part, "F16", shape), "F16");
	const bits = (part: string, shape: number[]) =>
		new Uint32Array(reader.read(part, "U32", shape).buffer);
	const mask = bits("salient_columns", [words]);
	const salient = markedColumns(mask, cols);
	const codes = new Uint32Array(rows * words * arbPlanes(form));
	const scales = floats("scales", stored);
	const columns = new Float32Array(form.columnScales ? 4 * cols : 0);
	const host: ArbHost = { rows, cols, blockSize, ...form, codes, scales, columns, mask };
	const planes = planesOf(host);
	setPlane(planes, 0, bits("signs", [rows, words]));
	setPlane(planes, 1, bits("flags", [rows, words]));
	const hasMore = form.bitmap && salient.length > 0;
	if (hasMore) {
		const seconds = bits("salient_signs", [bitWords(rows * salient.length)]);
		scatterBits(planes, 2, salient, seconds);
	}
	if (form.columnScales) {
		const all = floats("column_scales", [cols, 2]);
		all.forEach((value, i) => columns[4 * (i >> 1) + (i & 1)] = value);
		if (hasMore) {
			const more = floats("salient_column_scales", [salient.length, 2]);
			more.forEach((value, i) => columns[4 * salient[i >> 1] + 2 + (i & 1)] = value);
		}
	}
	return host;
}
