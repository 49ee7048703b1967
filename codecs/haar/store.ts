import { bitWords } from "../../base/bits.ts";
import { shapeText } from "../../gpu/tensor.ts";
import type { Checkpoint } from "../../storage/checkpoint.ts";
import { type StoredDtype, type TensorToWrite, toFloat32 } from "../../storage/safetensors.ts";
import type { PackedShape } from "../codec.ts";
import { partBytes, PartReader } from "../part_reader.ts";
import { gatherBits, markedColumns, planeOf, scatterBits, setPlane } from "../salient_planes.ts";
import { type HaarHost, planesOf, salientOf } from "./host.ts";
import { type HaarAxis, type HaarLayout, haarPlanes, haarScales } from "./layout.ts";

const AXES: HaarAxis[] = ["row", "column"];

/** The tensors that store a linear layer: NAME.haar_signs and so on. */
export function storeHaar(name: string, host: HaarHost): TensorToWrite[] {
	const { rows, cols, blockSize, axis, scales, mask } = host;
	const planes = planesOf(host);
	const { words } = planes;
	const salient = salientOf(host);
	const tensors: TensorToWrite[] = [];
	const add = (part: string, dtype: StoredDtype, shape: number[], data: Uint8Array) =>
		tensors.push({ name: `${name}.haar_${part}`, dtype, shape, data });
	add("signs", "U32", [rows, words], partBytes(planeOf(planes, 0)));
	add("flags", "U32", [rows, words], partBytes(planeOf(planes, 1)));
	add("salient_columns", "U32", [words], partBytes(mask));
	if (axis === "row" && salient.length > 0) {
		for (const [i, part] of ["salient_signs", "salient_flags"].entries()) {
			const bits = gatherBits(planes, 2 + i, salient);
			add(part, "U32", [bits.length], partBytes(bits));
		}
	}
	const shape = [rows, Math.ceil(cols / blockSize), haarScales(host)];
	add("scales", "F16", shape, partBytes(Float16Array.from(scales)));
	return tensors;
}

/** The bytes that {@link storeHaar} takes for a linear layer with so many salient columns. */
export function haarBytes(layout: HaarLayout, salient: number): number {
	const { rows, cols, blockSize, axis } = layout;
	const words = bitWords(cols);
	const more = axis === "row" ? 2 * bitWords(rows * salient) : 0;
	const scales = 2 * rows * Math.ceil(cols / blockSize) * haarScales(layout);
	return 4 * (2 * rows * words + words + more) + scales;
}

/**
 * Loads a linear layer of the codec haar.
 *
 * @throws {UserError} If a tensor is missing, has an unexpected dtype, its shape does not match the
 *   others, or rows or columns are odd.
 */
export function loadHaar(
	checkpoint: Checkpoint,
	name: string,
	{ cols, blockSize }: PackedShape,
): HaarHost {
	const reader = new PartReader(checkpoint, name, "haar_");
	const signs = reader.get("signs");
	const [rows] = signs.shape;
	if (rows % 2 || cols % 2) {
		reader.refuse("signs", `of ${rows} x ${cols} weights`, "even numbers of rows and columns");
	}
	const words = bitWords(cols);
	const blocks = Math.ceil(cols / blockSize);
	const stored = reader.get("scales").shape;
	const axis = AXES.find((axis) =>
		shapeText(stored) === shapeText([rows, blocks, haarScales({ axis })])
	);
	if (!axis) {
		return reader.refuse("scales", shapeText(stored), `[${rows}, ${blocks}, 7 or 10]`);
	}
	const bits = (part: string, shape: number[]) =>
		new Uint32Array(reader.read(part, "U32", shape).buffer);
	const mask = bits("salient_columns", [words]);
	const salient = markedColumns(mask, cols);
	const codes = new Uint32Array(rows * words * haarPlanes({ axis }));
	const scales = toFloat32(reader.read("scales", "F16", stored), "F16");
	const host: HaarHost = { rows, cols, blockSize, axis, codes, scales, mask };
	const planes = planesOf(host);
	setPlane(planes, 0, bits("signs", [rows, words]));
	setPlane(planes, 1, bits("flags", [rows, words]));
	if (axis === "row" && salient.length > 0) {
		for (const [i, part] of ["salient_signs", "salient_flags"].entries()) {
			scatterBits(planes, 2 + i, salient, bits(part, [bitWords(rows * salient.length)]));
		}
	}
	return host;
}
