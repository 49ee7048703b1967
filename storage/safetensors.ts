import { UserError } from "../base/errors.ts";
import { isRecord } from "../base/record.ts";
import { bytesText } from "../base/units.ts";
import { crc32 } from "./crc32.ts";
import { isSystemError, type OpenFile, type SourceFile } from "./folder.ts";
import { checkNesting, TooNested } from "./json_nesting.ts";
import { Mxfp4File } from "./mxfp4.ts";
import {
	checksumText,
	isPackedFile,
	PackedMetadataError,
	readChecksums,
} from "./packed_metadata.ts";

/**
 * Bits per element by dtype, in the order of the reference implementation, which also orders files.
 *
 * @internal
 */
export const DTYPE_BITS = {
	BOOL: 8,
	F4: 4,
	F6_E2M3: 6,
	F6_E3M2: 6,
	U8: 8,
	I8: 8,
	F8_E5M2: 8,
	F8_E4M3: 8,
	F8_E8M0: 8,
	F8_E4M3FNUZ: 8,
	F8_E5M2FNUZ: 8,
	I16: 16,
	U16: 16,
	F16: 16,
	BF16: 16,
	I32: 32,
	U32: 32,
	F32: 32,
	C64: 64,
	F64: 64,
	I64: 64,
	U64: 64,
} as const;

/**
 * A dtype of the safetensors format.
 *
 * @internal
 */
export type StoredDtype = keyof typeof DTYPE_BITS;

/** The dtypes that {@link toFloat32} supports. */
export type FloatDtype = "F16" | "BF16" | "F32" | "F64";

/**
 * The location of a tensor: `bytes` bytes from byte `offset` of `file`, row-major, little-endian. With
 * `strides`, the elements are spaced or in another order.
 */
export interface StoredTensor {
	/** Its name. */
	name: string;
	/** Type of its elements. */
	dtype: StoredDtype;
	/** The shape; `[]` is one element. */
	shape: number[];
	/** The file that has it. */
	file: string;
	/** The offset of the first element from the start of the file, possibly unaligned. */
	offset: number;
	/** The total size of its elements in bytes, without gaps between them. */
	bytes: number;
	/** The strides in elements of a tensor that is not row-major. */
	strides?: number[];
	/** The metadata of its file, if that belongs to a packed model. */
	metadata?: Readonly<Record<string, string>>;
	/** The CRC-32 of its bytes, if the file has one. */
	checksum?: number;
	/** The whole tensor that these rows belong to, if it has a checksum. */
	whole?: StoredTensor;
	/** Codes and scales that its elements are computed of, if it is stored in MXFP4. */
	mxfp4?: { codes: StoredTensor; scales: StoredTensor };
}

/** The header of a safetensors file. */
export interface SafetensorsHeader {
	/** The tensors by name, in the order of their offsets. */
	tensors: Map<string, StoredTensor>;
	metadata: Record<string, string>;
}

/** The limit of the header's size, as in the reference reader. */
export const MAX_HEADER_BYTES = 100_000_000;

/** The most dimensions of a tensor, as in PyTorch and NumPy. */
const MAX_DIMENSIONS = 64;

/**
 * Reads and checks the header of a safetensors file; the tensors themselves are not read.
 *
 * Rejects everything that the reference reader rejects, and also duplicate keys, which the format
 * forbids, dimensions beyond 2⁵³ - 1, and more than 64 of them.
 *
 * @throws {UserError} If the file cannot be read or the header is invalid.
 * @see https://github.com/huggingface/safetensors#format
 */
