import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import type { HubRepository } from "~/hub/repository.ts";
import type { HubSettings } from "~/hub/settings.ts";
import { type HttpReply, type HttpRequest, HttpServer } from "./http_server.ts";
import { uploadReply } from "./upload_routes.ts";

/** A request that came to the hub or to the host that it sends clients to for large files. */
export interface HubRequest extends HttpRequest {
	host: "hub" | "cdn";
	/** What the target names: "info", "tree", "paths-info", "resolve", "resolve-cache", "lfs". */
	route: string;
	/** The file asked for, if any. */
	path?: string;
	/** First byte asked for; absent without a range. */
	from?: number;
	/** Last byte asked for; absent without a range that has an end. */
	to?: number;
	authorization: string | null;
}

export interface RepositoryOptions {
	/** Seen only with a token of `hub.tokens` that lists the repository. */
	private?: boolean;
	/** Its files are given only to such tokens. */
	gated?: boolean;
	/** Files that are kept as LFS objects, with their SHA-256 as etag; else those of 1 kB or more. */
	lfs?: (path: string, content: Uint8Array) => boolean;
	/** Names of the commit, besides "main". */
	revisions?: string[];
	/** The metadata of its card. */
	card?: Record<string, unknown>;
}

interface Entry {
	path: string;
	content: Uint8Array;
	/** Git's name of the content or, for an LFS object, of its pointer. */
	oid: string;
	sha256?: string;
}

interface Repository {
	id: string;
	options: RepositoryOptions;
	revisions: Map<string, string>;
	commits: Map<string, Entry[]>;
}

type Kind = HubRepository["type"];

/**
 * A hub on the loopback interface, with the addresses, answers and headers of the real one as far
 * as downloads need them: repositories with commits, branches and LFS objects that lie on another
 * host, private and gated ones, renamed ones, pages of listings.
 *
 * @see https://huggingface.co/docs/hub/api
 */
export class LoopbackHub implements AsyncDisposable {
	readonly #hub = new HttpServer((request) => this.#answer("hub", request));
	readonly #cdn = new HttpServer((request) => this.#answer("cdn", request));
	readonly #repositories = new Map<string, Repository>();
	readonly #renamed = new Map<string, string>();
	readonly #objects = new Map<string, Uint8Array>();
	#signatures = 0;

	readonly requests: HubRequest[] = [];
	/** Good tokens, each with the ids of the private and gated repositories that it opens. */
	readonly tokens: Record<string, string[]> = {};
	/** Good tokens, each with the owners in whose place it may write. */
	readonly writers: Record<string, string[]> = {};
	/** Whether an upload of a large file is lost on its way. */
	loses?: (request: HubRequest) => boolean;
	/** Bytes of a part of a large upload; absent, uploads have one part. */
	partSize?: number;
	pageSize = 1000;
	/** Looks at a request and the answer it would get, and may give another one. */
	intercept?: (
		request: HubRequest,
		reply: HttpReply,
	) => HttpReply | void | Promise<HttpReply | void>;

	get url(): string {
		return this.#hub.url;
	}

	/** The host that large files come from, and go to. */
	get cdn(): string {
		return this.#cdn.url;
	}

	/** The files of a repository at `main`; undefined if there is none. */
	files(type: Kind, id: string): Record<string, Uint8Array> | undefined {
		const repository = this.#repositories.get(`${type}s/${id}`);
		const entries = repository?.commits.get(repository.revisions.get("main")!);
		return entries && Object.fromEntries(entries.map(({ path, content }) => [path, content]));
	}

	/** What a repository was made with, and the commit of `main`. */
	about(type: Kind, id: string): { options: RepositoryOptions; commit: string } | undefined {
		const repository = this.#repositories.get(`${type}s/${id}`);
		return repository &&
			{ options: repository.options, commit: repository.revisions.get("main")! };
	}

	/** An LFS object that is on the other host. */
	object(sha256: string): Uint8Array | undefined {
		return this.#objects.get(sha256);
	}

	putObject(content: Uint8Array): void {
		this.#objects.set(createHash("sha256").update(content).digest("hex"), content);
	}

