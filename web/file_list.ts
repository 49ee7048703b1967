import { UserError } from "../base/errors.ts";
import { SMALL_FILES } from "../models/model_files.ts";
import { readWeightMap } from "../storage/checkpoint.ts";
import { MemoryFolder } from "../storage/memory_folder.ts";
import type { ModelSource } from "./model_source.ts";
import { Refusal, request } from "./request.ts";

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/** The file in which a server may list the files of a model; `deno task web` writes it. */
export const FILE_LIST = "files.json";

/** The hash that the content of a file has to have, in hexadecimal digits. */
export interface FileHash {
	/** SHA-256 of the content, or SHA-1 as git computes it: of "blob", the size and the content. */
	kind: "sha256" | "git";
	digits: string;
}

/** A file of a model on a server. */
export interface ListedFile {
	name: string;
	url: string;
	/** Its size, if the server states it. */
	bytes?: number;
	/** Its hash, if it is known before the file is downloaded. */
	hash?: FileHash;
	/** What changes with its content: hash, ETag or date. Undefined if the server says nothing. */
	version?: string;
}

/**
 * The files of a model on a server, by the best source that there is: the listing of the hub, `files.json`
 * in the folder, or a HEAD request for each file.
 *
 * @throws {UserError} If there is no model, or the server cannot be reached or refuses.
 */
export async function listFiles(source: ModelSource, signal?: AbortSignal): Promise<ListedFile[]> {
	const listing = source.hub ? await listOfHub(source, signal) : await listOfFolder(source, signal);
	const isListing = listing !== undefined;
	const files = listing ?? await probe(source, signal);
	const names = new Set(files.map(({ name }) => name));
	if (!names.has("config.json")) {
		throw new UserError(
			`There is no model at "${source.url}": it has no config.json; ` +
				`give the folder that holds config.json and the weights`,
		);
	}
	if (names.has(SINGLE)) return files.filter(({ name }) => isWanted(name, [SINGLE]));
	const index = files.find(({ name }) => name === INDEX);
	if (!index) {
		throw new UserError(
			`Cannot load "${source.url}": it has neither "${SINGLE}" nor an index of such files; ` +
				`other formats than safetensors cannot be loaded into a page`,
		);
	}
	const shards = await shardsOf(index, signal);
	const listed = files.filter(({ name }) => isWanted(name, [...shards, INDEX]));
	// Probing did not know their names.
	if (!isListing) listed.push(...await headsOf(source.url, shards, signal));
	const absent = shards.find((shard) => !listed.some(({ name }) => name === shard));
	if (absent === undefined) return listed;
	throw new UserError(
		`Cannot load "${source.url}": its index lists "${absent}", which is not there`,
	);
}

function isWanted(name: string, weights: readonly string[]): boolean {
	return SMALL_FILES.includes(name) || weights.includes(name);
}

async function shardsOf({ name, url }: ListedFile, signal?: AbortSignal): Promise<string[]> {
	const response = await request(url, { signal, cache: "no-cache" });
	const bytes = new Uint8Array(await response?.arrayBuffer() ?? []);
	const folder = new MemoryFolder(new Map([[name, bytes]]), url.slice(0, -name.length - 1));
	return [...new Set(Object.values(readWeightMap(folder.file(name))))].sort();
}

/** The files at the top of a model on the hub, of the commit that the revision is at. */
async function listOfHub(
	{ hub, name }: ModelSource,
	signal?: AbortSignal,
): Promise<ListedFile[]> {
	const { endpoint, id, revision } = hub!;
	const api = `${endpoint}/api/models/${id}`;
	// The hub tells nobody whether a model that is not public exists.
	const found = await jsonOf(`${api}/revision/${revision}`, signal).catch((error) => {
		if (error instanceof Refusal && [401, 403].includes(error.status)) return undefined;
		throw error;
	});
	const { sha } = found as { sha?: unknown } ?? {};
	if (typeof sha !== "string" || !/^[0-9a-f]{40}$/.test(sha)) {
		throw new UserError(
			`There is no model "${name}" on "${endpoint}" that everyone may read; check its name`,
		);
	}
	const entries = await jsonOf(`${api}/tree/${sha}`, signal) as HubEntry[];
	return entries.filter(({ type }) => type === "file").map(({ path, size, oid, lfs }) => ({
		name: path,
		url: `${endpoint}/${id}/resolve/${sha}/${encodeURIComponent(path)}`,
		bytes: lfs?.size ?? size,
		hash: lfs
			? { kind: "sha256" as const, digits: lfs.oid }
			: { kind: "git" as const, digits: oid },
		version: lfs?.oid ?? oid,
	}));
}

