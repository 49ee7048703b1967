import { UserError } from "../base/errors.ts";
import type { crc32 } from "./crc32.ts";

/** A file that is open for reading. */
export interface OpenFile extends Disposable {
  /** In bytes. */
  readonly size: number;
  /**
   * Fills `target` with the bytes from byte `offset` on.
   *
   * @returns How many were read; fewer than `target` holds only where the file ends.
   * @throws {Error} With a `code` as systems name it, such as EACCES.
   */
  read(offset: number, target: Uint8Array<ArrayBuffer>): number;
  /** The host's own CRC-32, where it has a fast one. */
  readonly crc32?: typeof crc32;
}

/** A file of a model by its place; whether it is there shows when it is opened. */
export interface SourceFile {
  /** What messages call it. */
  readonly path: string;
  /** @throws {Error} With a `code` as systems name it, such as ENOENT or EISDIR. */
  open(): OpenFile;
}

/**
 * A folder of a model, which the host gives: one of the disk, of a browser, or of memory. Everything
 * is read at once, without waiting; a browser does that in a worker, or has loaded it all before.
 */
export interface Folder {
  /** What messages call it. */
  readonly path: string;
  /**
   * The names of the files in it, sorted.
   *
   * @throws {Error} With a `code` as systems name it, such as ENOENT or ENOTDIR.
   */
  names(): string[];
  /** Whether it has a file, not a folder, of this name. */
  has(name: string): boolean;
  /** The file of this name, which need not be there. */
  file(name: string): SourceFile;
}

/** What a host throws that has no errors of an operating system. */
export class FileError extends Error {
  /** @param code As systems name it: ENOENT for what is not there. */
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

/** What went wrong with a file, in words. */
export function reasonOf(error: unknown): string {
  const { code, message } = error as { code?: string; message: string };
  return REASONS[code ?? ""] ?? message;
}

/** Whether a system refused something, so that nobody's code is wrong. */
export function isSystemError(error: unknown): error is Error & { code: string } {
  return error instanceof Error && "code" in error && typeof error.code === "string";
}

/**
 * The whole content of a file.
 *
 * @throws {UserError} If it cannot be read.
 */
export function readFile(source: SourceFile): Uint8Array<ArrayBuffer> {
  try {
    using file = source.open();
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
