import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { TOKENIZER_FILES } from "../models/tokenizers/tokenizer.ts";
import { freeBytes } from "../storage/files.ts";
import { type CachedFile, RepositoryCache } from "./cache.ts";
import { Download } from "./download.ts";
import { DEFAULT_LIMITS, type HubLimits } from "./limits.ts";
import { filesAt, type RemoteFile, resolveRevision, topFiles } from "./listing.ts";
import { foreignWeights, modelWeights, shardsOf, smallFiles } from "./model_selection.ts";
import { type HubProgress, ProgressMeter } from "./progress.ts";
import { checkRepository, type HubRepository, isCommitHash, isPlainPath } from "./repository.ts";
import { HubSession, HubUnreachable } from "./session.ts";
import { type HubSettings, hubSettings } from "./settings.ts";
import { isHash, VerifiedFiles, verifyFile, type Verifying } from "./verify.ts";

/** Files of a repository at a commit, in the cache. */
export interface Snapshot {
	repository: HubRepository;
	/** Commit hash of the revision. */
	commit: string;
	/** Folder with the files under their paths in the repository; shared, read-only. */
	folder: string;
	/** The requested files, sorted by path. */
	files: CachedFile[];
	/** Bytes received over the network, including retries; 0 if all files were cached. */
	downloadedBytes: number;
	/** The hashes of files that were computed to verify the cache. */
	verified: VerifiedFiles;
}

export interface FetchOptions {
	/** Default {@link hubSettings} of the environment. */
	settings?: HubSettings;
	/** Aborts the download; partial files are kept. */
	signal?: AbortSignal;
	/** Called a few times per second during the download, and at its end. */
	onProgress?(progress: HubProgress): void;
	/** Called with the number of bytes hashed, to verify files in the cache, since the last call. */
	onHashed?(bytes: number): void;
	/** Called with warnings, for example about broken connections. */
	onWarning?(text: string): void;
	limits?: Partial<HubLimits>;
	/** Called when all files of a model except the weights are present; may throw to abort. */
	beforeWeights?(folder: string): Promise<void>;
	/**
	 * Receives the shards of a model that are not in the cache, in place of their download. Models that have
	 * no shards in safetensors are then refused.
	 */
	onMissingShards?(missing: MissingShards): Promise<void>;
	/** Bytes free on the disk of a folder. */
	freeBytes?(folder: string): number;
	/** Creates a link at `path`. */
	symlink?(target: string, path: string): void;
}

/** The shards of a model that are not in the cache. */
export interface MissingShards {
	session: HubSession;
	commit: string;
	files: RemoteFile[];
}

/** A request for files of a repository. */
interface Wanted {
	/** The cached paths, or the first missing one. */
	cached(cache: RepositoryCache, commit: string): { paths: string[] } | { missing: string };
	/** Whether `cached()` covers all requested files of the hub. */
	isWhole(paths: string[]): boolean;
	/** Downloads missing files. @returns The paths. */
	fetch(
		session: HubSession,
		commit: string,
		download: Download,
		options: FetchOptions,
	): Promise<string[]>;
}

/**
 * Downloads the files of a model that a run needs into the cache, unless present: config.json,
 * generation_config.json, the tokenizer and the weights (model.safetensors or the shards of its index,
 * otherwise pytorch_model.bin or its shards).
 *
 * What is in the cache already is verified: it must have the hash that names it.
 *
 * No requests are sent in offline mode, or if the revision is a commit hash and all files are cached. If
 * the hub is unreachable, the cached files of the revision are used, with a warning.
 *
 * @throws {UserError} If the model is not available; the message has the reason and a remedy.
 * @throws The reason of `options.signal`, soon after it is aborted.
 */
export function fetchModel(
	repository: HubRepository,
	options: FetchOptions = {},
): Promise<Snapshot> {
	return fetchSnapshot(repository, MODEL, options);
}

/**
 * Downloads files of a repository into the cache, unless present, without listing the repository, which may
 * be large. Network use is as in {@link fetchModel}.
 *
 * @param paths Paths in the repository, with forward slashes.
 * @throws {UserError} If a file is not available; the message has the reason and a remedy.
 * @throws The reason of `options.signal`, soon after it is aborted.
 */
