import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import type { crc32 } from "./crc32.ts";

/** A file that is open for reading. */
export interface OpenFile extends Disposable {
	/** The size in bytes. */
	readonly size: number;
	/**
	 * Fills `target` with the bytes from byte `offset` on.
	 *
	 * @returns The number of bytes read; fewer than the size of `target` only at the end of the file.
	 * @throws {Error} With the `code` of a system error, such as EACCES.
	 */
	read(offset: number, target: Uint8Array<ArrayBuffer>): number;
	/** The host's native CRC-32, if it has one. */
	readonly crc32?: typeof crc32;
}

/** A reference to a file of a model; opening it shows whether it exists. */
export interface SourceFile {
	/** The file's name in messages. */
	readonly path: string;
	/** @throws {Error} With the `code` of a system error, such as ENOENT or EISDIR. */
	open(): OpenFile;
}

/**
 * A folder of a model, provided by the host: on disk, in a browser, or in memory. Reads are synchronous;
 * a browser reads in a worker or has loaded everything before.
 *
 * @internal
 */
export interface Folder {
	/** The folder's name in messages. */
	readonly path: string;
	/**
	 * The names of the files in it, sorted.
	 *
	 * @throws {Error} With the `code` of a system error, such as ENOENT or ENOTDIR.
	 */
	names(): string[];
	/** Whether it has a file, not a folder, of this name. */
	has(name: string): boolean;
	/** The file of this name, which need not exist. */
	file(name: string): SourceFile;
	/** What fetches files of the folder when they are needed; absent if all are there. */
	readonly fetcher?: FileFetcher;
}

/** Fetches files of a folder when they are needed. Files are given by the paths of their sources. */
export interface FileFetcher {
	/** Whether files are there, so that {@link fetch} need not wait for them. */
	isThere(paths: Iterable<string>): boolean;
	/**
	 * Waits until files are there.
	 *
	 * @param others If given, all files are removed but the wanted ones, the `next` ones, which are fetched
	 *   meanwhile, and the `kept` ones, which stay if they are there.
	 * @throws {UserError} If a file cannot be fetched.
	 */
	fetch(
		paths: Iterable<string>,
		others?: { next: Iterable<string>; kept: Iterable<string> },
	): Promise<void>;
}

/** The file error of hosts without system errors. */
export class FileError extends Error {
	/** @param code The code of the equivalent system error: ENOENT for a missing file. */
	constructor(readonly code: string, message: string) {
		super(message);
	}
}

const REASONS: Record<string, string> = {
	EACCES: "permission denied",
	EPERM: "permission denied",
	EROFS: "the file system is read-only",
	ENOSPC: "no space left on the device",
	ENOTDIR: "a part of the path is a file",
	EISDIR: "it is a folder",
	ENOENT: "no such file or folder",
	EEXIST: "a file is in the way",
};

/** The reason of a file error, in words. */
export function reasonOf(error: unknown): string {
	const { code, message } = error as { code?: string; message: string };
	return REASONS[code ?? ""] ?? message;
}

/** Whether an error comes from the system rather than from a defect in the code. */
export function isSystemError(error: unknown): error is Error & { code: string } {
	return error instanceof Error && "code" in error && typeof error.code === "string";
}

/** The most bytes of a file that is read as a whole: tokenizers and records are far smaller. */
const MOST_BYTES = 256 << 20;

/**
 * The whole content of a file.
 *
 * @throws {UserError} If it cannot be read, or is larger than 256 MiB.
 */
export function readFile(source: SourceFile): Uint8Array<ArrayBuffer> {
	try {
		using file = source.open();
		if (file.size > MOST_BYTES) {
			throw new Error(`it has ${bytesText(file.size)}, more than ${bytesText(MOST_BYTES)}`);
		}
		const bytes = new Uint8Array(file.size);
		return bytes.subarray(0, file.read(0, bytes));
	} catch (error) {
		throw new UserError(`Cannot read "${source.path}": ${reasonOf(error)}`);
	}
}

/**
 * The whole content of a file as UTF-8.
 *
 * @throws {UserError} If it cannot be read.
 */
export function readText(source: SourceFile): string {
	return new TextDecoder("utf-8", { ignoreBOM: true }).decode(readFile(source));
}