export function readHeader(source: SourceFile): SafetensorsHeader {
	const { path } = source;
	const refuse = (problem: string): never => {
		throw new UserError(`Cannot read "${path}": ${problem}`);
	};
	using file = openFile(source);
	const { size } = file;

	const start = readRange(file, path, 0, Math.min(size, 512));
	const foreign = foreignContent(new TextDecoder().decode(start));
	if (foreign !== undefined) refuse(foreign);
	if (size < 8) refuse(`it has ${count(size)}, too few for a header; download it again`);
	const headerBytes = Number(new DataView(start.buffer).getBigUint64(0, true));
	if (headerBytes > MAX_HEADER_BYTES) {
		const found = `its header would be ${bytesText(headerBytes)} long, more than 100 MB`;
		refuse(`it is not a safetensors file (${found})`);
	}
	const dataStart = 8 + headerBytes;
	if (dataStart > size) {
		refuse(`it lacks ${count(dataStart - size)} of its header; download it again`);
	}

	let tensors: StoredTensor[] = [];
	let metadata: Record<string, string> = {};
	try {
		const members = parseHeader(readRange(file, path, 8, headerBytes));
		metadata = checkMetadata(members.get("__metadata__"));
		members.delete("__metadata__");
		tensors = [...members].map(([name, info]) => checkTensor(name, info, path, dataStart));
		tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
		checkCover(tensors, dataStart);
		const checksums = readChecksums(metadata, members.keys());
		for (const tensor of checksums ? tensors : []) tensor.checksum = checksums!.get(tensor.name);
		for (const tensor of isPackedFile(metadata) ? tensors : []) tensor.metadata = metadata;
	} catch (error) {
		if (!(error instanceof FormatError || error instanceof PackedMetadataError)) throw error;
		refuse(error.message);
	}

	const last = tensors.at(-1);
	const end = last ? last.offset + last.bytes : dataStart;
	if (size < end) {
		refuse(`it lacks ${count(end - size)} of ${end}; download it again`);
	}
	if (size > end) {
		refuse(`it has ${count(size - end)} after the last tensor; download it again`);
	}
	return { tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])), metadata };
}

/** An error in a file's content; its message follows `Cannot read "x": `, which the caller adds. */
export class FormatError extends Error {}

/** The members of the header. Integers are `bigint`, so that none loses digits. */
function parseHeader(bytes: Uint8Array): Map<string, unknown> {
	let text: string;
	try {
		text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
	} catch {
		throw new FormatError("its header is not UTF-8");
	}
	let parsed: unknown;
	try {
		checkNesting(text, MAX_DIMENSIONS); // no other list is longer
		parsed = JSON.parse(text, exactIntegers);
	} catch (error) {
		if (error instanceof TooNested) {
			throw new FormatError(`its header is damaged: ${error.message}`);
		}
		throw new FormatError("its header is not JSON");
	}
	if (!isRecord(parsed)) throw new FormatError("its header is not a JSON object");
	const twice = repeatedKey(text);
	if (twice !== undefined) throw new FormatError(`its header has the key "${twice}" twice`);
	return new Map(Object.entries(parsed));
}

/** A reviver for `JSON.parse`. `-0`, `1.0` and `1e3` are not integers, as in the reference reader. */
function exactIntegers(key: string, value: unknown, context?: { source?: string }): unknown {
	if (!key.isWellFormed() || (typeof value === "string" && !value.isWellFormed())) {
		throw new SyntaxError("half a character");
	}
	const source = context?.source;
	// No longer one fits into 64 bits.
	return typeof value === "number" && source && /^\d{1,20}$/.test(source) ? BigInt(source) : value;
}

/**
 * The first duplicate key in an object of a valid JSON text; `JSON.parse` would keep the last value.
 */
function repeatedKey(json: string): string | undefined {
	const open: Set<string>[] = []; // the keys of each enclosing object
	for (let i = 0; i < json.length; i++) {
		if (json[i] === "{") open.push(new Set());
		if (json[i] === "}") open.pop();
		if (json[i] !== '"') continue;
		const start = i;
		while (json[++i] !== '"') if (json[i] === "\\") i++;
		let next = i + 1;
		while (" \t\r\n".includes(json[next])) next++;
		if (json[next] !== ":") continue;
		const key = JSON.parse(json.slice(start, i + 1));
		const keys = open.at(-1)!;
		if (keys.has(key)) return key;
		keys.add(key);
	}
}

function checkMetadata(metadata: unknown): Record<string, string> {
	if (metadata === undefined || metadata === null) return {};
	if (!isRecord(metadata)) throw new FormatError("its metadata is not a JSON object");
	for (const [key, value] of Object.entries(metadata)) {
		if (typeof value !== "string") {
			throw new FormatError(`its metadata "${key}" is ${show(value)}, not a text`);
		}
	}
	return metadata as Record<string, string>;
}

