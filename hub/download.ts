import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { type RepositoryCache, sizeOf } from "./cache.ts";
import type { RemoteFile } from "./listing.ts";
import { ProgressMeter } from "./progress.ts";
import { HubSession } from "./session.ts";
import { transferBlob } from "./transfer.ts";
import { VerifiedFiles, verifyFile } from "./verify.ts";

/** A download of files of one commit into the cache, several at a time. */
export class Download {
	/** The hashes of the files that were in the cache. */
	readonly verified = new VerifiedFiles();
	/** Etags of files in the cache with other content. */
	readonly #damaged = new Set<string>();

	constructor(
		readonly session: HubSession,
		readonly cache: RepositoryCache,
		readonly commit: string,
		readonly meter: ProgressMeter,
		readonly freeBytes: (folder: string) => number,
		readonly onHashed: (bytes: number) => void = () => {},
	) {}

	/**
	 * Plans the download of some files.
	 *
	 * @throws {UserError} If the disk is too small.
	 */
	plan(files: RemoteFile[]): void {
		const missing = new Map(this.#missing(files).map((file) => [file.etag, file]));
		let neededBytes = 0;
		this.meter.totalBytes = this.meter.doneBytes;
		for (const { etag, bytes } of missing.values()) {
			this.meter.totalBytes += bytes;
			if (sizeOf(this.cache.blob(etag)) === bytes) continue;
			const kept = sizeOf(this.cache.incomplete(etag)) ?? 0;
			neededBytes += kept <= bytes ? bytes - kept : bytes;
		}
		if (neededBytes === 0) return;
		const free = this.freeBytes(this.cache.folder);
		if (neededBytes > free) {
			throw new UserError(
				`Cannot download "${this.session.repository.id}": it needs ${bytesText(neededBytes)}, ` +
					`and the disk of "${this.cache.root}" has ${bytesText(free)} free; make room, or ` +
					`${this.cache.remedy} a folder on a larger disk`,
			);
		}
	}

	/**
	 * Runs the download; files in the cache are verified, and fetched again if they are damaged.
	 *
	 * @throws {UserError} If a file fails; the others are then stopped.
	 */
	async fetch(files: RemoteFile[]): Promise<void> {
		await this.#verify(files);
		// Several paths may have the same content.
		const waiting = [...Map.groupBy(this.#missing(files), ({ etag }) => etag).values()];
		const failed = new AbortController();
		const signal = AbortSignal.any([this.session.signal, failed.signal]);
		const { settings, repository, limits, warn } = this.session;
		const session = new HubSession(settings, repository, limits, signal, warn);
		const connection = async () => {
			for (let places; (places = waiting.shift());) {
				await this.#fetchBlob(session, places);
			}
		};
		await Promise.allSettled(
			Array.from({ length: limits.connections }, () =>
				connection().catch((error) => {
					waiting.length = 0;
					failed.abort(error); // no effect after an earlier failure
				})),
		);
		signal.throwIfAborted();
	}

	/** Downloads a blob and links it to its paths. */
	async #fetchBlob(session: HubSession, places: RemoteFile[]): Promise<void> {
		const { cache, commit, meter } = this;
		const [{ path, etag, bytes }] = places;
		using _lock = await cache.lock(
			etag,
			session.signal,
			() =>
				session.warn(
					`Waiting for another process, which downloads "${path}" of "${session.repository.id}"`,
				),
		);
		// Another process may have finished it.
		if (this.#missing(places).length > 0) {
			const isNew = await transferBlob(session, cache, commit, places[0], meter);
			cache.link(commit, etag, places.map(({ path }) => path), isNew);
			this.#damaged.delete(etag);
		}
		meter.advance(bytes - meter.doneOf(etag), etag);
	}

	/** Finds files of the cache that are damaged. */
	async #verify(files: RemoteFile[]): Promise<void> {
		const { signal, warn } = this.session;
		const missing = new Set(this.#missing(files));
		for (const { path, etag, bytes } of files.filter((file) => !missing.has(file))) {
			const place = join(this.cache.snapshot(this.commit), path);
			if (this.#damaged.has(etag) || this.verified.get(place)) continue;
			const hashed = await verifyFile(place, etag, { signal, onBytes: this.onHashed });
			if (hashed) this.verified.set(place, hashed);
			else {
				warn(
					`"${place}" is damaged: its content does not have the hash ${etag} that the hub lists; ` +
						`downloading it again`,
				);
				this.#damaged.add(etag);
				this.meter.totalBytes += bytes;
			}
		}
	}

	#missing(files: RemoteFile[]): RemoteFile[] {
		return files.filter(({ path, etag, bytes }) =>
			this.#damaged.has(etag) || this.cache.file(this.commit, path)?.bytes !== bytes
		);
	}
}
