import { createHash } from "node:crypto";
import { dirname } from "node:path";
import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { temporaryName, writeWhole } from "./files.ts";
import { isSystemError } from "./folder.ts";
import { DTYPE_BITS, type TensorToWrite } from "./safetensors.ts";

/** The result of {@link writeSafetensors}. */
export interface WrittenFile {
	/** The size of the file in bytes. */
	bytes: number;
	/** The SHA-256 of the file, in hexadecimal. */
	sha256: string;
	/** The size of the header with its length field, which is the offset of the data. */
	headerBytes: number;
}

/**
 * Writes a safetensors file atomically: to a temporary file beside it, which is renamed once it is synced to
 * disk.
 *
 * The layout is that of the reference implementation: wider dtypes first, then by name, data from a
 * multiple of 8. So every tensor is aligned, and equal tensors and metadata give equal bytes.
 *
 * @param tensors Their `data` is called in the order of the layout, one after the other.
 * @throws {UserError} If the file cannot be written; the temporary file is removed.
 * @throws {RangeError} If names repeat, or the size of `data` does not match dtype and shape.
 */
export function writeSafetensors(
	path: string,
	tensors: TensorToWrite[],
	metadata: Record<string, string> = {},
): WrittenFile {
	const laidOut = tensors.toSorted((a, b) => dtypeRank(b) - dtypeRank(a) || byName(a, b));
	const header = headerOf(laidOut, metadata);
	const bytes = laidOut.reduce((sum, tensor) => sum + bytesOf(tensor), header.length);
	const temporary = temporaryName(path);
	const hash = createHash("sha256");
	try {
		{
			using file = Deno.openSync(temporary, { write: true, createNew: true });
			const write = (chunk: Uint8Array): void => {
				hash.update(chunk);
				writeWhole(file, chunk);
			};
			write(header);
			for (const tensor of laidOut) writeData(tensor, write);
			file.syncSync();
		}
		Deno.renameSync(temporary, path);
		syncFolder(dirname(path));
	} catch (error) {
		removeIfThere(temporary);
		throw new UserError(`Cannot write "${path}": ${writeProblem(error, bytes)}`);
	}
	return { bytes, sha256: hash.digest("hex"), headerBytes: header.length };
}

/** The header: the length field and the JSON text, padded with spaces to a multiple of 8 bytes. */
function headerOf(tensors: TensorToWrite[], metadata: Record<string, string>): Uint8Array {
	const members = new Map<string, unknown>();
	if (Object.keys(metadata).length > 0) members.set("__metadata__", metadata);
	let offset = 0;
	for (const tensor of tensors) {
		const { name, dtype, shape } = tensor;
		if (members.has(name) || name === "__metadata__") {
			throw new RangeError(`Cannot write two tensors, or one and the metadata, named "${name}"`);
		}
		const end = offset + bytesOf(tensor);
		members.set(name, { dtype, shape, data_offsets: [offset, end] });
		offset = end;
	}
	const json = [...members].map(([key, value]) =>
		`${JSON.stringify(key)}:${JSON.stringify(value)}`
	);
	const text = new TextEncoder().encode(`{${json.join(",")}}`);
	const header = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(0x20);
	new DataView(header.buffer).setBigUint64(0, BigInt(header.length - 8), true);
	header.set(text, 8);
	return header;
}

function writeData(tensor: TensorToWrite, write: (chunk: Uint8Array) => void): void {
	let given = 0;
	for (const chunk of tensor.data instanceof Uint8Array ? [tensor.data] : tensor.data) {
		given += chunk.length;
		write(chunk);
	}
	if (given !== bytesOf(tensor)) {
		throw new RangeError(
			`Tensor "${tensor.name}" gives ${given} bytes, but ` +
				`${tensor.dtype} [${tensor.shape.join(", ")}] needs ${bytesOf(tensor)}`,
		);
	}
}

function bytesOf({ dtype, shape }: TensorToWrite): number {
	return shape.reduce((product, size) => product * size, 1) * DTYPE_BITS[dtype] / 8;
}

function dtypeRank({ dtype }: TensorToWrite): number {
	return Object.keys(DTYPE_BITS).indexOf(dtype);
}

function byName(a: TensorToWrite, b: TensorToWrite): number {
	return a.name < b.name ? -1 : Number(a.name > b.name);
}

/** Syncs a rename in a folder to disk; Windows neither supports nor needs it. */
function syncFolder(folder: string): void {
	if (Deno.build.os === "windows") return;
	using handle = Deno.openSync(folder);
	handle.syncSync();
}

function removeIfThere(path: string): void {
	try {
		Deno.removeSync(path);
	} catch (error) {
		if (!isSystemError(error)) throw error; // the original error is more informative
	}
}

function writeProblem(error: unknown, bytes: number): string {
	if (!isSystemError(error)) throw error;
	switch (error.code) {
		case "ENOENT":
			return "there is no such folder";
		case "EISDIR":
			return "it is a folder";
		case "EACCES":
		case "EPERM":
		case "EROFS":
			return "the folder is not writable";
		case "ENOSPC":
		case "EDQUOT":
			return `no space left on the device (needed ${bytesText(bytes)})`;
		default:
			return error.message;
	}
}
