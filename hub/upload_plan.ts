import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { UserError } from "../base/errors.ts";
import { hashInSteps } from "../storage/files.ts";
import { DEFAULT_LIMITS, type HubLimits } from "./limits.ts";
import { type RemoteFile, resolveRevision, topFiles } from "./listing.ts";
import { NoSuchRepository } from "./refusal.ts";
import { checkRepository, type HubRepository } from "./repository.ts";
import { HubSession } from "./session.ts";
import type { HubSettings } from "./settings.ts";

/** A file for the top level of a repository. */
export interface FileToUpload {
	name: string;
	/** Its path on disk, or its text. */
	content: { path: string } | { text: string };
	/** The SHA-256 that it must have. */
	sha256?: string;
}

/** A file to upload, with what identifies its content. */
export interface HashedUpload extends FileToUpload {
	bytes: number;
	sha256: string;
	/** Git's name of the content. */
	git: string;
}

/** What an upload would change in a repository. */
export interface UploadPlan {
	repository: HubRepository;
	/** Whether the repository is to be created. */
	isNew: boolean;
	/** The commit that the plan is for. */
	commit?: string;
	send: HashedUpload[];
	/** Files that the repository has with the same content. */
	same: HashedUpload[];
	/** Weights of an earlier model, which would be taken for a part of this one. */
	remove: string[];
	/** All files at the top level of the repository before. */
	found: RemoteFile[];
}

export interface UploadOptions {
	settings: HubSettings;
	signal: AbortSignal;
	limits?: Partial<HubLimits>;
	onWarning?(text: string): void;
	/** Called with the bytes sent and hashed so far. */
	onProgress?(doing: "hashing" | "uploading", done: number, total: number): void;
}

/** A session for requests about the repository of an upload. */
export function sessionOf(repository: HubRepository, options: UploadOptions): HubSession {
	const limits = { ...DEFAULT_LIMITS, ...options.limits };
	const { settings, signal, onWarning = () => {} } = options;
	return new HubSession(settings, repository, limits, signal, onWarning);
}

/**
 * Compares files with those of a repository.
 *
 * @param id `owner/name`
 * @throws {UserError} If the name is none, the hub cannot be asked, or a file does not have its hash.
 */
export async function planUpload(
	id: string,
	files: readonly FileToUpload[],
	options: UploadOptions,
): Promise<UploadPlan> {
	const repository: HubRepository = { type: "model", id, revision: "main" };
	checkUploadName(repository);
	if (options.settings.offline) {
		throw new UserError(
			`Cannot upload to "${id}": HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it`,
		);
	}
	const hashed = await hashAll(files, options);
	const remote = await remoteFiles(sessionOf(repository, options));
	const etags = new Map(remote?.files.map(({ path, etag }) => [path, etag]));
	const isSame = ({ name, sha256, git }: HashedUpload) =>
		[sha256, git].includes(etags.get(name) ?? "");
	const names = new Set(files.map(({ name }) => name));
	return {
		repository: { ...repository, id: remote?.id ?? id },
		isNew: remote === undefined,
		commit: remote?.commit,
		send: hashed.filter((file) => !isSame(file)),
		same: hashed.filter(isSame),
		remove: [...etags.keys()].filter((name) => isWeights(name) && !names.has(name)),
		found: remote?.files ?? [],
	};
}

function checkUploadName(repository: HubRepository): void {
	const { id } = repository;
	try {
		checkRepository(repository);
	} catch (error) {
		throw error instanceof UserError ? nameError(id) : error;
	}
	if (!id.includes("/")) throw nameError(id);
}

function nameError(id: string): UserError {
	return new UserError(
		`Cannot upload to "${id}": it is no name of a repository; write "owner/name"`,
	);
}

/** Weights in safetensors, which a loader finds by their names. */
function isWeights(name: string): boolean {
	return /\.safetensors(\.index\.json)?$/.test(name);
}

async function remoteFiles(
	session: HubSession,
): Promise<{ id: string; commit: string; files: RemoteFile[] } | undefined> {
	try {
		const { id, commit } = await resolveRevision(session);
		return { id, commit, files: await topFiles(session, commit) };
	} catch (error) {
		if (error instanceof NoSuchRepository) return undefined;
		throw error instanceof UserError ? ofUpload(error) : error;
	}
}

/** An error about a download as one about an upload. */
function ofUpload(error: UserError): UserError {
	const message = error.message.replace(/^Cannot download /, "Cannot upload to ");
	return new UserError(message, { cause: error });
}

async function hashAll(
	files: readonly FileToUpload[],
	{ signal, onProgress }: UploadOptions,
): Promise<HashedUpload[]> {
	const sizes = files.map(({ content }) =>
		"path" in content ? Deno.statSync(content.path).size : encoded(content.text).length
	);
	const total = sizes.reduce((sum, size) => sum + size, 0);
	let done = 0;
	const hashed: HashedUpload[] = [];
	for (const [i, file] of files.entries()) {
		const bytes = sizes[i];
		const hashes = [createHash("sha256"), createHash("sha1").update(`blob ${bytes}\0`)];
		if ("text" in file.content) {
			for (const hash of hashes) hash.update(file.content.text);
			done += bytes;
		} else {
			for (const count of hashInSteps(file.content.path, hashes)) {
				done += count;
				onProgress?.("hashing", done, total);
				await setImmediate();
				signal.throwIfAborted();
			}
		}
		const [sha256, git] = hashes.map((hash) => hash.digest("hex"));
		if (file.sha256 !== undefined && file.sha256 !== sha256) {
			const place = "path" in file.content ? file.content.path : file.name;
			throw new UserError(
				`"${place}" is not what the run has written: its content has changed since; ` +
					`run the pipeline again with --overwrite`,
			);
		}
		hashed.push({ ...file, bytes, sha256, git });
	}
	return hashed;
}

export function encoded(text: string): Uint8Array<ArrayBuffer> {
	return new TextEncoder().encode(text);
}