interface HubEntry {
	type: string;
	path: string;
	size: number;
	oid: string;
	lfs?: { oid: string; size: number };
}

/** The files that `files.json` lists; undefined if the folder has no such file. */
async function listOfFolder(
	{ url }: ModelSource,
	signal?: AbortSignal,
): Promise<ListedFile[] | undefined> {
	const address = `${url}/${FILE_LIST}`;
	const found = await jsonOf(address, signal);
	if (found === undefined) return undefined;
	const refuse = (): never => {
		throw new UserError(`Cannot read "${address}": it is no list of files with their hashes`);
	};
	if (!Array.isArray(found)) return refuse();
	return found.map((entry) => {
		const { name, bytes, sha256 } = entry ?? {};
		const isName = typeof name === "string" && name !== "" && !/[\\/:]|^\.\.?$/.test(name);
		if (!isName || !Number.isSafeInteger(bytes) || !/^[0-9a-f]{64}$/.test(sha256)) return refuse();
		const hash: FileHash = { kind: "sha256", digits: sha256 };
		return { name, url: addressOf(url, name), bytes, hash, version: sha256 };
	});
}

/** The files that a server has, by a request for each that may exist. */
async function probe({ url }: ModelSource, signal?: AbortSignal): Promise<ListedFile[]> {
	// Where there is no config.json there is no model: one request says so.
	const config = await headsOf(url, ["config.json"], signal);
	if (config.length === 0) return [];
	const others = SMALL_FILES.filter((name) => name !== "config.json");
	return [...config, ...await headsOf(url, [...others, SINGLE, INDEX], signal)];
}

async function headsOf(
	url: string,
	names: readonly string[],
	signal?: AbortSignal,
): Promise<ListedFile[]> {
	const found = await Promise.all(names.map((name) => headOf(addressOf(url, name), name, signal)));
	return found.filter((file) => file !== undefined);
}

async function headOf(
	url: string,
	name: string,
	signal?: AbortSignal,
): Promise<ListedFile | undefined> {
	const response = await headersOf(url, signal);
	if (!response) return undefined;
	const { headers } = response;
	const bytes = headers.get("content-encoding") ? null : headers.get("content-length");
	return {
		name,
		url,
		...(bytes !== null && { bytes: Number(bytes) }),
		...versionOf(headers),
	};
}

/** The headers of a file; some servers send them with the file only. */
async function headersOf(url: string, signal?: AbortSignal): Promise<Response | undefined> {
	const init: RequestInit = { signal, cache: "no-cache" };
	try {
		return await request(url, { ...init, method: "HEAD" });
	} catch (error) {
		if (!(error instanceof Refusal) || ![405, 501].includes(error.status)) throw error;
		const response = await request(url, init);
		await response?.body?.cancel();
		return response;
	}
}

/** What a response says of the version of its content: a strong ETag, or else the date. */
export function versionOf(headers: Headers): { version?: string } {
	const etag = headers.get("etag");
	const version = etag && !etag.startsWith("W/") ? etag : headers.get("last-modified");
	return version ? { version } : {};
}

function addressOf(url: string, name: string): string {
	return `${url}/${encodeURIComponent(name)}`;
}

/** The content of a JSON file; undefined if the server does not have it. */
async function jsonOf(url: string, signal?: AbortSignal): Promise<unknown> {
	const response = await request(url, { signal, cache: "no-cache" });
	if (!response) return undefined;
	const text = await response.text();
	try {
		return JSON.parse(text);
	} catch {
		throw new UserError(`Cannot read "${url}": it is no JSON`);
	}
}
