import {
	copyFileSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	readlinkSync,
	renameSync,
	rmSync,
	statSync,
	symlinkSync,
	writeFileSync,
} from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { UserError } from "../base/errors.ts";
import { reasonOf } from "../storage/folder.ts";
import { type HubRepository, isCommitHash } from "./repository.ts";
import { sleep } from "./retry.ts";

/** Interval between attempts to get a lock that another process holds. */
const LOCK_PERIOD_MS = 100;

/** How to have the cache of the hub elsewhere, for messages. */
export const HUB_REMEDY = "set HF_HOME or HF_HUB_CACHE to";

/** A file in the cache. */
export interface CachedFile {
	/** Path in the repository, with forward slashes. */
	path: string;
	/** Etag as in `RemoteFile`; absent for a copy in place of a link. */
	etag?: string;
	bytes: number;
}

/**
 * The folder of a repository in the cache, in the layout of Python's huggingface_hub:
 *
 *     blobs/<etag>                the content; <etag>.incomplete while it is transferred
 *     snapshots/<commit>/<path>   relative link to the blob, or the file itself without links
 *     refs/<revision>             the commit hash
 *     ../.locks/<folder>/<etag>.lock
 *
 * @see https://huggingface.co/docs/huggingface_hub/guides/manage-cache
 */
export class RepositoryCache {
	readonly folder: string;
	/** How to have it elsewhere, for messages; "a folder ..." follows. */
	readonly remedy: string = HUB_REMEDY;
	readonly #name: string;

	constructor(
		/** Root folder of the cache. */
		readonly root: string,
		repository: HubRepository,
		readonly symlink = symlinkSync as (target: string, path: string) => void,
	) {
		this.#name = [`${repository.type}s`, ...repository.id.split("/")].join("--");
		this.folder = join(root, this.#name);
	}

	blob(etag: string): string {
		return join(this.folder, "blobs", etag);
	}

	incomplete(etag: string): string {
		return `${this.blob(etag)}.incomplete`;
	}

	snapshot(commit: string): string {
		return join(this.folder, "snapshots", commit);
	}

	/** The commit of a revision at its last download. */
	commitOf(revision: string): string | undefined {
		if (isCommitHash(revision)) return revision;
		const commit = contentOf(join(this.folder, "refs", revision))?.trim();
		return commit !== undefined && isCommitHash(commit) ? commit : undefined;
	}

	/**
	 * Records the commit of a revision.
	 *
	 * @throws {UserError} If the cache cannot be written to.
	 */
	setCommit(revision: string, commit: string): void {
		if (revision === commit) return;
		const path = join(this.folder, "refs", revision);
		if (contentOf(path) === commit) return;
		makeFolder(dirname(path));
		// A unique name, because other processes may write the same file.
		const temporary = `${path}.${crypto.randomUUID()}.tmp`;
		try {
			writeFileSync(temporary, commit);
			renameSync(temporary, path);
		} catch (error) {
			rmSync(temporary, { force: true });
			throw new UserError(`Cannot write "${path}": ${reasonOf(error)}`);
		}
	}

	/** A file of a snapshot; undefined if it or its blob is missing. */
	file(commit: string, path: string): CachedFile | undefined {
		const place = join(this.snapshot(commit), path);
		const bytes = sizeOf(place);
		if (bytes === undefined) return undefined;
		try {
			return { path, etag: basename(readlinkSync(place)), bytes };
		} catch {
			return { path, bytes }; // a copy
		}
	}

	/** Names of the top-level files of a snapshot. */
	topNames(commit: string): string[] {
		const folder = this.snapshot(commit);
		try {
			return readdirSync(folder).filter((name) => this.file(commit, name));
		} catch (error) {
			if ((error as { code?: string }).code === "ENOENT") return [];
			throw new UserError(`Cannot read "${folder}": ${reasonOf(error)}`);
		}
	}

	/** Links a blob into a snapshot under some paths. `isNew`: nothing else refers to the blob yet. */
	link(commit: string, etag: string, paths: string[], isNew: boolean): void {
		const blob = this.blob(etag);
		for (const [i, path] of paths.entries()) {
			const place = join(this.snapshot(commit), path);
			makeFolder(dirname(place));
			try {
				rmSync(place, { force: true });
				try {
					this.symlink(relative(dirname(place), blob), place);
				} catch (error) {
					const { code } = error as { code?: string };
					// Another process has created the same link.
					if (code === "EEXIST" && sizeOf(place) === sizeOf(blob)) continue;
					// Few users may create links on Windows, some file systems do not support them, and some say
					// so in their own ways. What else may be wrong, the copy will meet.
					if (isNew && i === paths.length - 1) renameSync(blob, place);
					else copyFileSync(blob, place);
				}
			} catch (error) {
				throw new UserError(`Cannot write "${place}": ${reasonOf(error)}`);
			}
		}
	}

	/**
	 * Locks a blob against transfers by other processes and other calls. The lock is released when the file is
	 * closed, so at the latest at the end of the process.
	 *
	 * @param onWait Called once if the lock is held by others.
	 */
	async lock(etag: string, signal: AbortSignal, onWait: () => void): Promise<Disposable> {
		const path = join(this.root, ".locks", this.#name, `${etag}.lock`);
		for (let tries = 0;; tries++) {
			signal.throwIfAborted();
			makeFolder(dirname(path));
			let file: Deno.FsFile | undefined;
			try {
				file = await Deno.open(path, { create: true, write: true });
				// If the file was removed, another process could lock a new one.
				if (await file.tryLock(true) && (await file.stat()).ino === Deno.statSync(path).ino) {
					return file;
				}
				file.close();
			} catch (error) {
				file?.close();
				if (!(error instanceof Deno.errors.NotFound)) {
					throw new UserError(
						`Cannot lock "${path}": ${reasonOf(error)}; ` +
							`set HF_HUB_CACHE to a folder whose file system has locks`,
					);
				}
			}
			if (tries === 1) onWait();
			await sleep(LOCK_PERIOD_MS, signal);
		}
	}
}

/** Size of a file in bytes, following links; undefined if it is missing. */
export function sizeOf(path: string): number | undefined {
	try {
		const stat = statSync(path, { throwIfNoEntry: false });
		return stat?.isFile() ? stat.size : undefined;
	} catch (error) {
		throw new UserError(`Cannot read "${path}": ${reasonOf(error)}`);
	}
}

/** Creates a folder and its parents. */
export function makeFolder(path: string, remedy = HUB_REMEDY): void {
	try {
		mkdirSync(path, { recursive: true });
	} catch (error) {
		throw new UserError(
			`Cannot make the folder "${path}": ${reasonOf(error)}; ` +
				`${remedy} a folder that can be written to`,
		);
	}
}

function contentOf(path: string): string | undefined {
	try {
		return readFileSync(path, "utf8");
	} catch {
		return undefined; // usually missing
	}
}
