import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { fileStamp, type HashedFile, hashInSteps } from "../storage/files.ts";

/** What hashes files, and tells of it. */
export interface Verifying {
	signal: AbortSignal;
	/** Called with the number of bytes hashed since the last call. */
	onBytes?(bytes: number): void;
}

/** Whether an etag is a hash: SHA-256 in 64 digits or git's SHA-1 in 40. */
export function isHash(etag: string): boolean {
	return /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(etag);
}

/**
 * Hashes a file of the cache.
 *
 * @param etag The hash that it should have.
 * @returns Its SHA-256; undefined if its content does not have the hash of the etag.
 * @throws {UserError} If it cannot be read.
 * @throws The reason of the signal, soon after it is aborted.
 */
export async function verifyFile(
	path: string,
	etag: string,
	{ signal, onBytes }: Verifying,
): Promise<HashedFile | undefined> {
	const stamp = fileStamp(path);
	const size = Number(stamp.split(" ")[2]);
	const sha256 = createHash("sha256");
	const git = createHash("sha1").update(`blob ${size}\0`);
	const isGit = etag.length === 40;
	for (const bytes of hashInSteps(path, isGit ? [sha256, git] : [sha256])) {
		onBytes?.(bytes);
		await setImmediate();
		signal.throwIfAborted();
	}
	const hash = sha256.digest("hex");
	return (isGit ? git.digest("hex") : hash) === etag ? { sha256: hash, stamp } : undefined;
}

/** Hashes by the real paths of files. */
export class VerifiedFiles {
	readonly #files = new Map<string, HashedFile>();

	get(path: string): HashedFile | undefined {
		return this.#files.get(realpathSync(path));
	}

	set(path: string, hashed: HashedFile): void {
		this.#files.set(realpathSync(path), hashed);
	}

	/** Takes over the hashes of others. */
	add(others: VerifiedFiles): void {
		for (const [path, hashed] of others.#files) this.#files.set(path, hashed);
	}
}
