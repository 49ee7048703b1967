import { datasetInfo, listFiles, modelInfo, pathsInfo } from "@huggingface/hub";
import { UserError } from "../base/errors.ts";
import { noHub, noSuchFile } from "./refusal.ts";
import { type HubRepository, isCommitHash } from "./repository.ts";
import type { HubSession } from "./session.ts";
import { isHash } from "./verify.ts";

/** A file of a repository at a commit. */
export interface RemoteFile {
	/** Path with forward slashes. */
	path: string;
	/** SHA-256 of the content (64 digits) or, for small files, git's SHA-1 (40 digits). */
	etag: string;
	bytes: number;
}

/** Paths per request to the hub. */
const PATHS_AT_ONCE = 500;

/** Pages of a listing, which have a thousand entries each. */
const MAX_PAGES = 200;

/** Entries of a listing; more than any repository has at the top. */
const MAX_ENTRIES = 100_000;

// The library builds URLs, follows the pages of a listing and parses responses. It does not get the token,
// since it rejects tokens without the prefix "hf_", and only sees successful responses, since its errors
// lack the headers that distinguish gated from missing repositories.
function common(session: HubSession) {
	const asked = new Set<string>();
	const fetch = (input: RequestInfo | URL, init?: RequestInit) => {
		// The pages of a listing name the next one; a page that comes twice would come for ever.
		const address = String(input);
		if (asked.has(address)) throw strange(session, "a page that is its own successor");
		asked.add(address);
		if (asked.size > MAX_PAGES) throw strange(session, "a listing that is too long");
		return session.fetch(input, init);
	};
	return { hubUrl: session.settings.endpoint, fetch };
}

/** The commit of the revision, and the current name of the repository. */
export async function resolveRevision(
	session: HubSession,
): Promise<{ commit: string; id: string }> {
	const { type, id, revision } = session.repository;
	const question = { name: id, revision, ...common(session) };
	const { sha, name } = await understanding(
		session,
		() =>
			type === "model"
				? modelInfo({ ...question, additionalFields: ["sha"] })
				: datasetInfo({ ...question, additionalFields: ["sha"] }),
	);
	if (typeof sha !== "string" || !isCommitHash(sha)) throw strange(session, "no commit hash");
	return { commit: sha, id: typeof name === "string" ? name : id };
}

/** The top-level files of a repository. */
export async function topFiles(session: HubSession, commit: string): Promise<RemoteFile[]> {
	const repo = designation(session.repository);
	return await understanding(session, async () => {
		const entries = [];
		for await (const entry of listFiles({ repo, revision: commit, ...common(session) })) {
			entries.push(entry);
			if (entries.length > MAX_ENTRIES) throw strange(session, "a listing that is too long");
		}
		return entries.filter(({ type }) => type === "file").map((entry) => remoteFile(session, entry));
	});
}

/**
 * The files at some paths of the repository, in the same order.
 *
 * @throws {UserError} If a path is missing or not a file.
 */
export async function filesAt(
	session: HubSession,
	commit: string,
	paths: string[],
): Promise<RemoteFile[]> {
	const { repository } = session;
	const found = new Map<string, RemoteFile>();
	for (let first = 0; first < paths.length; first += PATHS_AT_ONCE) {
		await understanding(session, async () => {
			const entries = await pathsInfo({
				repo: designation(repository),
				revision: commit,
				paths: paths.slice(first, first + PATHS_AT_ONCE),
				...common(session),
			});
			for (const entry of entries) {
				if (entry.type === "file") found.set(entry.path, remoteFile(session, entry));
			}
		});
	}
	return paths.map((path) => {
		const file = found.get(path);
		if (file) return file;
		throw noSuchFile(session.settings, repository, path);
	});
}

/** Converts errors of the library, such as a TypeError for unexpected JSON. */
async function understanding<T>(session: HubSession, ask: () => Promise<T>): Promise<T> {
	try {
		return await ask();
	} catch (error) {
		session.signal.throwIfAborted();
		throw error instanceof UserError ? error : strange(session, "JSON of another form", error);
	}
}

function designation({ type, id }: HubRepository) {
	return { type, name: id };
}

function remoteFile(
	session: HubSession,
	entry: { path: string; size: number; oid?: string; lfs?: { oid: string; size: number } },
): RemoteFile {
	const { oid: etag = "", size: bytes } = entry.lfs ?? entry;
	if (typeof entry.path !== "string") throw strange(session, "a file without a name");
	if (typeof etag !== "string" || !isHash(etag)) throw strange(session, "a file without hash");
	if (!Number.isSafeInteger(bytes) || bytes < 0) throw strange(session, "a file without size");
	return { path: entry.path, etag, bytes };
}

function strange({ settings, repository }: HubSession, found: string, cause?: unknown): UserError {
	return noHub(settings, repository, `gives ${found}`, cause);
}