	/** The name of the host that large files come from. */
	get cdnHost(): string {
		return new URL(this.#cdn.url).host;
	}

	settings(cache: string, others: Partial<HubSettings> = {}): HubSettings {
		return { endpoint: this.url, cache, offline: false, ...others };
	}

	/** Adds a commit of a repository, makes `main` point to it, and returns its hash. */
	add(
		type: Kind,
		id: string,
		files: Record<string, Uint8Array | string>,
		options: RepositoryOptions = {},
	): string {
		const key = `${type}s/${id}`;
		const known = this.#repositories.get(key);
		const repository = known ?? { id, options, revisions: new Map(), commits: new Map() };
		this.#repositories.set(key, repository);
		const isLfs = options.lfs ?? ((_path, content) => content.length >= 1000);
		const entries = Object.entries(files).map(([path, file]): Entry => {
			const content = typeof file === "string" ? new TextEncoder().encode(file) : file;
			if (!isLfs(path, content)) return { path, content, oid: gitHash(content) };
			const sha256 = createHash("sha256").update(content).digest("hex");
			this.#objects.set(sha256, content);
			return {
				path,
				content,
				sha256,
				oid: gitHash(new TextEncoder().encode(pointer(sha256, content))),
			};
		}).sort((a, b) => a.path < b.path ? -1 : 1);
		const names = entries.map(({ path, oid }) => `${oid} ${path}\n`).join("");
		const commit = createHash("sha1").update(key + names).digest("hex");
		repository.commits.set(commit, entries);
		for (const name of ["main", ...options.revisions ?? []]) repository.revisions.set(name, commit);
		return commit;
	}

	/** Adds a model from a folder's files. */
	addFolder(type: Kind, id: string, folder: string, options?: RepositoryOptions): string {
		const names = [...Deno.readDirSync(folder)].filter(({ isFile }) => isFile)
			.map(({ name }) => name);
		const files = names.map((name) => [name, new Uint8Array(readFileSync(`${folder}/${name}`))]);
		return this.add(type, id, Object.fromEntries(files), options);
	}

	/** Gives a repository another name; the old one redirects. */
	rename(type: Kind, from: string, to: string): void {
		const repository = this.#repositories.get(`${type}s/${from}`)!;
		this.#repositories.delete(`${type}s/${from}`);
		this.#repositories.set(`${type}s/${to}`, { ...repository, id: to });
		this.#renamed.set(`${type}s/${from}`, to);
	}

	/** The requests for the content of a file, from wherever it is sent in the end. */
	transfers(path: string): HubRequest[] {
		return this.requests.filter((request) =>
			request.path === path && ["resolve-cache", "lfs"].includes(request.route)
		);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#hub[Symbol.asyncDispose]();
		await this.#cdn[Symbol.asyncDispose]();
	}

	async #answer(host: "hub" | "cdn", raw: HttpRequest): Promise<HttpReply> {
		const [, from, to] = /^bytes=(\d+)-(\d+)?/.exec(raw.headers.get("Range") ?? "") ?? [];
		const request: HubRequest = {
			...raw,
			host,
			route: "",
			from: from === undefined ? undefined : Number(from),
			to: to === undefined ? undefined : Number(to),
			authorization: raw.headers.get("Authorization"),
		};
		this.requests.push(request);
		const reply = uploadReply(this, request) ??
			(host === "hub" ? this.#hubReply(request) : this.#cdnReply(request));
		return await this.intercept?.(request, reply) ?? reply;
	}

	#cdnReply(request: HubRequest): HttpReply {
		const { pathname, searchParams } = new URL(request.target, this.#cdn.url);
		request.route = "lfs";
		request.path = searchParams.get("path") ?? undefined;
		const object = this.#objects.get(pathname.slice("/objects/".length));
		if (object === undefined) return text(404, "NoSuchKey");
		return ranged(request, object, {});
	}

	#hubReply(request: HubRequest): HttpReply {
		const { pathname, searchParams } = new URL(request.target, this.url);
		const segments = pathname.slice(1).split("/").map(decodeURIComponent);
		const isApi = segments[0] === "api";
		if (isApi) segments.shift();
		if (isApi && segments[0] === "resolve-cache") {
			// Other than all else, this comes before the name.
			segments.shift();
			const commit = segments.findIndex((part) => /^[0-9a-f]{40}$/.test(part));
			segments.splice(commit, 0, "resolve-cache");
		}
		const kind: Kind = segments[0] === "datasets" ? "dataset" : "model";
		if (isApi || segments[0] === "datasets") segments.shift();

		// The name has one or two parts; what follows it is known.
		const routes = ["revision", "tree", "paths-info", "resolve", "resolve-cache"];
		let parts = segments.findIndex((part, i) => i > 0 && routes.includes(part));
		if (parts < 0) parts = segments.length;
		const id = segments.slice(0, parts).join("/");
		const [route = "revision", revision = "main", ...rest] = segments.slice(parts);
		request.route = route === "revision" ? "info" : route;
		if (rest.length > 0) request.path = rest.join("/");

		const newName = this.#renamed.get(`${kind}s/${id}`);
		if (newName !== undefined) {
			return { ...text(307, ""), headers: { Location: request.target.replace(id, newName) } };
		}
		const refused = this.#refusal(request, kind, id);
		if (refused) return refused;
		const repository = this.#repositories.get(`${kind}s/${id}`)!;
		const commit = repository.revisions.get(revision) ?? revision;
		const entries = repository.commits.get(commit) ??
			(revision === "HEAD" ? repository.commits.get(repository.revisions.get("main")!) : undefined);
		if (entries === undefined) {
			return trouble(404, "RevisionNotFound", `Invalid rev id: ${revision}`);
		}
		switch (request.route) {
			case "info":
				return json(this.#info(kind, repository, commit, entries, searchParams));
			case "tree":
				return this.#tree(request, entries, rest.join("/"), searchParams);
			case "paths-info":
				return pathsInfo(request, entries);
			default:
				return this.#file(request, kind, repository, commit, entries);
		}
	}

	/** The answer to those who may not see what they ask for. */
	#refusal(request: HubRequest, kind: Kind, id: string): HttpReply | undefined {
		const token = request.authorization?.replace(/^Bearer /, "");
		if (token !== undefined && !(token in this.tokens)) {
			const message = "Invalid credentials in Authorization header";
			return trouble(401, undefined, message, "Invalid username or password.");
		}
		const repository = this.#repositories.get(`${kind}s/${id}`);
		const opens = token !== undefined && this.tokens[token].includes(id);
		if (repository === undefined || repository.options.private && !opens) {
			const status = token === undefined ? 401 : 404;
			const error = token === undefined ? "Invalid username or password." : "Repository not found";
			return trouble(status, "RepoNotFound", "Repository not found", error);
		}
		if (repository.options.gated && !opens && request.route.startsWith("resolve")) {
			return token === undefined
				? trouble(
					401,
					"GatedRepo",
					`Access to ${kind} ${id} is restricted. You must have access to it and be ` +
						`authenticated to access it. Please log in.`,
				)
				: trouble(
					403,
					"GatedRepo",
					`Access to ${kind} ${id} is restricted and you are not in the authorized list.`,
				);
		}
		return undefined;
	}

