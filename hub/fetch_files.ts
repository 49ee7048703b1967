import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { TOKENIZER_FILES } from "../models/tokenizers/tokenizer.ts";
import { type CachedFile, freeBytes, RepositoryCache } from "./cache.ts";
import { Download } from "./download.ts";
import { DEFAULT_LIMITS, type HubLimits } from "./limits.ts";
import { filesAt, resolveRevision, topFiles } from "./listing.ts";
import { foreignWeights, modelWeights, shardsOf, smallFiles } from "./model_selection.ts";
import { type HubProgress, ProgressMeter } from "./progress.ts";
import { checkRepository, type HubRepository, isCommitHash, isPlainPath } from "./repository.ts";
import { HubSession, HubUnreachable } from "./session.ts";
import { type HubSettings, hubSettings } from "./settings.ts";

/** Files of a repository at a commit, in the cache. */
export interface Snapshot {
  repository: HubRepository;
  /** What the revision stands for. */
  commit: string;
  /** Holds the files under their paths in the repository; read-only, others use it too. */
  folder: string;
  /** The files that were asked for, sorted by path. */
  files: CachedFile[];
  /** What came over the network for it, retries included; 0 if all was there. */
  downloadedBytes: number;
}

export interface FetchOptions {
  /** {@link hubSettings} of the environment, if not given. */
  settings?: HubSettings;
  /** Interrupts; what has come is kept and need not come again. */
  signal?: AbortSignal;
  /** Called a few times a second while files come, and when all are there. */
  onProgress?(progress: HubProgress): void;
  /** Called with what went otherwise than expected, such as a connection that broke. */
  onWarning?(text: string): void;
  limits?: Partial<HubLimits>;
  /** Of a model: called when all but the weights are there; what it throws ends the download. */
  beforeWeights?(folder: string): Promise<void>;
  /** Bytes free on the disk of a folder. */
  freeBytes?(folder: string): number;
  /** Makes a link at `path`. */
  symlink?(target: string, path: string): void;
}

/** What is wanted of a repository. */
interface Wanted {
  /** The paths that the cache has of it, or the first one that is missing. */
  cached(cache: RepositoryCache, commit: string): { paths: string[] } | { missing: string };
  /** Whether nothing can be missing that the hub has and `cached()` does not ask for. */
  isWhole(paths: string[]): boolean;
  /** Fetches what is missing and returns the paths. */
  fetch(
    session: HubSession,
    commit: string,
    download: Download,
    options: FetchOptions,
  ): Promise<string[]>;
}

/**
 * Fetches what a run needs of a model into the cache, unless it is there: config.json,
 * generation_config.json, the tokenizer's files and the weights, which are model.safetensors or the
 * shards of its index, or, where there are none, pytorch_model.bin or its shards.
 *
 * Nothing is asked over the network if the settings say offline, or if the revision is a commit hash
 * and all is there. If the hub cannot be reached, what the cache has of the revision is used, with a
 * warning.
 *
 * @throws {UserError} If the model cannot be had: the text says why and what would do.
 * @throws The reason of `options.signal`, soon after it is aborted.
 */
export function fetchModel(
  repository: HubRepository,
  options: FetchOptions = {},
): Promise<Snapshot> {
  return fetchSnapshot(repository, MODEL, options);
}

/**
 * Fetches files of a repository into the cache, unless they are there. The repository, which may be
 * large, is not listed. As to the network see {@link fetchModel}.
 *
 * @param paths Paths in the repository, with forward slashes.
 * @throws {UserError} If a file cannot be had: the text says why and what would do.
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

  // Other programs fetch config.json and weights only; we fetch the weights last.
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
    download.plan(entries([...small, ...files]));
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
    download.plan(entries([...small, ...shards]));
    await download.fetch(entries(shards));
    return [...small, ...shards];
  },
};

/** A cache that is complete but read-only does as well. */
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
  const cache = new RepositoryCache(settings.cache, repository, options.symlink);
  const snapshot = (commit: string, paths: string[], downloadedBytes: number): Snapshot => {
    const files = paths.map((path) => cache.file(commit, path)!);
    files.sort((a, b) => a.path < b.path ? -1 : 1);
    return { repository, commit, folder: cache.snapshot(commit), files, downloadedBytes };
  };

  const knownCommit = cache.commitOf(revision);
  const inCache = knownCommit === undefined
    ? { missing: undefined }
    : wanted.cached(cache, knownCommit);
  const paths = "paths" in inCache ? inCache.paths : undefined;
  const fromCache = paths && (() => snapshot(knownCommit!, paths, 0));
  if (settings.offline) {
    if (fromCache) return fromCache();
    const missing = "missing" in inCache ? inCache.missing : undefined;
    throw new UserError(
      `Cannot use "${id}" offline: "${cache.folder}" has ` +
        (missing === undefined
          ? `no revision "${revision}"`
          : `no "${missing}" of revision "${revision}"`) +
        `; unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to download it`,
    );
  }
  if (fromCache && isCommitHash(revision) && wanted.isWhole(paths)) return fromCache();

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
    const download = new Download(session, cache, commit, meter, space);
    const fetched = await wanted.fetch(session, commit, download, options);
    noteCommit(cache, revision, commit, warn);
    return snapshot(commit, fetched, meter.receivedBytes);
  } catch (error) {
    if (!(error instanceof HubUnreachable) || !fromCache) throw error;
    warn(`${error.message}; using what the cache has of "${id}" (commit ${knownCommit})`);
    return fromCache();
  }
}
