import { bitWords } from "../../base/bits.ts";
import { shapeText } from "../../gpu/tensor.ts";
import type { Checkpoint } from "../../storage/checkpoint.ts";
import { type StoredDtype, type TensorToWrite, toFloat32 } from "../../storage/safetensors.ts";
import { codeAt, putCode } from "../bit_codes.ts";
import type { PackedShape, StoreForm } from "../codec.ts";
import { decodeFlags, encodeFlags } from "../flag_codes.ts";
import { partBytes, PartReader } from "../part_reader.ts";
import {
	codeWords,
	GRID_BITS,
	type GridBits,
	type GridKind,
	type GridLayout,
	groupsOf,
	SALIENT_BITS,
	type Zeros,
	zerosOf,
} from "./grid.ts";

/** A grid layer in host memory; its arrays match those of {@link LinearGrid}. */
export interface GridHost extends GridLayout {
	/** `[rows, ⌈cols / 32⌉, codeWords]`. */
	codes: Uint32Array<ArrayBuffer>;
	/** `[rows, groups, 2]`. */
	fits: Float32Array<ArrayBuffer>;
	/** `[rows, ⌈cols / 32⌉]`; absent without salient weights. */
	mask?: Uint32Array<ArrayBuffer>;
	/** `[rows, 2]`; absent without salient weights. */
	salientFits?: Float32Array<ArrayBuffer>;
	/** `[cols]`, a permutation; absent if codes are in the order of columns. */
	order?: Uint32Array<ArrayBuffer>;
}

/** Whether the bit of a column is set in a row of mask words. */
function isMarked(mask: Uint32Array, rowStart: number, col: number): boolean {
	return ((mask[rowStart + (col >>> 5)] >>> (col & 31)) & 1) === 1;
}

/** The columns of the salient weights of each row, ascending. */
function salientPlaces({ rows, cols }: GridLayout, mask: Uint32Array): number[][] {
	const width = bitWords(cols);
	return Array.from({ length: rows }, (_, row) => {
		const places: number[] = [];
		for (let word = 0; word < width; word++) {
			for (let bits = mask[row * width + word]; bits !== 0; bits &= bits - 1) {
				places.push(32 * word + 31 - Math.clz32(bits & -bits));
			}
		}
		return places;
	});
}

/** The tensors that only layers with salient weights have. */
const SALIENT_PARTS = [
	"mask",
	"counts",
	"places",
	"salient_codes",
	"salient_scales",
	"salient_zeros",
];

/** The most columns that U16 can name. */
const MOST_PLACES = 65536;

/**
 * The tensors that store a grid layer: NAME.grid_codes and so on.
 *
 * @param form The form of the salient mask. "plain": a bit mask or a list of places, whichever is
 *   smaller; "entropy": entropy-coded.
 */