	#info(
		kind: Kind,
		{ id, options }: Repository,
		commit: string,
		entries: Entry[],
		query: URLSearchParams,
	): unknown {
		const all: Record<string, unknown> = {
			sha: commit,
			private: options.private === true,
			gated: options.gated ? "manual" : false,
			downloads: 7,
			likes: 3,
			lastModified: "2024-01-02T03:04:05.000Z",
			pipeline_tag: kind === "model" ? "text-generation" : undefined,
			cardData: options.card ?? {},
			siblings: entries.map(({ path }) => ({ rfilename: path })),
		};
		const asked = query.getAll("expand");
		const names = asked.length > 0 ? asked : Object.keys(all);
		return {
			_id: "6".repeat(24),
			id,
			...Object.fromEntries(names.map((name) => [name, all[name]])),
		};
	}

	#tree(request: HubRequest, entries: Entry[], folder: string, query: URLSearchParams): HttpReply {
		const inside = entries.filter(({ path }) => folder === "" || path.startsWith(`${folder}/`));
		const recursive = ["true", "1"].includes((query.get("recursive") ?? "").toLowerCase());
		const depth = folder === "" ? 1 : folder.split("/").length + 1;
		const folders = new Set<string>();
		for (const { path } of inside) {
			const parts = path.split("/");
			for (let n = depth; n < parts.length; n++) {
				if (recursive || n === depth) folders.add(parts.slice(0, n).join("/"));
			}
		}
		const listed = [
			...[...folders].map((path) => ({ type: "directory", oid: "0".repeat(40), size: 0, path })),
			...inside.filter(({ path }) => recursive || path.split("/").length === depth).map(described),
		];
		const first = Number(query.get("cursor") ?? 0);
		const next = first + this.pageSize;
		const reply = json(listed.slice(first, next));
		if (next < listed.length) {
			const url = new URL(request.target, this.url);
			url.searchParams.set("cursor", String(next));
			reply.headers.Link = `<${url}>; rel="next"`;
		}
		return reply;
	}

	#file(
		request: HubRequest,
		kind: Kind,
		{ id }: Repository,
		commit: string,
		entries: Entry[],
	): HttpReply {
		const entry = entries.find(({ path }) => path === request.path);
		if (entry === undefined) {
			const reply = trouble(404, "EntryNotFound", "Entry not found");
			reply.headers["X-Repo-Commit"] = commit;
			return reply;
		}
		const { sha256, oid, content } = entry;
		const headers = { "X-Repo-Commit": commit, "Accept-Ranges": "bytes" };
		if (request.route === "resolve-cache") {
			return ranged(request, content, { ...headers, ETag: `"${oid}"` });
		}
		const encoded = request.path!.split("/").map(encodeURIComponent).join("/");
		if (sha256 === undefined) {
			const Location = `/api/resolve-cache/${kind}s/${id}/${commit}/${encoded}?etag=%22${oid}%22`;
			return { ...text(307, ""), headers: { ...headers, Location } };
		}
		return {
			...text(302, "Found"),
			headers: {
				...headers,
				ETag: `"${sha256}"`,
				"X-Linked-ETag": `"${sha256}"`,
				"X-Linked-Size": String(content.length),
				Location: `${this.#cdn.url}/objects/${sha256}?path=${encodeURIComponent(request.path!)}` +
					`&X-Amz-Signature=${++this.#signatures}`,
			},
		};
	}
}