function checkTensor(name: string, info: unknown, file: string, dataStart: number): StoredTensor {
	const tensor = `tensor "${name}"`;
	if (!isRecord(info)) throw new FormatError(`${tensor} is ${show(info)}, not a JSON object`);
	const { dtype, shape, data_offsets: offsets } = info;
	if (!isDtype(dtype)) {
		throw new FormatError(`${tensor} has the dtype ${show(dtype)}, unknown to the format`);
	}
	if (!isIntegers(shape)) {
		throw new FormatError(`${tensor} has the shape ${show(shape)}, not a list of whole numbers`);
	}
	if (!isIntegers(offsets) || offsets.length !== 2) {
		throw new FormatError(`${tensor} has the offsets ${show(offsets)}, not two whole numbers`);
	}
	const [start, end] = offsets;
	if (end < start) {
		throw new FormatError(`${tensor} ends at byte ${end}, before its start ${start}`);
	}

	const type = `${dtype} ${show(shape)}`;
	let bits = BigInt(DTYPE_BITS[dtype]);
	for (const dimension of shape) {
		bits *= dimension;
		if (bits >= 2n ** 64n) throw new FormatError(`${tensor} is too large: ${type}`);
	}
	if (bits % 8n !== 0n) throw new FormatError(`${tensor} ends within a byte: ${type}`);
	if (end - start !== bits / 8n) {
		throw new FormatError(`${tensor} has ${end - start} bytes, but ${type} needs ${bits / 8n}`);
	}
	if (end > Number.MAX_SAFE_INTEGER || shape.some((size) => size > Number.MAX_SAFE_INTEGER)) {
		throw new FormatError(`${tensor} is too large: ${type}`);
	}
	return {
		name,
		dtype,
		shape: shape.map(Number),
		file,
		offset: dataStart + Number(start),
		bytes: Number(end - start),
	};
}

/** Checks that tensors, in the order of their offsets, have no gaps and do not overlap. */
function checkCover(tensors: StoredTensor[], dataStart: number): void {
	let end = dataStart;
	let previous = "";
	for (const { name, offset, bytes } of tensors) {
		if (offset > end) {
			throw new FormatError(`its bytes ${end} to ${offset} belong to no tensor`);
		}
		if (offset < end) {
			throw new FormatError(`tensors "${previous}" and "${name}" share bytes`);
		}
		end = offset + bytes;
		previous = name;
	}
}

function isDtype(value: unknown): value is StoredDtype {
	return typeof value === "string" && Object.hasOwn(DTYPE_BITS, value);
}

function isIntegers(value: unknown): value is bigint[] {
	return Array.isArray(value) && value.every((item) => typeof item === "bigint");
}

function show(value: unknown): string {
	if (Array.isArray(value)) return `[${value.map(show).join(", ")}]`;
	if (isRecord(value)) return "an object";
	if (value === undefined) return "(none)";
	return typeof value === "string" ? `"${value}"` : String(value);
}

/** Bytes per read when verifying a checksum. */
const CHECKED_BYTES = 1 << 24;

/**
 * A reader of tensors, which keeps their files open until it is disposed. The checksum of a tensor is
 * verified when it, or a part of it, is read for the first time.
 *
 * All methods throw a {@link UserError} if a file cannot be read, has become shorter, or does not match
 * the checksum.
 */
export class TensorReader implements Disposable {
	readonly #files = new Map<string, OpenFile>();
	/** Tensors whose checksums were verified. */
	readonly #checked = new WeakSet<StoredTensor>();

	/** @param sourceOf Returns the file at a path. */
	constructor(readonly sourceOf: (path: string) => SourceFile) {}

