import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { crc32 } from "../storage/crc32.ts";
import { BlobFolder } from "./blob_folder.ts";
import { downloadFile, LIMITS } from "./download_file.ts";
import { type ListedFile, listFiles } from "./file_list.ts";
import type { ModelSource } from "./model_source.ts";
import { type DirectoryHandle, isMissing, type Locks } from "./origin_files.ts";
import { PassingTrouble } from "./request.ts";

/** The folder of all models in the origin private file system. */
const FOLDER = "billm-models";
/** What is known of a model, beside the folder of its files. */
const STATE = "state.json";
const FILES = "files";

/** Milliseconds in which a disposed model is free. */
const FREE_MS = 200;

/** What the store knows of a model; it is replaced as a whole, so that it is never half-written. */
interface State {
	format: 1;
	name: string;
	url: string;
	source: ModelSource;
	files: Record<string, StoredFile>;
}

interface StoredFile {
	/** The version whose bytes are stored. */
	version?: string;
	bytes?: number;
	isComplete: boolean;
}

/** A model in the browser's storage. */
export interface StoredModel {
	key: string;
	name: string;
	source: ModelSource;
	/** Bytes that are stored. */
	bytes: number;
	/** Bytes of the whole model, if the server has stated them. */
	total?: number;
	isComplete: boolean;
}

/** The options of {@link ModelStore.fetch}. */
export interface StoreOptions {
	signal?: AbortSignal;
	/** Called while files arrive, with bytes of the whole model; `total` is undefined if it is not known. */
	onProgress?(file: string, bytes: number, total: number | undefined): void;
	/** Called if another tab uses the model, so that changing it has to wait. */
	onWait?(): void;
	/** Called if the server cannot be reached, so that a stored model is used as it is. */
	onOffline?(reason: string): void;
}

/** A stored model that is in use: until it is disposed, no tab changes or removes it. */
export interface OpenModel extends Disposable {
	readonly folder: BlobFolder;
	readonly name: string;
}

/**
 * Models in the browser's own storage, the origin private file system. Downloads resume after anything that
 * interrupts them, and a complete model needs no network. Requires a worker.
 */
export class ModelStore {
	/**
	 * @param root The folder for everything: `navigator.storage.getDirectory()`.
	 * @param locks Those of all tabs: `navigator.locks`.
	 * @param estimate The room that there is: `navigator.storage.estimate()`.
	 */
	constructor(
		readonly root: DirectoryHandle,
		readonly locks: Locks,
		readonly estimate: () => Promise<{ quota?: number; usage?: number }> = async () => ({}),
		readonly limits = LIMITS,
	) {}

	/** The stored models, also incomplete ones, by name. */
	async list(): Promise<StoredModel[]> {
		const models: StoredModel[] = [];
		const all = await this.root.getDirectoryHandle(FOLDER, { create: true });
		for await (const [key, entry] of all.entries()) {
			if (entry.kind !== "directory") continue;
			const state = await readState(entry);
			if (!state) continue;
			const files = Object.values(state.files);
			models.push({
				key,
				name: state.name,
				source: state.source,
				bytes: await storedBytes(entry, state),
				total: totalOf(files),
				isComplete: files.every(({ isComplete }) => isComplete),
			});
		}
		return models.sort((a, b) => a.name < b.name ? -1 : 1);
	}

