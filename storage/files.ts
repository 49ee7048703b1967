import { createHash, type Hash } from "node:crypto";
import {
	closeSync,
	openSync,
	readdirSync,
	readFileSync,
	readSync,
	rmSync,
	statfsSync,
	statSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { UserError } from "../base/errors.ts";
import { reasonOf } from "./folder.ts";

/**
 * Replaces a file atomically: a reader, or a crash, finds either the old content or the new one. A link in
 * the file's place is replaced, never written through.
 */
export function writeFileAtomically(path: string, content: string): void {
	replaceAtomically(path, new TextEncoder().encode(content));
}

/** Copies a file atomically. */
export function copyFileAtomically(source: string, path: string): void {
	try {
		replaceAtomically(path, readFileSync(source));
	} catch (error) {
		if (error instanceof UserError) throw error;
		throw new UserError(`Cannot read "${source}": ${reasonOf(error)}`);
	}
}

/** Writes a value atomically as indented JSON. */
export function writeJsonAtomically(path: string, value: unknown): void {
	writeFileAtomically(path, JSON.stringify(value, null, 2) + "\n");
}

function replaceAtomically(path: string, content: Uint8Array): void {
	const temporary = temporaryName(path);
	try {
		{
			using file = Deno.openSync(temporary, { write: true, createNew: true });
			writeWhole(file, content);
			file.syncSync();
		}
		Deno.renameSync(temporary, path);
	} catch (error) {
		rmSync(temporary, { force: true });
		throw new UserError(`Cannot write "${path}": ${reasonOf(error)}`);
	}
}

/** Writes all of some bytes. */
export function writeWhole(file: Deno.FsFile, bytes: Uint8Array): void {
	for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
}

/**
 * A name for the temporary file that becomes `path`. Nobody can know it before, so that nothing can be put
 * in its place; it is to be opened with `createNew`.
 */
export function temporaryName(path: string): string {
	return `${path}.${crypto.randomUUID()}.tmp`;
}

const TEMPORARY = /^(.+)\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp$/;

/** The name that a file of a {@link temporaryName} was to get; undefined for other names. */
export function nameOfTemporary(name: string): string | undefined {
	return TEMPORARY.exec(name)?.[1];
}

/**
 * What tells whether a file has been written to or replaced since: device, number, size and times. Links are
 * followed.
 *
 * @throws {UserError} If there is no such file.
 */
export function fileStamp(path: string): string {
	try {
		const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
		return [dev, ino, size, mtimeNs, ctimeNs].join(" ");
	} catch (error) {
		throw new UserError(`Cannot read "${path}": ${reasonOf(error)}`);
	}
}

/** A hash that was computed from a file's content, and the stamp of the file before that. */
export interface HashedFile {
	sha256: string;
	/** See {@link fileStamp}. */
	stamp: string;
}

/**
 * Computes the SHA-256 of a file in steps of 64 MiB; each step yields the number of bytes read.
 *
 * @throws {UserError} If the file cannot be read.
 */
export function* sha256InSteps(path: string): Generator<number, string> {
	const hash = createHash("sha256");
	yield* hashInSteps(path, [hash]);
	return hash.digest("hex");
}

/**
 * Feeds a file to some hashes, in the steps of {@link sha256InSteps}.
 *
 * @throws {UserError} If the file cannot be read.
 */
export function* hashInSteps(path: string, hashes: readonly Hash[]): Generator<number, void> {
	const buffer = new Uint8Array(1 << 20);
	let file: number;
	try {
		file = openSync(path, "r");
	} catch (error) {
		throw new UserError(`Cannot read "${path}": ${reasonOf(error)}`);
	}
	try {
		let step = 0;
		for (let read = 0; (read = readSync(file, buffer)) > 0;) {
			for (const hash of hashes) hash.update(buffer.subarray(0, read));
			step += read;
			if (step < 64 << 20) continue;
			yield step;
			step = 0;
		}
	} catch (error) {
		throw new UserError(`Cannot read "${path}": ${reasonOf(error)}`);
	} finally {
		closeSync(file);
	}
}

/** @throws {UserError} If the file cannot be read. */
export function sha256OfFile(path: string): string {
	const steps = sha256InSteps(path);
	for (;;) {
		const { done, value } = steps.next();
		if (done) return value;
	}
}

/** Free bytes for this user on the disk of a folder, which need not exist yet. */
export function freeBytes(folder: string): number {
	for (let path = folder;; path = dirname(path)) {
		try {
			const { bavail, bsize } = statfsSync(path);
			return bavail * bsize;
		} catch (error) {
			// No such folder yet, unless this is the root.
			if (dirname(path) === path) {
				throw new UserError(`Cannot tell the free space of "${folder}": ${reasonOf(error)}`);
			}
		}
	}
}

/** Whether there is a file that is not empty; links are followed. */
export function isFilledFile(path: string): boolean {
	const stats = statSync(path, { throwIfNoEntry: false });
	return stats !== undefined && stats.isFile() && stats.size > 0;
}

/** The bytes of the files in a folder, without those in its subfolders; 0 if there is no such folder. */
export function folderBytes(folder: string): number {
	if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return 0;
	return readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile())
		.reduce((bytes, { name }) => bytes + statSync(join(folder, name)).size, 0);
}
