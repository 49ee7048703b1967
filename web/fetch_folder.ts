import { SMALL_FILES } from "../models/model_files.ts";
import { readWeightMap } from "../storage/checkpoint.ts";
import { FileError, type Folder, type OpenFile } from "../storage/folder.ts";
import { MemoryFolder } from "../storage/memory_folder.ts";
import { request } from "./request.ts";

const INDEX = "model.safetensors.index.json";
const SINGLE = "model.safetensors";

/** The synchronous requests of workers; Deno, which runs the tests, does not declare them. */
declare const XMLHttpRequest: {
	new (): {
		open(method: string, url: string, isAsync: boolean): void;
		setRequestHeader(name: string, value: string): void;
		responseType: string;
		send(): void;
		readonly status: number;
		readonly response: unknown;
	};
};

/** The options of {@link fetchFolder} and {@link remoteFolder}. */
export interface FetchOptions {
	signal?: AbortSignal;
	/** Called while a file is received. `total` is undefined if the server does not state it. */
	onProgress?(file: string, bytes: number, total: number | undefined): void;
}

/**
 * Fetches a model into memory: config.json, the tokenizer's files and the weights, as far as they exist.
 *
 * @param url The URL of the folder.
 * @throws {UserError} If a file cannot be fetched.
 * @throws {DOMException} If the signal aborts it.
 */
export async function fetchFolder(url: string, options: FetchOptions = {}): Promise<MemoryFolder> {
	const { folder, files, weights } = await fetchSmallFiles(url, options);
	for (const name of weights) {
		const bytes = await fetchFile(folder.path, name, options);
		if (bytes) files.set(name, bytes);
	}
	return folder;
}

/**
 * A model whose small files are fetched and whose weights stay on the server: each tensor is fetched when
 * it is read. Requires a worker, for synchronous requests, and a server that supports range requests.
 */
export async function remoteFolder(url: string, options: FetchOptions = {}): Promise<Folder> {
	const { folder, weights } = await fetchSmallFiles(url, options);
	const sizes = new Map<string, number>();
	for (const name of weights) {
		const file = `${folder.path}/${name}`;
		const response = await request(file, { method: "HEAD", signal: options.signal });
		if (response) sizes.set(name, Number(response.headers.get("content-length")));
	}
	return {
		path: folder.path,
		names: () => [...folder.names(), ...sizes.keys()].sort(),
		has: (name) => folder.has(name) || sizes.has(name),
		file(name) {
			const size = sizes.get(name);
			if (size === undefined) return folder.file(name);
			const path = `${folder.path}/${name}`;
			return { path, open: () => remoteFile(path, size) };
		},
	};
}

/** A file whose ranges are fetched synchronously. */
function remoteFile(url: string, size: number): OpenFile {
	return {
		size,
		read(offset, target) {
			const wanted = Math.min(target.length, size - offset);
			if (wanted <= 0) return 0;
			const part = new XMLHttpRequest();
			part.open("GET", url, false);
			part.responseType = "arraybuffer";
			part.setRequestHeader("range", `bytes=${offset}-${offset + wanted - 1}`);
			try {
				part.send();
			} catch (error) {
				throw new FileError("EIO", (error as Error).message);
			}
			if (part.status !== 206) {
				throw new FileError("EIO", `the server gives no parts of files (status ${part.status})`);
			}
			const bytes = new Uint8Array(part.response as ArrayBuffer);
			target.set(bytes.subarray(0, wanted));
			return Math.min(bytes.length, wanted);
		},
		[Symbol.dispose]() {},
	};
}

/** Fetches all files but the weights, and lists the names of the weight files that may exist. */
async function fetchSmallFiles(url: string, options: FetchOptions) {
	const files = new Map<string, Uint8Array<ArrayBuffer>>();
	const folder = new MemoryFolder(files, url.replace(/\/+$/, ""));
	for (const name of [...SMALL_FILES, INDEX]) {
		const bytes = await fetchFile(folder.path, name, options);
		if (bytes) files.set(name, bytes);
	}
	// A single file takes precedence over an index, as on disk.
	const isSharded = folder.has(INDEX) &&
		!await request(`${folder.path}/${SINGLE}`, { method: "HEAD", signal: options.signal });
	const shards = isSharded ? Object.values(readWeightMap(folder.file(INDEX))) : [SINGLE];
	return { folder, files, weights: new Set(shards) };
}

/** The content of a file; undefined if the server does not have it. */
async function fetchFile(
	base: string,
	name: string,
	{ signal, onProgress }: FetchOptions,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
	const response = await request(`${base}/${name}`, { signal });
	if (!response) return undefined;
	const length = response.headers.get("content-length");
	const total = length === null ? undefined : Number(length);
	let bytes = 0;
	const counted = response.body!.pipeThrough(
		new TransformStream<Uint8Array, Uint8Array>({
			transform(chunk, controller) {
				bytes += chunk.length;
				onProgress?.(name, bytes, total);
				controller.enqueue(chunk);
			},
		}),
	);
	return new Uint8Array(await new Response(counted).arrayBuffer());
}