	/**
	 * Downloads what is missing of a model, or has changed on the server, and opens it.
	 *
	 * @throws {UserError} If there is no model, a file cannot be fetched or is not the announced one, or the
	 *   storage has no room.
	 * @throws The reason of the signal; what was downloaded is kept.
	 */
	async fetch(source: ModelSource, options: StoreOptions = {}): Promise<OpenModel> {
		const key = keyOf(source);
		let listed: ListedFile[];
		try {
			listed = await listFiles(source, options.signal);
		} catch (error) {
			options.signal?.throwIfAborted();
			const isUsable = error instanceof PassingTrouble && await this.#isComplete(key);
			if (!isUsable) throw error;
			options.onOffline?.(error.message);
			return await this.open(key);
		}
		if (!isUpToDate(listed, await this.#state(key))) {
			const work = () => this.#download(key, source, listed, options);
			await withinQuota(source.name, () => this.#whileAlone(key, options, work));
		}
		return await this.open(key);
	}

	/** Opens a stored model. @throws {UserError} If it is not there or not complete. */
	async open(key: string): Promise<OpenModel> {
		const release = await this.#hold(key);
		try {
			const state = await this.#state(key);
			if (!state || !Object.values(state.files).every(({ isComplete }) => isComplete)) {
				throw new UserError(`The model "${state?.name ?? key}" is not complete; load it again`);
			}
			const folder = await (await this.#folder(key)).getDirectoryHandle(FILES);
			const { files } = await BlobFolder.openOrigin(folder);
			return {
				folder: new BlobFolder(files, state.name),
				name: state.name,
				[Symbol.dispose]: release,
			};
		} catch (error) {
			release();
			throw error;
		}
	}

	/** Removes a model. @throws {UserError} If a tab, this or another one, uses it. */
	async remove(key: string): Promise<void> {
		// A model that was just disposed is free a moment later.
		const signal = AbortSignal.timeout(FREE_MS);
		const work = async () => {
			const all = await this.root.getDirectoryHandle(FOLDER, { create: true });
			await all.removeEntry(key, { recursive: true });
		};
		try {
			await this.locks.request(lockOf(key), { signal }, work);
		} catch (error) {
			if ((error as Error).name !== "TimeoutError") throw error;
			throw new UserError("The model is in use, here or in another tab; close it first");
		}
	}

	async #download(
		key: string,
		source: ModelSource,
		listed: readonly ListedFile[],
		{ signal, onProgress }: StoreOptions,
	): Promise<void> {
		const total = totalOf(listed);
		await this.#requireRoom(key, source.name, total);
		const folder = await this.#folder(key, true);
		const files = await folder.getDirectoryHandle(FILES, { create: true });
		const state = nextState(source, listed, await readState(folder));
		await writeState(folder, state); // before files change: they are then no longer what it says
		for await (const [name] of files.entries()) {
			if (!Object.hasOwn(state.files, name)) await files.removeEntry(name);
		}
		let done = await storedBytes(folder, state, true);
		for (const file of listed) {
			const stored = state.files[file.name];
			if (stored.isComplete) continue;
			const handle = await files.getFileHandle(file.name, { create: true });
			const target = await handle.createSyncAccessHandle();
			try {
				if (!canResume(file, stored)) target.truncate(0);
				if (stored.version !== file.version) {
					stored.version = file.version;
					await writeState(folder, state);
				}
				const progress = (bytes: number) => onProgress?.(file.name, done + bytes, total);
				await downloadFile(file, target, progress, signal, this.limits);
				stored.bytes = target.getSize();
				target.flush();
			} finally {
				target.close();
			}
			stored.isComplete = true;
			done += stored.bytes;
			await writeState(folder, state);
		}
	}

	/** @throws {UserError} If the browser says that there is too little room. */
	async #requireRoom(key: string, name: string, total: number | undefined): Promise<void> {
		const { quota, usage = 0 } = await this.estimate();
		if (total === undefined || quota === undefined) return;
		const state = await this.#state(key);
		const stored = state ? await storedBytes(await this.#folder(key), state) : 0;
		const [wanted, left] = [total - stored, Math.max(0, quota - usage)];
		if (wanted <= left) return;
		throw new UserError(
			`Cannot store "${name}": ${
				bytesText(wanted)
			} are still to be downloaded, but this page may ` +
				`store only ${bytesText(left)} more; delete another model, or free disk space`,
		);
	}

	/** Works on a model while no other tab uses it. */
	async #whileAlone(key: string, { signal, onWait }: StoreOptions, work: () => Promise<void>) {
		const name = lockOf(key);
		const isDone = await this.locks.request(name, { ifAvailable: true }, async (lock) => {
			if (lock) await work();
			return lock !== null;
		});
		if (isDone) return;
		onWait?.();
		await this.locks.request(name, { signal }, work);
	}

	/** Keeps other tabs from changing a model. @returns What ends that. */
	#hold(key: string): Promise<() => void> {
		return new Promise((resolve, reject) => {
			const held = () => new Promise<void>((release) => resolve(release));
			this.locks.request(lockOf(key), { mode: "shared" }, held).catch(reject);
		});
	}

