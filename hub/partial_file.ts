import { createHash, type Hash } from "node:crypto";
import { rmSync } from "node:fs";
import { UserError } from "../base/errors.ts";
import { reasonOf } from "../storage/folder.ts";
import type { RemoteFile } from "./listing.ts";

/** Bytes of a kept part that are hashed at a time. */
const READ_BYTES = 1 << 20;

/**
 * The beginning of a file that is being transferred, in `<etag>.incomplete`. The hash is computed
 * as the bytes come, so that a file of many gigabytes need not be read again at its end.
 */
export class PartialFile implements Disposable {
  #hash!: Hash;
  #size = 0;
  #closed = false;

  private constructor(
    readonly path: string,
    readonly file: RemoteFile,
    readonly handle: Deno.FsFile,
  ) {
    this.#startHash();
  }

  /** Opens what an earlier transfer has left, or begins. */
  static async open(path: string, file: RemoteFile, signal: AbortSignal): Promise<PartialFile> {
    const partial = await writing(path, async () => {
      const handle = await Deno.open(path, { create: true, read: true, write: true });
      return new PartialFile(path, file, handle);
    });
    try {
      await writing(path, () => partial.#readKept(signal));
      return partial;
    } catch (error) {
      partial[Symbol.dispose]();
      throw error;
    }
  }

  /** Bytes that are there. */
  get size(): number {
    return this.#size;
  }

  get complete(): boolean {
    return this.#size === this.file.bytes;
  }

  /** The hash of a complete file, in the form of the etag. */
  digest(): string {
    return this.#hash.copy().digest("hex");
  }

  /**
   * Adds bytes at the end.
   *
   * @throws {UserError} If the disk is full; what fits is kept.
   */
  append(bytes: Uint8Array): void {
    for (let from = 0; from < bytes.length;) {
      try {
        const written = this.handle.writeSync(bytes.subarray(from));
        this.#hash.update(bytes.subarray(from, from + written));
        this.#size += written;
        from += written;
      } catch (error) {
        throw refused(this.path, error);
      }
    }
  }

  /** Begins anew. */
  restart(): void {
    try {
      this.handle.truncateSync(0);
      this.handle.seekSync(0, Deno.SeekMode.Start);
    } catch (error) {
      throw refused(this.path, error);
    }
    this.#startHash();
  }

  /** Makes sure that all is on the disk, where it cannot be lost any more, and gives it its name. */
  async finish(name: string): Promise<void> {
    await writing(this.path, async () => {
      await this.handle.sync();
      this.#close(); // Windows renames no open file
      await Deno.rename(this.path, name);
    });
  }

  /** Closes the file; what there is of it is kept. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#close();
    if (this.#size === 0) rmSync(this.path, { force: true });
  }

  /** Removes the file. */
  discard(): void {
    this.#close();
    rmSync(this.path, { force: true });
  }

  #close(): void {
    this.#closed = true;
    this.handle.close();
  }

  async #readKept(signal: AbortSignal): Promise<void> {
    const { size } = await this.handle.stat();
    if (size > this.file.bytes) return this.restart();
    const buffer = new Uint8Array(READ_BYTES);
    while (this.#size < size) {
      const read = await this.handle.read(buffer.subarray(0, size - this.#size));
      signal.throwIfAborted();
      if (read === null) return; // somebody else has cut it
      this.#hash.update(buffer.subarray(0, read));
      this.#size += read;
    }
  }

  #startHash(): void {
    const { etag, bytes } = this.file;
    // Small files have the name that git gives them: the SHA-1 of a header and the content.
    this.#hash = etag.length === 64
      ? createHash("sha256")
      : createHash("sha1").update(`blob ${bytes}\0`);
    this.#size = 0;
  }
}

async function writing<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    // An interruption, or what is already said in words, is passed on as it is.
    throw error instanceof Error && /\(os error \d+\)/.test(error.message)
      ? refused(path, error)
      : error;
  }
}

/** Reasons for which there is no `code`, by the system's text. */
const REASONS = [
  { text: /^File too large/, reason: "files may not be that large here" },
  { text: /quota exceeded/, reason: "the quota on the disk is used up" },
];

function refused(path: string, error: unknown): UserError {
  const { code, message } = error as { code?: string; message: string };
  const limit = REASONS.find(({ text }) => text.test(message));
  const advice = limit !== undefined || code === "ENOSPC"
    ? "; make room, or set HF_HOME or HF_HUB_CACHE to a folder on a larger disk, and run the same " +
      "command again: it resumes where it stopped"
    : "";
  return new UserError(`Cannot write "${path}": ${limit?.reason ?? reasonOf(error)}${advice}`);
}