export function storeGrid(
	name: string,
	host: GridHost,
	form: Pick<StoreForm, "flags">,
): TensorToWrite[] {
	const { rows, bits, grid, zeros: kind = "any", mask, salientFits, order } = host;
	const [width, groups, stride] = [bitWords(host.cols), groupsOf(host), codeWords(host)];
	const tensors: TensorToWrite[] = [];
	const add = (
		part: string,
		dtype: StoredDtype,
		shape: number[],
		data: Uint8Array | Uint16Array | Uint32Array | Float16Array,
	) => {
		tensors.push({ name: `${name}.grid_${part}`, dtype, shape, data: partBytes(data) });
	};
	const codes = new Uint32Array(rows * width * bits);
	for (let i = 0; i < rows * width; i++) {
		codes.set(host.codes.subarray(i * stride, i * stride + bits), i * bits);
	}
	add("codes", "U32", [rows, width * bits], codes);
	const scales = Float16Array.from({ length: rows * groups }, (_, i) => host.fits[2 * i]);
	add("scales", "F16", [rows, groups], scales);
	const offsets = Float32Array.from({ length: rows * groups }, (_, i) => host.fits[2 * i + 1]);
	const addZeros = (part: string, width: number, codeOf: (zero: number) => number) => {
		const zeros = new Uint32Array(bitWords(rows * groups * width));
		offsets.forEach((zero, i) => putCode(zeros, codeOf(zero), 0, i * width, width));
		add(part, "U32", [zeros.length], zeros);
	};
	if (grid === "mean") {
		add("means", "F16", [rows, groups], Float16Array.from(offsets));
	} else if (grid === "range") {
		if (kind === "any") addZeros("zeros", bits, (zero) => zero);
		else if (kind === "middle") {
			addZeros("zero_bits", 1, (zero) => Number(zero === 2 ** (bits - 1)));
		} else if (kind === "free") {
			add("real_zeros", "F16", [rows, groups], Float16Array.from(offsets));
		} else add("zero", "F16", [1], Float16Array.from(zerosOf(kind, bits)));
	}
	if (order) {
		const isShort = host.cols <= MOST_PLACES;
		add("order", isShort ? "U16" : "U32", [host.cols], isShort ? Uint16Array.from(order) : order);
	}
	if (!mask || !salientFits) return tensors;

	const places = salientPlaces(host, mask);
	const count = places.reduce((sum, { length }) => sum + length, 0);
	if (form.flags === "entropy") {
		const codes = encodeFlags(maskPlane(host, mask));
		add("mask", "U16", [codes.length], codes);
	} else if (host.cols <= MOST_PLACES && 2 * (rows + count) < 4 * rows * width) {
		add("counts", "U16", [rows], Uint16Array.from(places, ({ length }) => length));
		add("places", "U16", [count], Uint16Array.from(places.flat()));
	} else {
		add("mask", "U32", [rows, width], mask);
	}
	const salientCodes = new Uint8Array(count);
	let at = 0;
	places.forEach((cols, row) => {
		for (const col of cols) {
			const first = (row * width + (col >>> 5)) * stride + bits;
			salientCodes[at++] = codeAt(host.codes, first, SALIENT_BITS * (col & 31), SALIENT_BITS);
		}
	});
	add("salient_codes", "U8", [count], salientCodes);
	const ofRows = Array.from({ length: rows }, (_, row) => 2 * row);
	add("salient_scales", "F16", [rows], Float16Array.from(ofRows, (i) => salientFits[i]));
	add("salient_zeros", "U8", [rows], Uint8Array.from(ofRows, (i) => salientFits[i + 1]));
	return tensors;
}

/**
 * The bytes that {@link storeGrid} takes for a layer without salient weights.
 *
 * @param isOrdered Whether the order of the columns is stored.
 */
export function gridBytes(layout: GridLayout, isOrdered: boolean): number {
	const { rows, cols, bits, grid, zeros = "any" } = layout;
	const scales = rows * groupsOf(layout);
	const ofZeros = {
		any: 4 * bitWords(scales * bits),
		middle: 4 * bitWords(scales),
		free: 2 * scales,
		symmetric: 2,
		half: 2,
	};
	const offsets = { range: ofZeros[zeros], mean: 2 * scales, sign: 0 }[grid];
	const order = isOrdered ? (cols <= MOST_PLACES ? 2 : 4) * cols : 0;
	return 4 * rows * bitWords(cols) * bits + 2 * scales + offsets + order;
}

/** A salient mask as a plane of flags for {@link encodeFlags}. */
function maskPlane({ rows, cols }: GridLayout, plane: Uint32Array) {
	return { rows, cols, plane, salient: new Uint32Array(bitWords(cols)) };
}

/**
 * Loads a grid layer.
 *
 * @throws {UserError} If a tensor is missing, has an unexpected dtype, or its shape does not match the
 *   others.
 */
