import { readdirSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { sum } from "../../base/figures.ts";
import { fileStamp, type HashedFile, sha256InSteps } from "../../storage/files.ts";
import type { ModelContext } from "../stage.ts";
import { hubName } from "./hub_access.ts";

/**
 * The input files of a run. What is recorded or kept under their hashes must come from the content that was
 * hashed, so each file has to stay what it was when the run first saw it.
 */
export class RunInputs {
	/** Stamps by path, from before anything was read. */
	readonly #stamps = new Map<string, string>();
	#hashes: Record<string, string> | undefined;
	/** Names by path of files that were not there to be hashed. */
	readonly #names = new Map<string, string>();

	/** Notes the files of a folder, if there is one, before any of them is read. */
	noteFolder(folder: string): void {
		if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return;
		for (const name of readdirSync(folder)) {
			const path = join(folder, name);
			// Links that lead nowhere are no inputs.
			if (statSync(path, { throwIfNoEntry: false })?.isFile()) this.note([path]);
		}
	}

	/** Notes files that are about to be read; those that are known keep their stamps. */
	note(paths: readonly string[]): void {
		for (const path of paths) {
			if (!this.#stamps.has(path)) this.#stamps.set(path, fileStamp(path));
		}
	}

	/** Forgets a file that the run itself removes. */
	forget(path: string): void {
		this.#stamps.delete(path);
	}

	/** SHA-256 of the files by path, or by name for files of the hub; there after {@link hash}. */
	get hashes(): Readonly<Record<string, string>> {
		return this.#hashes ?? {};
	}

	/** The hash of an input. */
	sha256(path: string): string {
		const hash = this.hashes[this.#names.get(path) ?? hubName(path) ?? path];
		if (hash === undefined) throw new Error(`"${path}" is no input of the run`);
		return hash;
	}

	/**
	 * Hashes the files.
	 *
	 * @param known What has been hashed in this run already.
	 * @param listed Name and hash of a file that is not there yet, and is verified when it arrives.
	 * @throws {UserError} If a file cannot be read, has changed since it was noted, or lies in a cache of the
	 *   hub under another hash.
	 */
	async hash(
		{ emit, pause }: Pick<ModelContext, "emit" | "pause">,
		paths: readonly string[],
		known: (path: string) => HashedFile | undefined,
		listed: (path: string) => { name: string; sha256: string } | undefined,
	): Promise<void> {
		this.note(paths.filter((path) => !listed(path)));
		const isKnown = (path: string) => known(path)?.stamp === this.#stamps.get(path);
		const sizeOf = (path: string) => listed(path) || isKnown(path) ? 0 : statSync(path).size;
		const total = sum(paths.map(sizeOf));
		const text = "hashing the inputs";
		const hashes: Record<string, string> = {};
		let before = 0;
		for (const path of paths) {
			const late = listed(path);
			if (late) {
				this.#names.set(path, late.name);
				hashes[late.name] = late.sha256;
				continue;
			}
			let hash = isKnown(path) ? known(path)!.sha256 : undefined;
			let done = before;
			for (const steps = sha256InSteps(path); hash === undefined;) {
				const step = steps.next();
				if (step.done) hash = step.value;
				else emit({ type: "progress", stage: "download", done: done += step.value, total, text });
				await pause();
			}
			before += sizeOf(path);
			refuseDamaged(path, hash);
			hashes[hubName(path) ?? path] = hash;
		}
		for (const path of this.#stamps.keys()) {
			if (!paths.includes(path)) this.#stamps.delete(path);
		}
		this.#hashes = hashes;
		this.check();
	}

	/** @throws {UserError} If an input is no longer the file that was hashed, as far as its stamp tells. */
	check(): void {
		for (const [path, stamp] of this.#stamps) {
			let now: string | undefined;
			try {
				now = fileStamp(path);
			} catch {
				now = undefined;
			}
			if (now === stamp) continue;
			throw new UserError(
				`"${path}" ${
					now === undefined ? "was removed" : "was changed"
				} during the run, which may ` +
					`have read parts of both contents; nothing more is recorded. Run the command again when ` +
					`nothing writes to the file`,
			);
		}
	}
}

/** @throws {UserError} If a file of a hub's cache, given by its path, is not what its blob's name says. */
function refuseDamaged(path: string, sha256: string): void {
	if (!hubName(path)) return;
	const blob = realpathSync(path);
	const isNamed = basename(dirname(blob)) === "blobs" && /^[0-9a-f]{64}$/.test(basename(blob));
	if (!isNamed || basename(blob) === sha256) return;
	throw new UserError(
		`"${path}" is damaged: its content has the hash ${sha256}, but its name in the cache is ` +
			`${basename(blob)}; remove "${blob}" and download it again`,
	);
}
