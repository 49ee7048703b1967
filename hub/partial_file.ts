import { createHash, type Hash } from "node:crypto";
import { lstatSync, rmSync } from "node:fs";
import { UserError } from "../base/errors.ts";
import { reasonOf } from "../storage/folder.ts";
import type { RemoteFile } from "./listing.ts";

/** Bytes per step when a partial file is hashed. */
const READ_BYTES = 1 << 20;

/**
 * A partially transferred file, `<etag>.incomplete`. The hash is computed while bytes arrive, so that large
 * files need not be read again at the end.
 */
export class PartialFile implements Disposable {
	#hash!: Hash;
	#size = 0;
	#closed = false;

	private constructor(
		readonly path: string,
		readonly file: RemoteFile,
		readonly handle: Deno.FsFile,
		readonly remedy: string,
	) {
		this.#startHash();
	}

	/**
	 * Opens the partial file of an earlier transfer, or creates one.
	 *
	 * @param remedy See `RepositoryCache`.
	 */
	static async open(
		path: string,
		file: RemoteFile,
		signal: AbortSignal,
		remedy: string,
	): Promise<PartialFile> {
		const partial = await writing(path, remedy, async () => {
			// What a link leads to is not ours.
			if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink()) rmSync(path);
			const handle = await Deno.open(path, { create: true, read: true, write: true });
			return new PartialFile(path, file, handle, remedy);
		});
		try {
			await writing(path, remedy, () => partial.#readKept(signal));
			return partial;
		} catch (error) {
			partial[Symbol.dispose]();
			throw error;
		}
	}

	/** Number of bytes present. */
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
	 * Appends bytes.
	 *
	 * @throws {UserError} If the disk is full; the bytes that fit are kept.
	 */
	append(bytes: Uint8Array): void {
		for (let from = 0; from < bytes.length;) {
			try {
				const written = this.handle.writeSync(bytes.subarray(from));
				this.#hash.update(bytes.subarray(from, from + written));
				this.#size += written;
				from += written;
			} catch (error) {
				throw refused(this.path, this.remedy, error);
			}
		}
	}

	/** Discards the content. */
	restart(): void {
		try {
			this.handle.truncateSync(0);
			this.handle.seekSync(0, Deno.SeekMode.Start);
		} catch (error) {
			throw refused(this.path, this.remedy, error);
		}
		this.#startHash();
	}

	/** Flushes the file to disk and renames it to its final name. */
	async finish(name: string): Promise<void> {
		await writing(this.path, this.remedy, async () => {
			await this.handle.sync();
			this.#close(); // Windows cannot rename open files
			await Deno.rename(this.path, name);
		});
	}

	/** Closes the file and keeps it. */
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
			if (read === null) return; // truncated by another process
			this.#hash.update(buffer.subarray(0, read));
			this.#size += read;
		}
	}

	#startHash(): void {
		const { etag, bytes } = this.file;
		// The etag of a small file is its git hash: the SHA-1 of a header and the content.
		this.#hash = etag.length === 64
			? createHash("sha256")
			: createHash("sha1").update(`blob ${bytes}\0`);
		this.#size = 0;
	}
}

async function writing<T>(path: string, remedy: string, work: () => Promise<T>): Promise<T> {
	try {
		return await work();
	} catch (error) {
		// Interruptions and user errors are passed on unchanged.
		throw error instanceof Error && /\(os error \d+\)/.test(error.message)
			? refused(path, remedy, error)
			: error;
	}
}

/** Reasons without a `code`, by the text of the system. */
const REASONS = [
	{ text: /^File too large/, reason: "files may not be that large here" },
	{ text: /quota exceeded/, reason: "the quota on the disk is used up" },
];

function refused(path: string, remedy: string, error: unknown): UserError {
	const { code, message } = error as { code?: string; message: string };
	const limit = REASONS.find(({ text }) => text.test(message));
	const advice = limit !== undefined || code === "ENOSPC"
		? `; make room, or ${remedy} a folder on a larger disk, and run the same ` +
			"command again: it resumes where it stopped"
		: "";
	return new UserError(`Cannot write "${path}": ${limit?.reason ?? reasonOf(error)}${advice}`);
}
