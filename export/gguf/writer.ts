import { dirname } from "node:path";
import { UserError } from "../../base/errors.ts";
import { temporaryName, writeWhole } from "../../storage/files.ts";
import { reasonOf } from "../../storage/folder.ts";

/** A value of metadata with its type in the file. */
export type MetadataValue =
	| { type: "u32" | "i32" | "f32"; value: number }
	| { type: "bool"; value: boolean }
	| { type: "text"; value: string }
	| { type: "f32s" | "i32s"; value: ArrayLike<number> }
	| { type: "texts"; value: readonly string[] };

export type Metadata = ReadonlyMap<string, MetadataValue>;

/** A tensor to write. */
export interface GgufTensor {
	name: string;
	/** Rows and columns, or the length of a vector. */
	shape: readonly number[];
	/** The number of its type, `ggml_type`. */
	type: number;
	bytes: number;
	/** Its bytes in chunks, row after row. */
	data(): Iterable<Uint8Array>;
}

/** The alignment of tensors, the default of the format. */
const ALIGNMENT = 32;

const VERSION = 3;

/**
 * Writes a GGUF file: to a temporary file beside it, which is renamed once it is synced to disk.
 *
 * @param pause Called after each tensor; may throw to abort.
 * @returns The bytes of the file.
 * @throws {UserError} If the file cannot be written; the temporary file is removed.
 * @throws {RangeError} If the data of a tensor are not of its size.
 * @see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
export async function writeGguf(
	path: string,
	metadata: Metadata,
	tensors: readonly GgufTensor[],
	pause: () => Promise<void>,
): Promise<number> {
	const temporary = temporaryName(path);
	let bytes = 0;
	try {
		{
			using file = createFile(temporary);
			const write = (chunk: Uint8Array) => {
				writeWhole(file, chunk);
				bytes += chunk.length;
			};
			const align = () => write(new Uint8Array(padding(bytes)));
			write(headerOf(metadata, tensors));
			align();
			for (const tensor of tensors) {
				const start = bytes;
				for (const chunk of tensor.data()) write(chunk);
				if (bytes - start !== tensor.bytes) {
					throw new RangeError(
						`Tensor "${tensor.name}" gives ${bytes - start} bytes, not ${tensor.bytes}`,
					);
				}
				align();
				await pause();
			}
			file.syncSync();
		}
		Deno.renameSync(temporary, path);
	} catch (error) {
		try {
			Deno.removeSync(temporary);
		} catch { /* it was not made, and the first error says more */ }
		if (error instanceof Deno.errors.NotFound) {
			throw new UserError(`Cannot write "${path}": there is no folder "${dirname(path)}"`);
		}
		if (error instanceof Error && "code" in error && !(error instanceof UserError)) {
			throw new UserError(`Cannot write "${path}": ${reasonOf(error)}`);
		}
		throw error;
	}
	return bytes;
}

function createFile(path: string): Deno.FsFile {
	return Deno.openSync(path, { write: true, createNew: true });
}

function padding(bytes: number): number {
	return (ALIGNMENT - bytes % ALIGNMENT) % ALIGNMENT;
}

/** Everything before the tensors' data. */
function headerOf(metadata: Metadata, tensors: readonly GgufTensor[]): Uint8Array {
	const out = new ByteWriter();
	out.bytes(new TextEncoder().encode("GGUF"));
	out.u32(VERSION);
	out.u64(tensors.length);
	out.u64(metadata.size);
	for (const [key, value] of metadata) {
		out.text(key);
		putValue(out, value);
	}
	let offset = 0;
	for (const { name, shape, type, bytes } of tensors) {
		out.text(name);
		out.u32(shape.length);
		for (const size of shape.toReversed()) out.u64(size); // the fastest dimension first
		out.u32(type);
		out.u64(offset);
		offset += bytes + padding(bytes);
	}
	return out.done();
}

/** The numbers of types of metadata. */
const TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, text: 8, array: 9 };

function putValue(out: ByteWriter, { type, value }: MetadataValue): void {
	const list = (element: number, length: number) => {
		out.u32(TYPES.array);
		out.u32(element);
		out.u64(length);
	};
	switch (type) {
		case "texts":
			list(TYPES.text, value.length);
			return value.forEach((text) => out.text(text));
		case "f32s":
			list(TYPES.f32, value.length);
			return out.bytes(new Uint8Array(Float32Array.from(value).buffer));
		case "i32s":
			list(TYPES.i32, value.length);
			return out.bytes(new Uint8Array(Int32Array.from(value).buffer));
	}
	out.u32(TYPES[type]);
	switch (type) {
		case "text":
			return out.text(value);
		case "bool":
			return out.bytes(Uint8Array.of(Number(value)));
		case "f32":
			return out.bytes(new Uint8Array(Float32Array.of(value).buffer));
		default:
			return out.u32(value >>> 0);
	}
}

/** A growing buffer of little-endian numbers and texts. */
class ByteWriter {
	#bytes = new Uint8Array(1 << 16);
	#length = 0;
	readonly #encoder = new TextEncoder();

	bytes(bytes: Uint8Array): void {
		this.#reserve(bytes.length);
		this.#bytes.set(bytes, this.#length);
		this.#length += bytes.length;
	}

	u32(value: number): void {
		this.#reserve(4);
		new DataView(this.#bytes.buffer).setUint32(this.#length, value, true);
		this.#length += 4;
	}

	u64(value: number): void {
		this.#reserve(8);
		new DataView(this.#bytes.buffer).setBigUint64(this.#length, BigInt(value), true);
		this.#length += 8;
	}

	text(text: string): void {
		const bytes = this.#encoder.encode(text);
		this.u64(bytes.length);
		this.bytes(bytes);
	}

	done(): Uint8Array {
		return this.#bytes.subarray(0, this.#length);
	}

	#reserve(bytes: number): void {
		if (this.#length + bytes <= this.#bytes.length) return;
		const grown = new Uint8Array(2 * (this.#length + bytes));
		grown.set(this.#bytes);
		this.#bytes = grown;
	}
}