export function fetchFiles(
	repository: HubRepository,
	paths: string[],
	options: FetchOptions = {},
): Promise<Snapshot> {
	const bad = paths.find((path) => !isPlainPath(path));
	if (bad !== undefined) {
		return Promise.reject(
			new UserError(
				`Cannot download "${bad}" of "${repository.id}": it is no path in a repository; write ` +
					`one such as "data/train.parquet"`,
			),
		);
	}
	const wanted: Wanted = {
		cached(cache, commit) {
			const missing = paths.find((path) => !cache.file(commit, path));
			return missing === undefined ? { paths } : { missing };
		},
		isWhole: () => true,
		async fetch(session, commit, download) {
			const files = await filesAt(session, commit, paths);
			download.plan(files);
			await download.fetch(files);
			return paths;
		},
	};
	return fetchSnapshot(repository, wanted, options);
}

const MODEL: Wanted = {
	cached(cache, commit) {
		const names = cache.topNames(commit);
		const weights = modelWeights(names);
		if (weights === undefined) return { missing: "model.safetensors" };
		const { index } = weights;
		let needed = weights.files;
		if (index !== undefined) {
			try {
				needed = [index, ...shardsOf(join(cache.snapshot(commit), index))];
			} catch {
				return { missing: index }; // damaged, so that the hub must be asked
			}
		}
		const missing = ["config.json", ...needed].find((name) => !names.includes(name));
		return missing === undefined ? { paths: [...smallFiles(names), ...needed] } : { missing };
	},

	// Other programs may have cached config.json and weights only.
	isWhole: (paths) => TOKENIZER_FILES.some((name) => paths.includes(name)),

	async fetch(session, commit, download, options) {
		const { id } = session.repository;
		const listed = new Map((await topFiles(session, commit)).map((file) => [file.path, file]));
		const names = [...listed.keys()];
		const weights = modelWeights(names);
		if (weights === undefined) {
			const found = foreignWeights(names);
			throw new UserError(
				`Cannot download "${id}": it has no weights as "model.safetensors" or ` +
					`"pytorch_model.bin"${found === undefined ? "" : `, only as ${found}`}; choose a ` +
					`repository that has them, such as the one that this one was made from`,
			);
		}
		if (!names.includes("config.json")) {
			throw new UserError(
				`Cannot download "${id}": it has no "config.json"; choose a repository made for the ` +
					`transformers library`,
			);
		}
		const { index, files } = weights;
		const small = [...smallFiles(names), ...index === undefined ? [] : [index]];
		const entries = (paths: string[]) => paths.map((path) => listed.get(path)!);
		const { onMissingShards } = options;
		const { cache } = download;
		const isMissing = ({ path, bytes }: RemoteFile) => cache.file(commit, path)?.bytes !== bytes;
		const isSharded = index?.includes(".safetensors.");
		if (onMissingShards && !isSharded && entries(files).some(isMissing)) {
			throw new UserError(
				`Cannot download "${id}" shard by shard, as download.keep: false asks: its weights are ` +
					(index === undefined ? `the single file "${files[0]}"` : "files of PyTorch") +
					`; leave download.keep out`,
			);
		}
		download.plan(entries(onMissingShards ? small : [...small, ...files]));
		await download.fetch(entries(small));
		await options.beforeWeights?.(download.cache.snapshot(commit));
		if (index === undefined) {
			await download.fetch(entries(files));
			return [...small, ...files];
		}
		const shards = shardsOf(join(download.cache.snapshot(commit), index));
		const missing = shards.find((shard) => !listed.has(shard));
		if (missing !== undefined) {
			throw new UserError(
				`Cannot download "${id}": "${index}" lists "${missing}", which is not in the repository; ` +
					`choose another revision or repository`,
			);
		}
		const late = onMissingShards ? entries(shards).filter(isMissing) : [];
		const now = entries(shards).filter((file) => !late.includes(file));
		download.plan([...entries(small), ...now]);
		await download.fetch(now);
		if (late.length > 0) await onMissingShards!({ session, commit, files: late });
		return [...small, ...now.map(({ path }) => path)];
	},
};

/** Records a commit; a failure is only a warning, since a complete read-only cache is usable. */
function noteCommit(
	cache: RepositoryCache,
	revision: string,
	commit: string,
	warn: (text: string) => void,
): void {
	try {
		cache.setCommit(revision, commit);
	} catch (error) {
		if (!(error instanceof UserError)) throw error;
		warn(`${error.message}; without a connection "${revision}" will not be found`);
	}
}