	/**
	 * Reads the bytes of a tensor.
	 *
	 * @param into Receives the bytes; a new buffer if absent.
	 * @returns The `tensor.bytes` bytes, at the start of `into`.
	 * @throws {RangeError} If `into` is shorter than the tensor.
	 */
	readBytes(tensor: StoredTensor, into?: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
		if (into && into.length < tensor.bytes) {
			throw new RangeError(
				`Cannot read "${tensor.name}" into ${into.length} bytes: it has ${tensor.bytes}`,
			);
		}
		this.#checkWhole(tensor);
		const file = this.#open(tensor);
		if (tensor.strides) return gather(file, tensor, tensor.strides, into);
		const bytes = readRange(file, tensor.file, tensor.offset, tensor.bytes, into);
		if (this.#isToCheck(tensor)) this.#compare(tensor, checksumOf(file, bytes));
		return bytes;
	}

	/**
	 * Reads the bytes of a tensor in chunks of `chunkBytes`; the last one may be shorter. With strides,
	 * chunks are whole rows, or parts of one, of at most `chunkBytes` or a single element. A chunk is valid
	 * until the next one is requested, as chunks may share a buffer. The checksum of a whole tensor is
	 * verified after the last chunk.
	 */
	*readChunks(tensor: StoredTensor, chunkBytes: number): Generator<Uint8Array<ArrayBuffer>> {
		if (!(chunkBytes >= 1)) throw new RangeError(`Cannot read chunks of ${chunkBytes} bytes`);
		if (tensor.strides) return yield* this.#readRowChunks(tensor, tensor.strides, chunkBytes);
		this.#checkWhole(tensor);
		const buffer = new Uint8Array(Math.min(chunkBytes, tensor.bytes));
		const isToCheck = this.#isToCheck(tensor);
		let checksum = 0;
		for (let done = 0; done < tensor.bytes; done += chunkBytes) {
			const length = Math.min(chunkBytes, tensor.bytes - done);
			const file = this.#open(tensor);
			const chunk = readRange(file, tensor.file, tensor.offset + done, length, buffer);
			if (isToCheck) checksum = checksumOf(file, chunk, checksum);
			yield chunk;
		}
		if (isToCheck) this.#compare(tensor, checksum);
	}

	/** Verifies the checksum of a whole tensor before a part of it is read. */
	#checkWhole({ whole }: StoredTensor): void {
		if (!whole || !this.#isToCheck(whole)) return;
		for (const _ of this.readChunks(whole, CHECKED_BYTES));
	}

	#isToCheck(tensor: StoredTensor): boolean {
		return tensor.checksum !== undefined && !this.#checked.has(tensor);
	}

	#compare(tensor: StoredTensor, found: number): void {
		if (found !== tensor.checksum) {
			throw new UserError(
				`Cannot read "${tensor.file}": tensor "${tensor.name}" has the checksum ` +
					`${checksumText(found)}, not ${checksumText(tensor.checksum!)}; the file is damaged`,
			);
		}
		this.#checked.add(tensor);
	}

	*#readRowChunks(
		tensor: StoredTensor,
		strides: number[],
		chunkBytes: number,
	): Generator<Uint8Array<ArrayBuffer>> {
		const [rows, ...shape] = tensor.shape;
		const rowBytes = tensor.bytes / rows;
		if (rowBytes > chunkBytes && shape.length > 0) {
			for (let row = 0; row < rows; row++) {
				const part = { ...rowsOf(tensor, row, 1), shape, strides: strides.slice(1) };
				yield* this.readChunks(part, chunkBytes);
			}
			return;
		}
		const step = Math.max(1, Math.floor(chunkBytes / rowBytes));
		const buffer = new Uint8Array(Math.min(step, rows) * rowBytes);
		for (let row = 0; row < rows; row += step) {
			yield this.readBytes(rowsOf(tensor, row, Math.min(step, rows - row)), buffer);
		}
	}

	[Symbol.dispose](): void {
		for (const file of this.#files.values()) file[Symbol.dispose]();
		this.#files.clear();
	}

	#open({ file: path, mxfp4 }: StoredTensor): OpenFile {
		if (mxfp4) {
			return new Mxfp4File(mxfp4, (tensor, from, bytes) => {
				return readRange(this.#open(tensor), tensor.file, tensor.offset + from, bytes);
			});
		}
		let file = this.#files.get(path);
		if (!file) {
			file = openFile(this.sourceOf(path));
			this.#files.set(path, file);
		}
		return file;
	}
}

function checksumOf(file: OpenFile, bytes: Uint8Array, before = 0): number {
	return file.crc32?.(bytes, before) ?? crc32(bytes, before);
}

/** A part of a tensor: `rows` of its `shape[0]` rows, from `first` on. */
export function rowsOf(tensor: StoredTensor, first: number, rows: number): StoredTensor {
	const { checksum, ...whole } = tensor;
	const { shape, strides, offset } = tensor;
	const rowBytes = tensor.bytes / shape[0];
	const step = strides ? strides[0] * DTYPE_BITS[tensor.dtype] / 8 : rowBytes;
	return {
		...whole,
		...(checksum !== undefined && { whole: tensor }),
		shape: [rows, ...shape.slice(1)],
		offset: offset + first * step,
		bytes: rows * rowBytes,
	};
}