	async #folder(key: string, create = false): Promise<DirectoryHandle> {
		const all = await this.root.getDirectoryHandle(FOLDER, { create: true });
		return await all.getDirectoryHandle(key, { create });
	}

	async #state(key: string): Promise<State | undefined> {
		try {
			return await readState(await this.#folder(key));
		} catch (error) {
			if (isMissing(error)) return undefined;
			throw error;
		}
	}

	async #isComplete(key: string): Promise<boolean> {
		const state = await this.#state(key);
		return state !== undefined && Object.values(state.files).every(({ isComplete }) => isComplete);
	}
}

/** Any operation on the storage may find it full. @throws {UserError} Which says so. */
async function withinQuota(name: string, work: () => Promise<void>): Promise<void> {
	try {
		await work();
	} catch (error) {
		if ((error as Error).name !== "QuotaExceededError") throw error;
		throw new UserError(
			`Cannot store "${name}": the storage that the browser gives to this page is full; delete another ` +
				`model, or free disk space. What was downloaded is kept`,
		);
	}
}

/** The folder of a model: readable, and different for different URLs. */
export function keyOf({ name, url }: ModelSource): string {
	const sum = crc32(new TextEncoder().encode(url)).toString(16).padStart(8, "0");
	return `${name.replaceAll(/[^\w.-]+/g, "-").replace(/^[.-]+/, "")}-${sum}`;
}

function lockOf(key: string): string {
	return `billm ${key}`;
}

/** Whether stored bytes of a file can be continued: they must be of the version that the server has. */
function canResume({ version }: ListedFile, stored: StoredFile): boolean {
	return version !== undefined && stored.version === version;
}

function isUpToDate(listed: readonly ListedFile[], state: State | undefined): boolean {
	if (!state || Object.keys(state.files).length !== listed.length) return false;
	return listed.every((file) => isSame(file, state.files[file.name]));
}

/** Whether a file is stored as it is on the server, as far as the server says. */
function isSame({ version, bytes }: ListedFile, stored: StoredFile | undefined): boolean {
	if (!stored?.isComplete) return false;
	return version === stored.version && (bytes ?? stored.bytes) === stored.bytes;
}

/** The state at the start of a download; files that are stored as they are on the server stay complete. */
function nextState(
	source: ModelSource,
	listed: readonly ListedFile[],
	before: State | undefined,
): State {
	const files = listed.map((file): [string, StoredFile] => {
		const stored = before?.files[file.name];
		if (isSame(file, stored)) return [file.name, stored!];
		const { version } = stored ?? {};
		return [file.name, { version, bytes: file.bytes, isComplete: false }];
	});
	const { name, url } = source;
	return { format: 1, name, url, source, files: Object.fromEntries(files) };
}

/** The sum of the sizes of files; undefined if one is not known. */
function totalOf(files: readonly { bytes?: number }[]): number | undefined {
	let total = 0;
	for (const { bytes } of files) {
		if (bytes === undefined) return undefined;
		total += bytes;
	}
	return total;
}

/** The bytes of a model's files that are stored, or of those that are complete. */
async function storedBytes(
	folder: DirectoryHandle,
	state: State,
	onlyComplete = false,
): Promise<number> {
	let total = 0;
	const files = await folder.getDirectoryHandle(FILES, { create: true });
	for await (const [name, entry] of files.entries()) {
		const isCounted = entry.kind === "file" && Object.hasOwn(state.files, name);
		if (!isCounted || (onlyComplete && !state.files[name].isComplete)) continue;
		total += (await entry.getFile()).size;
	}
	return total;
}

async function readState(folder: DirectoryHandle): Promise<State | undefined> {
	try {
		const file = await (await folder.getFileHandle(STATE)).getFile();
		const state = JSON.parse(await file.text());
		return state?.format === 1 ? state : undefined;
	} catch (error) {
		if (isMissing(error) || error instanceof SyntaxError) return undefined;
		throw error;
	}
}

async function writeState(folder: DirectoryHandle, state: State): Promise<void> {
	const file = await (await folder.getFileHandle(STATE, { create: true })).createWritable();
	await file.write(JSON.stringify(state));
	await file.close();
}