export function loadGrid(
	checkpoint: Checkpoint,
	name: string,
	{ cols, blockSize }: PackedShape,
): GridHost {
	const reader = new PartReader(checkpoint, name, "grid_");
	const read = reader.read.bind(reader);
	const has = reader.has.bind(reader);
	const width = bitWords(cols);
	const [rows, codeCols = 0] = reader.get("codes").shape;
	const zeroParts = ["zeros", "zero_bits", "zero", "real_zeros"].filter(has);
	const grid: GridKind = zeroParts.length > 0 ? "range" : has("means") ? "mean" : "sign";
	const bits = codeCols / width as GridBits;
	if (zeroParts.length > 1 || zeroParts.length > 0 && has("means")) {
		const [first, second] = [...zeroParts, "means"];
		reader.refuse(first, `beside "${name}.grid_${second}"`, "one of them");
	}
	const known: readonly number[] = grid === "range" ? GRID_BITS : [1];
	if (!known.includes(bits)) {
		const wanted = `[${rows}, ${width} N] with N = ${known.join(", ")}`;
		reader.refuse("codes", shapeText(reader.get("codes").shape), wanted);
	}
	const blocks = Math.ceil(cols / blockSize);
	const groups = reader.get("scales").shape[1];
	if (groups !== 1 && groups !== blocks) {
		reader.refuse("scales", shapeText(reader.get("scales").shape), `[${rows}, 1 or ${blocks}]`);
	}
	const salient = SALIENT_PARTS.some(has); // a missing one is reported when it is read
	const groupSize = groups === 1 ? cols : blockSize;
	const zeros = readZeros();
	const layout: GridLayout = {
		rows,
		cols,
		groupSize,
		grid,
		...(zeros.kind && { zeros: zeros.kind }),
		bits,
		salient,
	};
	const order = readOrder();

	const stride = codeWords(layout);
	const ordinary = words("codes", [rows, width * bits]);
	const codes = new Uint32Array(rows * width * stride);
	for (let i = 0; i < rows * width; i++) {
		codes.set(ordinary.subarray(i * bits, (i + 1) * bits), i * stride);
	}
	const fits = new Float32Array(rows * groups * 2);
	halves("scales", [rows, groups]).forEach((scale, i) => fits[2 * i] = scale);
	zeros.values.forEach((zero, i) => fits[2 * i + 1] = zero);
	const all = { ...layout, codes, fits, ...(order && { order }) };
	if (!salient) return all;

	const mask = readMask();
	const places = salientPlaces(layout, mask);
	const count = places.reduce((sum, { length }) => sum + length, 0);
	const salientCodes = read("salient_codes", "U8", [count]);
	let at = 0;
	places.forEach((cols, row) => {
		for (const col of cols) {
			const first = (row * width + (col >>> 5)) * stride + bits;
			putCode(codes, salientCodes[at++], first, SALIENT_BITS * (col & 31), SALIENT_BITS);
		}
	});
	const salientFits = new Float32Array(2 * rows);
	halves("salient_scales", [rows]).forEach((scale, row) => salientFits[2 * row] = scale);
	read("salient_zeros", "U8", [rows]).forEach((zero, row) => salientFits[2 * row + 1] = zero);
	return { ...all, mask, salientFits };

	function words(part: string, shape: number[]): Uint32Array<ArrayBuffer> {
		return new Uint32Array(read(part, "U32", shape).buffer);
	}

	function halves(part: string, shape: number[]): Float32Array<ArrayBuffer> {
		return toFloat32(read(part, "F16", shape), "F16");
	}

	/** The zeros or means of all scale groups, and their kind unless "any". */
	function readZeros(): { kind?: Zeros; values: Float32Array } {
		const count = rows * groups;
		if (grid === "sign") return { values: new Float32Array(count) };
		if (grid === "mean") return { values: halves("means", [rows, groups]) };
		const [part] = zeroParts;
		if (part === "real_zeros") {
			const values = halves(part, [rows, groups]);
			const at = values.findIndex((zero) => !Number.isFinite(zero));
			if (at >= 0) {
				const where = `${values[at]} in row ${Math.floor(at / groups)}`;
				reader.refuse(part, where, "finite numbers");
			}
			return { kind: "free", values };
		}
		if (part === "zero") {
			const [zero] = halves(part, [1]);
			const kind = (["symmetric", "half"] as const).find((kind) => zerosOf(kind, bits)[0] === zero);
			if (!kind) {
				const wanted = [...zerosOf("half", bits), ...zerosOf("symmetric", bits)].join(" or ");
				reader.refuse(part, `${zero}`, wanted);
			}
			return { kind, values: new Float32Array(count).fill(zero) };
		}
		const size = part === "zeros" ? bits : 1;
		const codes = words(part, [bitWords(count * size)]);
		const values = Float32Array.from({ length: count }, (_, i) => codeAt(codes, 0, i * size, size));
		if (part === "zeros") return { values };
		const choice = zerosOf("middle", bits);
		return { kind: "middle", values: values.map((bit) => choice[bit]) };
	}

	/** The column of each place of the codes; undefined if they are in the order of columns. */
	function readOrder(): Uint32Array<ArrayBuffer> | undefined {
		if (!has("order")) return undefined;
		const order = cols <= MOST_PLACES
			? Uint32Array.from(new Uint16Array(read("order", "U16", [cols]).buffer))
			: words("order", [cols]);
		const seen = new Uint8Array(cols);
		order.forEach((col) => {
			if (col >= cols || seen[col]++) {
				reader.refuse("order", `a list with column ${col}`, `each of ${cols} once`);
			}
		});
		return order;
	}

	function readMask(): Uint32Array<ArrayBuffer> {
		const mask = new Uint32Array(rows * width);
		if (has("places")) {
			const counts = new Uint16Array(read("counts", "U16", [rows]).buffer);
			const count = counts.reduce((sum, n) => sum + n, 0);
			const places = new Uint16Array(read("places", "U16", [count]).buffer);
			let at = 0;
			counts.forEach((n, row) => {
				for (const end = at + n; at < end; at++) {
					const col = places[at];
					if (col >= cols || isMarked(mask, row * width, col)) {
						reader.refuse("places", `column ${col} in row ${row}`, `each of ${cols} once`);
					}
					mask[row * width + (col >>> 5)] |= 1 << (col & 31);
				}
			});
			return mask;
		}
		if (reader.get("mask").dtype !== "U16") return words("mask", [rows, width]);
		const codes = new Uint16Array(read("mask", "U16", [reader.get("mask").bytes / 2]).buffer);
		if (!decodeFlags(codes, maskPlane(layout, mask))) {
			reader.refuse("mask", "no entropy code of flags", `one of ${rows} x ${cols}`);
		}
		return mask;
	}
}