/**
 * A part of a tensor: some rows of a matrix, or of one of the matrices that the tensor stacks.
 *
 * @internal
 */
export interface TensorPart {
	/** The index of the matrix in a tensor of several; absent if the tensor is a matrix or a vector. */
	matrix?: number;
	/** Whether rows of the part are columns of the stored matrix. */
	transposed?: boolean;
	first: number;
	rows: number;
	/** Rows from one of the part to the next; 1 if absent. */
	step?: number;
}

/** A row of a part of a tensor. */
export function rowOfPart({ first, step = 1, ...part }: TensorPart, row: number): TensorPart {
	return { ...part, first: first + row * step, rows: 1 };
}

/** The shape of a part of a tensor. */
export function partShape(shape: readonly number[], part: TensorPart): number[] {
	const own = part.matrix === undefined ? shape : shape.slice(1);
	return [part.rows, ...(part.transposed ? own.slice(0, 1) : own.slice(1))];
}

/** A part of a tensor as a tensor. */
export function partOf(tensor: StoredTensor, part: TensorPart): StoredTensor {
	const { matrix, transposed = false, first, rows, step = 1 } = part;
	let whole = tensor;
	if (matrix !== undefined) {
		const { shape, strides, ...one } = rowsOf(tensor, matrix, 1);
		whole = { ...one, shape: shape.slice(1), ...(strides && { strides: strides.slice(1) }) };
	}
	if (step === 1 && !transposed) return rowsOf(whole, first, rows);
	const bytes = DTYPE_BITS[tensor.dtype] / 8;
	const { checksum, ...rest } = whole;
	const [own, ...others] = whole.strides ?? [...whole.shape.slice(1), 1];
	const strides = transposed ? [...others, own] : [own, ...others];
	const shape = partShape(tensor.shape, part);
	return {
		...rest,
		...(checksum !== undefined && { whole }),
		shape,
		strides: [strides[0] * step, ...strides.slice(1)],
		offset: whole.offset + first * strides[0] * bytes,
		bytes: shape.reduce((product, length) => product * length, bytes),
	};
}

/** Bytes per read of {@link gather}, where it reads more than it needs. */
const WINDOW_BYTES = 1 << 16;
/** Adjacent bytes that it reads by themselves. */
const DIRECT_BYTES = 1 << 12;

/** Reads a tensor with strides as row-major bytes, in the order of their offsets in the file. */
function gather(
	file: OpenFile,
	{ file: path, shape, dtype, offset, bytes }: StoredTensor,
	strides: number[],
	into = new Uint8Array(bytes),
): Uint8Array<ArrayBuffer> {
	if (bytes === 0) return into.subarray(0, 0);
	const width = DTYPE_BITS[dtype] / 8;
	let row = bytes;
	const dimensions = shape.map((size, i) => ({ size, from: strides[i] * width, to: row /= size }))
		.filter(({ size }) => size > 1)
		.sort((a, b) => b.from - a.from);
	const end = dimensions.reduce((sum, { size, from }) => sum + (size - 1) * from, offset + width);

	const window = new Uint8Array(Math.min(WINDOW_BYTES, end - offset));
	let start = 0; // offset of the window's content
	let held = 0;
	const copy = (from: number, to: number, length: number): void => {
		if (from < start || from + length > start + held) {
			start = from;
			held = Math.min(window.length, end - from);
			readRange(file, path, start, held, window);
		}
		for (let i = 0; i < length; i++) into[to + i] = window[from - start + i];
	};
	const visit = (depth: number, from: number, to: number): void => {
		if (depth === dimensions.length) return copy(from, to, width);
		const { size, from: fromStep, to: toStep } = dimensions[depth];
		if (depth === dimensions.length - 1 && fromStep === width && toStep === width) {
			const length = size * width;
			if (length < DIRECT_BYTES) copy(from, to, length);
			else readRange(file, path, from, length, into.subarray(to));
			return;
		}
		for (let i = 0; i < size; i++) visit(depth + 1, from + i * fromStep, to + i * toStep);
	};
	visit(0, offset, 0);
	return into.subarray(0, bytes);
}

/** @throws {UserError} If the file cannot be opened. */
export function openFile(source: SourceFile): OpenFile {
	try {
		return source.open();
	} catch (error) {
		throw new UserError(`Cannot read "${source.path}": ${readProblem(error)}`);
	}
}