async function fetchSnapshot(
	repository: HubRepository,
	wanted: Wanted,
	options: FetchOptions,
): Promise<Snapshot> {
	checkRepository(repository);
	const { id, revision } = repository;
	const settings = options.settings ?? hubSettings();
	const warn = (text: string) => options.onWarning?.(text);
	const signal = options.signal ?? new AbortController().signal;
	signal.throwIfAborted();
	const symlink = settings.copies ? noLinks : options.symlink;
	const cache = new RepositoryCache(settings.cache, repository, symlink);
	const snapshot = (
		commit: string,
		paths: string[],
		downloadedBytes: number,
		verified: VerifiedFiles,
	): Snapshot => {
		const files = paths.map((path) => cache.file(commit, path)!);
		files.sort((a, b) => a.path < b.path ? -1 : 1);
		return { repository, commit, folder: cache.snapshot(commit), files, downloadedBytes, verified };
	};

	const knownCommit = cache.commitOf(revision);
	const inCache = knownCommit === undefined
		? { missing: undefined }
		: wanted.cached(cache, knownCommit);
	const paths = "paths" in inCache ? inCache.paths : undefined;
	const fromCache = paths && (async () => {
		const verifying = { signal, onBytes: options.onHashed };
		const verified = await verifyCached(cache, knownCommit!, paths, verifying);
		return snapshot(knownCommit!, paths, 0, verified);
	});
	if (settings.offline) {
		if (fromCache) {
			return await fromCache().catch((error) => {
				if (!(error instanceof DamagedFile)) throw error;
				throw new UserError(
					`Cannot use "${id}" offline: ${error.message}; unset HF_HUB_OFFLINE and ` +
						`TRANSFORMERS_OFFLINE to download it again`,
				);
			});
		}
		const missing = "missing" in inCache ? inCache.missing : undefined;
		throw new UserError(
			`Cannot use "${id}" offline: "${cache.folder}" has ` +
				(missing === undefined
					? `no revision "${revision}"`
					: `no "${missing}" of revision "${revision}"`) +
				`; unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to download it`,
		);
	}
	if (fromCache && isCommitHash(revision) && wanted.isWhole(paths)) {
		try {
			return await fromCache();
		} catch (error) {
			if (!(error instanceof DamagedFile)) throw error; // the hub has it whole
		}
	}

	const limits = { ...DEFAULT_LIMITS, ...options.limits };
	const session = new HubSession(
		settings,
		repository,
		limits,
		signal,
		warn,
		fromCache !== undefined,
	);
	try {
		const { commit, id: nowId } = await resolveRevision(session);
		if (nowId !== id) warn(`"${id}" is called "${nowId}" on the hub by now; write that name`);
		const meter = new ProgressMeter((progress) => options.onProgress?.(progress));
		const space = options.freeBytes ?? freeBytes;
		const download = new Download(session, cache, commit, meter, space, options.onHashed);
		const fetched = await wanted.fetch(session, commit, download, options);
		noteCommit(cache, revision, commit, warn);
		return snapshot(commit, fetched, meter.receivedBytes, download.verified);
	} catch (error) {
		if (!(error instanceof HubUnreachable) || !fromCache) throw error;
		const { message } = error;
		const cached = await fromCache().catch((error) => {
			if (!(error instanceof DamagedFile)) throw error;
			throw new UserError(`${message}; the cache cannot be used: ${error.message}`);
		});
		warn(`${message}; using what the cache has of "${id}" (commit ${knownCommit})`);
		return cached;
	}
}

/** Stands for the creation of links where they are not wanted. */
function noLinks(): never {
	throw new Error("links are disabled");
}

/** A file of the cache whose content does not have the hash that names it. */
class DamagedFile extends UserError {}

/**
 * Verifies files of a snapshot. Copies in place of links have no name to be verified against.
 *
 * @throws {DamagedFile} If one is damaged.
 */
async function verifyCached(
	cache: RepositoryCache,
	commit: string,
	paths: string[],
	verifying: Verifying,
): Promise<VerifiedFiles> {
	const verified = new VerifiedFiles();
	for (const path of paths) {
		const place = join(cache.snapshot(commit), path);
		const { etag } = cache.file(commit, path)!;
		if (etag === undefined || !isHash(etag)) continue;
		const hashed = await verifyFile(place, etag, verifying);
		if (!hashed) {
			throw new DamagedFile(`"${place}" is damaged: its content does not have the hash ${etag}`);
		}
		verified.set(place, hashed);
	}
	return verified;
}