/**
 * The dequantized weights of a grid layer, or `rows` rows of them from row `first`, f32 `[rows, cols]`;
 * bit-identical to `dequantizeGrid()` on the GPU.
 */
export function dequantizeGridHost(
	host: GridHost,
	first = 0,
	rows = host.rows - first,
): Float32Array<ArrayBuffer> {
	const { cols, bits, groupSize, grid, codes, fits, mask, salientFits, order } = host;
	const [width, groups, stride] = [bitWords(host.cols), groupsOf(host), codeWords(host)];
	const weight = new Float32Array(rows * cols);
	for (let i = 0; i < rows; i++) {
		const row = first + i;
		for (let col = 0; col < cols; col++) {
			const word = (row * width + (col >>> 5)) * stride;
			let value: number;
			if (mask && isMarked(mask, row * width, col)) {
				const code = codeAt(codes, word + bits, SALIENT_BITS * (col & 31), SALIENT_BITS);
				value = salientFits![2 * row] * (code - salientFits![2 * row + 1]);
			} else {
				const code = codeAt(codes, word, bits * (col & 31), bits);
				const fit = 2 * (row * groups + Math.floor(col / groupSize));
				const [scale, offset] = [fits[fit], fits[fit + 1]];
				value = grid === "range"
					? scale * Math.fround(code - offset)
					: offset + (code === 1 ? scale : -scale);
			}
			weight[i * cols + (order ? order[col] : col)] = value;
		}
	}
	return weight;
}