/** Answers 429 or the like, as plain text. */
export function text(status: number, body: string, headers: Record<string, string> = {}) {
	return {
		status,
		headers: { "Content-Type": "text/plain; charset=utf-8", ...headers },
		body: new TextEncoder().encode(body),
	} satisfies HttpReply;
}

export function json(value: unknown): HttpReply {
	return {
		status: 200,
		headers: { "Content-Type": "application/json; charset=utf-8" },
		body: new TextEncoder().encode(JSON.stringify(value)),
	};
}

export function trouble(
	status: number,
	code: string | undefined,
	message: string,
	error = message,
): HttpReply {
	const headers: Record<string, string> = { "X-Error-Message": message };
	if (code !== undefined) headers["X-Error-Code"] = code;
	const reply = json({ error });
	return { ...reply, status, headers: { ...reply.headers, ...headers } };
}

function ranged(
	{ from, to }: HubRequest,
	content: Uint8Array,
	headers: Record<string, string>,
): HttpReply {
	const all = { "Content-Type": "application/octet-stream", ...headers };
	if (from === undefined) return { status: 200, headers: all, body: content };
	const total = content.length;
	if (from >= total) {
		return { ...text(416, ""), headers: { "Content-Range": `bytes */${total}` } };
	}
	const last = Math.min(to ?? Infinity, total - 1);
	const range = { "Content-Range": `bytes ${from}-${last}/${total}` };
	return { status: 206, headers: { ...all, ...range }, body: content.subarray(from, last + 1) };
}

function pathsInfo({ body }: HubRequest, entries: Entry[]): HttpReply {
	const sent = new TextDecoder().decode(body);
	// Python sends a form.
	const paths: string[] = sent.startsWith("{")
		? JSON.parse(sent).paths
		: new URLSearchParams(sent).getAll("paths");
	const folders = paths
		.filter((path) => entries.some((entry) => entry.path.startsWith(`${path}/`)))
		.map((path) => ({ type: "directory", oid: "0".repeat(40), size: 0, path }));
	return json([...entries.filter(({ path }) => paths.includes(path)).map(described), ...folders]);
}

function described({ path, oid, sha256, content }: Entry) {
	const size = content.length;
	const lfs = sha256 === undefined
		? undefined
		: { oid: sha256, size, pointerSize: pointer(sha256, content).length };
	return { type: "file", oid, size, path, lfs };
}

/** What git keeps in place of an LFS object. */
function pointer(sha256: string, { length }: Uint8Array): string {
	return `version https://git-lfs.github.com/spec/v1\noid sha256:${sha256}\nsize ${length}\n`;
}

/** The name that git gives a file's content. */
function gitHash(content: Uint8Array): string {
	return createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
}
