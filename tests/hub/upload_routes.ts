import { createHash } from "node:crypto";
import type { HttpReply } from "./http_server.ts";
import { type HubRequest, json, type LoopbackHub, text, trouble } from "./loopback_hub.ts";

/** Parts of large uploads that have arrived, by hub and address. */
const parts = new WeakMap<LoopbackHub, Map<string, Uint8Array>>();

/** The answer to a request of an upload; undefined if it is another one. */
export function uploadReply(hub: LoopbackHub, request: HubRequest): HttpReply | undefined {
	const { method, host } = request;
	if (host === "cdn") {
		return method === "PUT" || method === "POST" ? arrive(hub, request) : undefined;
	}
	if (method !== "POST") return undefined;
	const { pathname } = new URL(request.target, hub.url);
	const route = [
		[/^\/api\/repos\/create$/, "create"],
		[/^\/api\/models\/([^/]+\/[^/]+)\/preupload\/main$/, "preupload"],
		[/^\/([^/]+\/[^/]+)\.git\/info\/lfs\/objects\/batch$/, "batch"],
		[/^\/api\/models\/([^/]+\/[^/]+)\/commit\/main$/, "commit"],
	] as const;
	for (const [pattern, name] of route) {
		const found = pattern.exec(pathname);
		if (!found) continue;
		request.route = name;
		const body = new TextDecoder().decode(request.body);
		const id = found[1] ?? idOf(JSON.parse(body));
		return refusal(hub, request, id) ?? ROUTES[name](hub, id, body);
	}
	return undefined;
}

function idOf({ name, organization }: { name: string; organization: string }): string {
	return `${organization}/${name}`;
}

function refusal(hub: LoopbackHub, request: HubRequest, id: string): HttpReply | undefined {
	const token = request.authorization?.replace(/^Bearer /, "");
	if (token === undefined || !(token in hub.tokens)) {
		return trouble(401, undefined, "Invalid credentials in Authorization header");
	}
	if (!hub.writers[token]?.includes(id.split("/")[0])) {
		const error = `You don't have the rights to create a model under the namespace "${
			id.split("/")[0]
		}"`;
		return trouble(403, undefined, error);
	}
	if (request.route !== "create" && !hub.files("model", id)) {
		return trouble(404, "RepoNotFound", "Repository not found");
	}
	return undefined;
}

type Reply = (hub: LoopbackHub, id: string, body: string) => HttpReply;

const ROUTES: Record<"create" | "preupload" | "batch" | "commit", Reply> = {
	create(hub, id, body) {
		if (hub.files("model", id)) {
			return trouble(409, undefined, "You already created this model repo");
		}
		const { visibility } = JSON.parse(body);
		const attributes = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n";
		hub.add("model", id, { ".gitattributes": attributes }, {
			private: visibility === "private",
			lfs: isLfs,
		});
		return json({ url: `${hub.url}/${id}`, id: "6".repeat(24) });
	},

	preupload(_hub, _id, body) {
		const files = JSON.parse(body).files.map(({ path, size, sample }: Record<string, unknown>) => {
			if (typeof size !== "number" || typeof sample !== "string") throw new Error("no size");
			return { path, uploadMode: isLfs(path as string) ? "lfs" : "regular", shouldIgnore: false };
		});
		return json({ files });
	},

	batch(hub, _id, body) {
		const { objects, hash_algo } = JSON.parse(body);
		if (hash_algo !== "sha_256") throw new Error(`hash ${hash_algo}`);
		const answers = objects.map(({ oid, size }: { oid: string; size: number }) => {
			if (hub.object(oid)) return { oid, size };
			const { partSize = Infinity } = hub;
			const address = (part: string) => `${hub.cdn}/upload/${oid}/${part}?X-Amz-Signature=1`;
			const count = Math.ceil(size / partSize);
			const header = size > partSize
				? {
					chunk_size: String(partSize),
					...Object.fromEntries(Array.from({ length: count }, (_, i) => {
						const number = String(i + 1).padStart(5, "0");
						return [number, address(number)];
					})),
				}
				: undefined;
			const href = address(header ? "complete" : "all");
			return { oid, size, actions: { upload: { href, header } } };
		});
		return json({ transfer: partsOfAny(answers), objects: answers });
	},

	commit(hub, id, body) {
		const { options, commit } = hub.about("model", id)!;
		const files: Record<string, Uint8Array> = { ...hub.files("model", id) };
		for (const line of body.split("\n")) {
			const { key, value } = JSON.parse(line);
			if (key === "header" && value.parentCommit && value.parentCommit !== commit) {
				return trouble(
					412,
					undefined,
					"A commit has happened since. Please refresh and try again.",
				);
			} else if (key === "file") files[value.path] = Uint8Array.fromBase64(value.content);
			else if (key === "deletedFile") delete files[value.path];
			else if (key === "lfsFile") {
				const object = hub.object(value.oid);
				if (!object || object.length !== value.size) {
					return trouble(400, undefined, "LFS object missing");
				}
				files[value.path] = object;
			}
		}
		const oid = hub.add("model", id, files, { ...options, lfs: isLfs });
		return json({ success: true, commitOid: oid, commitUrl: `${hub.url}/${id}/commit/${oid}` });
	},
};

function partsOfAny(objects: { actions?: { upload: { header?: unknown } } }[]): string {
	return objects.some(({ actions }) => actions?.upload.header) ? "multipart" : "basic";
}

function isLfs(path: string): boolean {
	return path.endsWith(".safetensors");
}

/** A large file, or a part of one, on the host for them. */
function arrive(hub: LoopbackHub, request: HubRequest): HttpReply {
	request.route = "upload";
	if (request.authorization !== null) throw new Error("the token came to another host");
	if (hub.loses?.(request)) return { ...text(200, ""), cutAt: -1 };
	const [, , oid, part] = new URL(request.target, hub.cdn).pathname.split("/");
	const known = parts.get(hub) ?? new Map();
	parts.set(hub, known);
	let content = request.body;
	if (part === "complete") {
		const numbers = JSON.parse(new TextDecoder().decode(request.body)).parts
			.map(({ partNumber, etag }: { partNumber: number; etag: string }) => {
				if (etag !== `"${partNumber}"`) throw new Error(`etag ${etag}`);
				return String(partNumber).padStart(5, "0");
			});
		const all: Uint8Array[] = numbers.map((number: string) => known.get(`${oid}/${number}`));
		content = new Uint8Array(all.flatMap((bytes) => [...bytes]));
	} else if (part !== "all") {
		known.set(`${oid}/${part}`, content);
		return { ...text(200, ""), headers: { ETag: `"${Number(part)}"` } };
	}
	if (createHash("sha256").update(content).digest("hex") !== oid) return text(400, "BadDigest");
	hub.putObject(content);
	return text(200, "");
}