/**
 * Reads `bytes` bytes from byte `offset`, into the start of `into` or a new buffer.
 *
 * @throws {UserError} If the file cannot be read or is too short.
 */
export function readRange(
	file: OpenFile,
	path: string,
	offset: number,
	bytes: number,
	into = new Uint8Array(bytes),
): Uint8Array<ArrayBuffer> {
	const target = into.subarray(0, bytes);
	let read = 0;
	try {
		read = file.read(offset, target);
	} catch (error) {
		throw new UserError(`Cannot read "${path}": ${readProblem(error)}`);
	}
	if (read < bytes) {
		throw new UserError(`Cannot read "${path}": it has become shorter since it was opened`);
	}
	return target;
}

/** Whether {@link toFloat32} supports a dtype. */
export function isFloatDtype(dtype: StoredDtype): dtype is FloatDtype {
	return dtype === "F16" || dtype === "BF16" || dtype === "F32" || dtype === "F64";
}

/**
 * The f32 values of stored elements: exact, except for F64, which is rounded to nearest.
 *
 * @param bytes Little-endian elements; need not be aligned.
 * @returns A new array.
 */
export function toFloat32(bytes: Uint8Array, dtype: FloatDtype): Float32Array<ArrayBuffer> {
	const { buffer } = new Uint8Array(bytes); // a copy is aligned
	switch (dtype) {
		case "F32":
			return new Float32Array(buffer);
		case "F64":
			return new Float32Array(new Float64Array(buffer));
		case "F16":
			return new Float32Array(new Float16Array(buffer));
		case "BF16": { // the upper half of an f32
			const bits = new Uint32Array(new Uint16Array(buffer));
			for (let i = 0; i < bits.length; i++) bits[i] <<= 16;
			return new Float32Array(bits.buffer);
		}
	}
}

/**
 * f32 values as stored elements, rounded to nearest, ties to even; the inverse of {@link toFloat32}.
 *
 * @returns The little-endian elements; values beyond the range of the dtype are infinite.
 */
export function fromFloat32(values: Float32Array, dtype: FloatDtype): Uint8Array<ArrayBuffer> {
	switch (dtype) {
		case "F32":
			return new Uint8Array(new Float32Array(values).buffer);
		case "F64":
			return new Uint8Array(new Float64Array(values).buffer);
		case "F16":
			return new Uint8Array(new Float16Array(values).buffer);
		case "BF16": {
			const words = new Uint32Array(new Float32Array(values).buffer);
			// NaN stays NaN: its payload must not be rounded to zero.
			const half = (word: number, i: number) =>
				Number.isNaN(values[i]) ? 0x7fc0 : (word + 0x7fff + (word >>> 16 & 1)) >>> 16;
			return new Uint8Array(Uint16Array.from(words, half).buffer);
		}
	}
}

/** A tensor to write; `data` provides all its bytes, as a whole or in chunks. */
export interface TensorToWrite {
	/** Its name. */
	name: string;
	/** Type of its elements. */
	dtype: StoredDtype;
	/** Its dimensions. */
	shape: number[];
	/** Its bytes, little-endian. */
	data: Uint8Array | Iterable<Uint8Array>;
}

function readProblem(error: unknown): string {
	if (!isSystemError(error)) throw error;
	switch (error.code) {
		case "ENOENT":
			return "there is no such file";
		case "EISDIR":
			return "it is a folder";
		case "EACCES":
		case "EPERM":
			return "the file is not readable";
		default:
			return error.message;
	}
}

/**
 * Recognizes content that failed downloads often leave in place of a file.
 *
 * @param start The first few hundred characters of the file.
 * @returns A description with advice, to follow `Cannot read "x": `; undefined if not recognized.
 */
export function foreignContent(start: string): string | undefined {
	if (start.startsWith("version https://git-lfs")) {
		return "it is a Git LFS pointer, not the file itself; run `git lfs pull`";
	}
	if (/^\s*<(!doctype|html)/i.test(start)) {
		return "it is an HTML page, perhaps an error message; download it again";
	}
}

/** A number of bytes as text: "1 byte", "2 bytes". */
export function count(bytes: number): string {
	return `${bytes} byte${bytes === 1 ? "" : "s"}`;
}
