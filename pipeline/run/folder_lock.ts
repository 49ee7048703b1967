import { existsSync, lstatSync, mkdirSync, readFileSync, rmdirSync, rmSync } from "node:fs";
import { hostname } from "node:os";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { UserError } from "../../base/errors.ts";
import { reasonOf } from "../../storage/folder.ts";
import { writeWhole } from "../../storage/files.ts";

/** The file of a {@link FolderLock}. */
export const FOLDER_LOCK = "run.lock";

/** Attempts to get a lock that another process may hold for a moment, and the pause between them. */
const ATTEMPTS = 5;
const PAUSE_MS = 20;

/** The error for a folder that another process writes to. */
export class FolderInUse extends UserError {
	override name = "FolderInUse";
}

/** Who holds a lock, as the lock's file says. */
interface Holder {
	pid: number;
	host: string;
}

/** What a lock needs of the system. */
export interface LockSystem {
	/**
	 * Locks an open file for this process alone, until it is closed.
	 *
	 * @returns Whether no other process holds the lock.
	 * @throws {Error} If the file system has no locks.
	 */
	tryLock(file: Deno.FsFile): boolean;
}

/** The locks that this process holds, for file systems without locks. */
const HELD = new Set<string>();

const SYSTEM: LockSystem = { tryLock: (file) => file.tryLockSync(true) };

/**
 * The right to write to the folder of a run: a file `run.lock` in it, locked by the system as long as the
 * process lives, which names process and host. What a killed process leaves is therefore free. On file
 * systems without locks the process that the file names counts.
 */
export class FolderLock implements Disposable {
	#file: Deno.FsFile | undefined;
	readonly #path: string;
	/** The outermost folder made for the lock. */
	readonly #made: string | undefined;

	private constructor(path: string, file: Deno.FsFile, made: string | undefined) {
		this.#path = path;
		this.#file = file;
		this.#made = made;
	}

	/**
	 * Takes the right to write to a folder, which is made if it is missing.
	 *
	 * @throws {FolderInUse} If another process, or another run of this one, has it.
	 * @throws {UserError} If the folder cannot be written to.
	 */
	static take(folder: string, system: LockSystem = SYSTEM): FolderLock {
		let made: string | undefined;
		try {
			made = mkdirSync(folder, { recursive: true });
		} catch (error) {
			throw new UserError(`Cannot make the output folder "${folder}": ${reasonOf(error)}`);
		}
		const path = join(folder, FOLDER_LOCK);
		const file = open(folder, path, system);
		try {
			file.truncateSync();
			const holder: Holder = { pid: Deno.pid, host: hostname() };
			writeWhole(file, new TextEncoder().encode(JSON.stringify(holder) + "\n"));
			HELD.add(resolve(path));
			return new FolderLock(path, file, made);
		} catch (error) {
			file.close();
			throw new UserError(`Cannot write "${path}": ${reasonOf(error)}`);
		}
	}

	/**
	 * Refuses a folder that another process writes to; changes nothing.
	 *
	 * @throws {FolderInUse}
	 */
	static check(folder: string, system: LockSystem = SYSTEM): void {
		const path = join(folder, FOLDER_LOCK);
		if (!existsSync(path)) return;
		let file: Deno.FsFile;
		try {
			file = Deno.openSync(path, { read: true, write: true });
		} catch {
			return; // gone by now, or not to be written, which whoever takes the lock will find
		}
		using _ = file;
		if (!isFree(file, path, system)) throw inUse(folder, path);
	}

	/** Gives the right back, and removes the folder if it was made for the lock and is empty. */
	[Symbol.dispose](): void {
		const file = this.#file;
		if (!file) return;
		this.#file = undefined;
		HELD.delete(resolve(this.#path));
		const remove = () => rmSync(this.#path, { force: true });
		try {
			if (Deno.build.os !== "windows") remove(); // while it is held, so that it is that of no other
			file.close();
			if (Deno.build.os === "windows") remove();
		} catch {
			// Whoever comes next finds the lock free.
		}
		this.#removeMade();
	}

	#removeMade(): void {
		if (this.#made === undefined) return;
		const last = resolve(this.#made);
		try {
			for (let folder = resolve(dirname(this.#path));; folder = dirname(folder)) {
				rmdirSync(folder);
				if (folder === last) return;
			}
		} catch {
			return; // no longer empty
		}
	}
}

/** Opens the file of a lock and locks it. */
function open(folder: string, path: string, system: LockSystem): Deno.FsFile {
	for (let attempt = 1;; attempt++) {
		let file: Deno.FsFile | undefined;
		try {
			if (isLink(path)) rmSync(path); // what it leads to is not ours
			file = Deno.openSync(path, { create: true, read: true, write: true });
			// If the file was removed, another process could lock a new one.
			if (isFree(file, path, system) && file.statSync().ino === Deno.statSync(path).ino) {
				return file;
			}
		} catch (error) {
			file?.close();
			if (error instanceof Deno.errors.NotFound && attempt < ATTEMPTS) continue;
			throw new UserError(`Cannot write "${path}": ${reasonOf(error)}`);
		}
		file.close();
		if (attempt === ATTEMPTS) throw inUse(folder, path);
		Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
	}
}

function isLink(path: string): boolean {
	return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
}

/** Whether nobody else holds a lock; locks it if the file system has locks. */
function isFree(file: Deno.FsFile, path: string, system: LockSystem): boolean {
	try {
		return system.tryLock(file);
	} catch {
		const holder = holderOf(path);
		if (!holder) return true;
		if (holder.host !== hostname()) return false;
		return holder.pid === Deno.pid ? !HELD.has(resolve(path)) : !isAlive(holder.pid);
	}
}

function isAlive(pid: number): boolean {
	try {
		process.kill(pid, 0);
		return true;
	} catch (error) {
		return (error as { code?: string }).code === "EPERM"; // that of another user
	}
}

function holderOf(path: string): Holder | undefined {
	try {
		const { pid, host } = JSON.parse(readFileSync(path, "utf8"));
		return Number.isSafeInteger(pid) && pid > 0 && typeof host === "string"
			? { pid, host }
			: undefined;
	} catch {
		return undefined; // being written, or not readable while it is locked
	}
}

function inUse(folder: string, path: string): FolderInUse {
	const holder = holderOf(path);
	const who = holder
		? `process ${holder.pid} on ${JSON.stringify(holder.host)}`
		: "another process";
	return new FolderInUse(
		`The folder "${folder}" is in use: ${who} writes to it; wait until it has ended or choose ` +
			`another output` +
			(holder && holder.host !== hostname() ? `; if it is long gone, remove "${path}"` : ""),
	);
}
