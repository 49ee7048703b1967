import { rmSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { sum } from "../base/figures.ts";
import { bytesText } from "../base/units.ts";
import { denoFile, denoFolder } from "../storage/deno_folder.ts";
import { fileStamp, freeBytes } from "../storage/files.ts";
import {
	type FileFetcher,
	type Folder,
	type OpenFile,
	reasonOf,
	type SourceFile,
} from "../storage/folder.ts";
import { MAX_HEADER_BYTES } from "../storage/safetensors.ts";
import { makeFolder, sizeOf } from "./cache.ts";
import { Download } from "./download.ts";
import type { MissingShards } from "./fetch_files.ts";
import type { RemoteFile } from "./listing.ts";
import { type HubProgress, ProgressMeter } from "./progress.ts";
import { HubSession } from "./session.ts";
import { ShardFolder } from "./shard_folder.ts";
import type { ShardDownload, ShardNews, ShardTask } from "./shard_worker.ts";
import { readStart } from "./transfer.ts";

/** The names that shards must have, so that those in a folder are known for what they are. */
const SHARD = /^model-\d+-of-\d+\.safetensors$/;

/** Whether a file is one that {@link Shards} writes into its folder. */
export function isShardFile(name: string): boolean {
	return SHARD.test(name) || /^[0-9a-f]{64}(?:\.incomplete)?$/.test(name);
}

/** Bytes of a file that are read for its header, unless that is longer. */
const START_BYTES = 1 << 16;

export interface ShardsOptions {
	/** Called while {@link Shards.fetch} waits. */
	onProgress?(progress: HubProgress): void;
	/** Called with the path of a shard that has arrived and was verified. */
	onArrived?(path: string): void;
	/** Called with the path of a shard before it is removed. */
	onRemove?(path: string): void;
	/** Bytes free on the disk of a folder. */
	freeBytes?(folder: string): number;
}

/**
 * The shards of a model on the hub, each of which is downloaded when it is needed, verified, and removed
 * when it no longer is. Their headers are read at the start, so that the tensors are known.
 *
 * The folder must belong to this process alone. What an earlier one has left there is used.
 */
export class Shards implements FileFetcher {
	/** By path in the folder. */
	readonly #shards: Map<string, Shard>;
	readonly #cache: ShardFolder;
	readonly #transfers: Transfers;
	#waiting = 0;

	private constructor(
		readonly folder: string,
		readonly session: HubSession,
		readonly commit: string,
		shards: Shard[],
		readonly options: ShardsOptions,
	) {
		this.#cache = new ShardFolder(folder, session.repository);
		this.#shards = new Map(shards.map((shard) => [shard.path, shard]));
		this.#transfers = new Transfers((progress) => {
			if (this.#waiting > 0) options.onProgress?.(progress);
		}, session.warn);
	}

	/**
	 * Reads the headers of the shards; the folder need not exist yet.
	 *
	 * @throws {UserError} If that fails, or a shard cannot be verified later.
	 */
	static async open(
		folder: string,
		{ session, commit, files }: MissingShards,
		options: ShardsOptions = {},
	): Promise<Shards> {
		const etags = files.map(({ etag }) => etag);
		for (const [i, { path, etag }] of files.entries()) {
			const problem = !SHARD.test(path)
				? `is not named like "model-00001-of-00002.safetensors"`
				: etag.length !== 64
				? "is listed without its SHA-256"
				: etags.indexOf(etag) < i
				? "has the content of another one" // they would be written to the same file
				: undefined;
			if (problem === undefined) continue;
			throw new UserError(
				`Cannot download "${session.repository.id}" shard by shard, as download.keep: false ` +
					`asks: "${path}" ${problem}; leave download.keep out`,
			);
		}
		// The cache cannot answer in place of the hub.
		const patient = sessionWith(session, session.signal);
		const shards: Shard[] = [];
		for (let first = 0; first < files.length; first += session.limits.connections) {
			const some = files.slice(first, first + session.limits.connections);
			shards.push(
				...await Promise.all(
					some.map(async (file) =>
						new Shard(join(folder, file.path), file, await startOf(patient, commit, file))
					),
				),
			);
		}
		return new Shards(folder, patient, commit, shards, options);
	}

	/** Their total size in bytes. */
	get bytes(): number {
		return sum(Array.from(this.#shards.values(), ({ file }) => file.bytes));
	}

	/** The bytes of the largest of some sets of paths, without files that are not among the shards. */
	mostBytes(together: readonly Iterable<string>[]): number {
		return Math.max(...together.map((paths) => sum(this.#of(paths).map(({ file }) => file.bytes))));
	}

	get count(): number {
		return this.#shards.size;
	}

	/** The hub's SHA-256 of the shard at a path, and its name as "id/path"; undefined for other files. */
	listed(path: string): { name: string; sha256: string } | undefined {
		const shard = this.#shards.get(path);
		const { id } = this.session.repository;
		return shard && { name: `${id}/${shard.file.path}`, sha256: shard.file.etag };
	}

	/** The model's folder: the other files in `snapshot`, and the shards as if they were there. */
	over(snapshot: string): Folder {
		const others = denoFolder(snapshot);
		const shardOf = (name: string) => this.#shards.get(join(this.folder, name));
		const names = Array.from(this.#shards.values(), ({ file }) => file.path);
		return {
			path: others.path,
			names: () => [...new Set([...others.names(), ...names])].sort(),
			has: (name) => shardOf(name) !== undefined || others.has(name),
			file: (name) => shardOf(name) ?? others.file(name),
			fetcher: this,
		};
	}

	/**
	 * Checks that the disk has room for some shards at a time.
	 *
	 * @param bytes Their size; those that are in the folder already are taken into account.
	 * @param beside Bytes that the run is still to write to the same disk.
	 * @throws {UserError} If it has not.
	 */
	requireRoom(bytes: number, beside = 0): void {
		const there = sum(
			Array.from(
				this.#shards.values(),
				({ path, file }) => sizeOf(path) ?? sizeOf(this.#cache.incomplete(file.etag)) ?? 0,
			),
		);
		const free = (this.options.freeBytes ?? freeBytes)(this.folder) + there;
		if (bytes + beside <= free) return;
		const run = beside > 0 ? ` beside ${bytesText(beside)} of the run` : "";
		throw new UserError(
			`Cannot download "${this.session.repository.id}" shard by shard: it needs ` +
				`${bytesText(bytes)} at a time${run}, and the disk of "${this.folder}" has ${
					bytesText(free)
				} ` +
				`for it; make room, or ${this.#cache.remedy} a folder on a larger disk`,
		);
	}

	isThere(paths: Iterable<string>): boolean {
		return this.#of(paths).every((shard) => shard.isThere);
	}

	async fetch(
		paths: Iterable<string>,
		others?: { next: Iterable<string>; kept: Iterable<string> },
	): Promise<void> {
		const now = this.#of(paths);
		const next = others ? this.#of(others.next) : [];
		if (others) {
			const stays = new Set([...now, ...next, ...this.#of(others.kept)]);
			for (const shard of this.#shards.values()) if (!stays.has(shard)) await this.#remove(shard);
		}
		this.#waiting++;
		try {
			await Promise.all(now.map((shard) => this.#arrival(shard)));
		} finally {
			this.#waiting--;
		}
		// What fails is told when the shard is needed.
		for (const shard of next) this.#arrival(shard).catch(() => {});
	}

	/** Stops all downloads and closes all files; partial files are kept. */
	async close(): Promise<void> {
		for (const shard of this.#shards.values()) {
			await shard.stop();
			shard.close();
		}
		this.#transfers.close();
	}

	#of(paths: Iterable<string>): Shard[] {
		return [...paths].flatMap((path) => this.#shards.get(path) ?? []);
	}

	/** Resolves when a shard is there, verified. */
	#arrival(shard: Shard): Promise<void> {
		if (shard.isUnchanged) return Promise.resolve();
		if (shard.isThere) {
			this.options.onRemove?.(shard.path); // somebody has removed or changed it
			shard.close();
		}
		return shard.arriving((signal) => this.#download(shard, signal));
	}

	async #download(shard: Shard, signal: AbortSignal): Promise<void> {
		const { path, file } = shard;
		makeFolder(this.folder, this.#cache.remedy);
		const { session, commit, folder } = this;
		const { freeBytes: free = freeBytes } = this.options;
		const meter = new ProgressMeter(() => {});
		new Download(session, this.#cache, commit, meter, free).plan([file]); // whether there is room
		const { settings, repository, limits } = session;
		const stopped = AbortSignal.any([session.signal, signal]);
		await this.#transfers.run({ settings, repository, limits, commit, folder, file }, stopped);
		shard.arrive();
		this.options.onArrived?.(path);
	}

	async #remove(shard: Shard): Promise<void> {
		await shard.stop();
		if (shard.isThere) this.options.onRemove?.(shard.path);
		shard.close(); // or the disk would keep it
		for (const path of [shard.path, this.#cache.incomplete(shard.file.etag)]) {
			try {
				rmSync(path, { force: true });
			} catch (error) {
				throw new UserError(`Cannot remove "${path}": ${reasonOf(error)}`);
			}
		}
	}
}

/** A shard; without its content, only the header can be read. */
class Shard implements SourceFile {
	/** The stamp of the verified file; undefined while there is none. */
	#stamp?: string;
	#transfer?: { done: Promise<void>; controller: AbortController };
	readonly #opened = new Set<ShardReader>();

	constructor(
		readonly path: string,
		readonly file: RemoteFile,
		/** The header and a few bytes more, which are not verified until the content is there. */
		readonly start: Uint8Array,
	) {}

	get isThere(): boolean {
		return this.#stamp !== undefined;
	}

	/** Whether it is there as it was verified. */
	get isUnchanged(): boolean {
		return this.isThere && sizeOf(this.path) !== undefined && fileStamp(this.path) === this.#stamp;
	}

	open(): OpenFile {
		const reader = new ShardReader(this, () => this.#opened.delete(reader));
		this.#opened.add(reader);
		return reader;
	}

	/** Runs a transfer, unless one is running; resolves when it is done. */
	arriving(transfer: (signal: AbortSignal) => Promise<void>): Promise<void> {
		if (!this.#transfer) {
			const controller = new AbortController();
			const done = transfer(controller.signal).finally(() => this.#transfer = undefined);
			this.#transfer = { done, controller };
		}
		return this.#transfer.done;
	}

	/** @throws {UserError} If the content does not begin with the header that the hub sent before. */
	arrive(): void {
		const stamp = fileStamp(this.path);
		using file = denoFile(this.path).open();
		const start = new Uint8Array(this.start.length);
		file.read(0, start);
		if (start.some((byte, i) => byte !== this.start[i])) {
			throw new UserError(
				`Cannot use "${this.path}": the hub has sent another header of it before; run the same ` +
					`command again`,
			);
		}
		this.#stamp = stamp;
	}

	/** Stops its transfer, if one is running. */
	async stop(): Promise<void> {
		this.#transfer?.controller.abort();
		await this.#transfer?.done.catch(() => {}); // told to whoever waits for it
	}

	/** Closes the file: only the header can be read from then on. */
	close(): void {
		this.#stamp = undefined;
		for (const reader of this.#opened) reader.close();
	}
}

/** A shard that is open for reading, also while its content comes and goes. */
class ShardReader implements OpenFile {
	readonly size: number;
	#file?: OpenFile;

	constructor(readonly shard: Shard, readonly onDispose: () => void) {
		this.size = shard.file.bytes;
	}

	read(offset: number, target: Uint8Array<ArrayBuffer>): number {
		const { path, start, isThere } = this.shard;
		if (isThere) {
			this.#file ??= denoFile(path).open();
			return this.#file.read(offset, target);
		}
		const end = Math.min(offset + target.length, this.size);
		if (end > start.length) throw new Error(`"${path}" was not fetched before it is read`);
		target.set(start.subarray(offset, end));
		return end - offset;
	}

	close(): void {
		this.#file?.[Symbol.dispose]();
		this.#file = undefined;
	}

	[Symbol.dispose](): void {
		this.close();
		this.onDispose();
	}
}

/** Downloads in a worker, which is started by the first one. */
class Transfers {
	#worker?: Worker;
	#next = 0;
	readonly #running = new Map<number, (news: ShardNews) => void>();

	constructor(
		readonly onProgress: (progress: HubProgress) => void,
		readonly warn: (text: string) => void,
	) {}

	/**
	 * Downloads a file.
	 *
	 * @throws {UserError} If it fails.
	 * @throws The reason of the signal, when it is aborted and the download has ended.
	 */
	async run(task: Omit<ShardDownload, "id">, signal: AbortSignal): Promise<void> {
		signal.throwIfAborted();
		const id = this.#next++;
		const worker = this.#worker ??= this.#start();
		const { promise, resolve, reject } = Promise.withResolvers<void>();
		this.#running.set(id, (news) => {
			if ("progress" in news) this.onProgress(news.progress);
			else if ("warning" in news) this.warn(news.warning);
			else if ("done" in news) resolve();
			else reject(news.isUserError ? new UserError(news.error) : new Error(news.error));
		});
		const stop = () => worker.postMessage({ id, stop: true } satisfies ShardTask);
		signal.addEventListener("abort", stop);
		worker.postMessage({ ...task, id } satisfies ShardTask);
		try {
			await promise;
		} catch (error) {
			signal.throwIfAborted();
			throw error;
		} finally {
			signal.removeEventListener("abort", stop);
			this.#running.delete(id);
		}
	}

	/** Ends the worker; no download may be running. */
	close(): void {
		this.#worker?.terminate();
		this.#worker = undefined;
	}

	#start(): Worker {
		const worker = new Worker(new URL("./shard_worker.ts", import.meta.url), { type: "module" });
		worker.addEventListener("message", ({ data }: MessageEvent<ShardNews>) => {
			this.#running.get(data.id)?.(data);
		});
		worker.addEventListener("error", (event) => {
			event.preventDefault();
			for (const [id, tell] of this.#running) {
				tell({ id, error: event.message, isUserError: false });
			}
		});
		return worker;
	}
}

function sessionWith(session: HubSession, signal: AbortSignal): HubSession {
	const { settings, repository, limits, warn } = session;
	return new HubSession(settings, repository, limits, signal, warn);
}

/** The start of a safetensors file, with the whole header. */
async function startOf(
	session: HubSession,
	commit: string,
	file: RemoteFile,
): Promise<Uint8Array> {
	const { bytes } = file;
	if (bytes < 8) return await readStart(session, commit, file, bytes); // refused when it is parsed
	const start = await readStart(session, commit, file, Math.min(bytes, START_BYTES));
	const headerBytes = Number(new DataView(start.buffer).getBigUint64(0, true));
	// The reader looks at 512 bytes; a longer header than the format allows is refused there.
	const wanted = Math.min(bytes, Math.max(512, 8 + headerBytes), MAX_HEADER_BYTES + 8);
	if (wanted <= start.length) return start.slice(0, wanted);
	return await readStart(session, commit, file, wanted);
}
