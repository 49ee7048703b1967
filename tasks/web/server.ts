import { open } from "node:fs/promises";
import { extname } from "node:path";
import { isSystemError } from "../../storage/folder.ts";
import type { PageFiles } from "./page_files.ts";
import { FILE_LIST, type ServedModel } from "./served_model.ts";

const TYPES: Record<string, string> = {
	".html": "text/html; charset=utf-8",
	".css": "text/css; charset=utf-8",
	".js": "text/javascript; charset=utf-8",
	".json": "application/json",
};

/** Bytes of a file that are read at a time. */
const CHUNK = 1 << 20;

/**
 * The handler of a server of the page and, if there is one, its model.
 *
 * @param page The files of the page by name.
 */
export function pageServer(
	page: PageFiles,
	model?: ServedModel,
): (request: Request) => Promise<Response> {
	return async (request) => {
		const { method, url } = request;
		if (method !== "GET" && method !== "HEAD") {
			return new Response("", { status: 405, headers: { allow: "GET, HEAD" } });
		}
		const { pathname } = new URL(url);
		const name = pathname === "/" ? "index.html" : pathname.slice(1);
		const content = page.get(name);
		if (content !== undefined) {
			return new Response(content, {
				headers: { "content-type": typeOf(name), "cache-control": "no-cache" },
			});
		}
		const file = model && name.startsWith(`${model.place}/`)
			? decoded(name.slice(model.place.length + 1))
			: "";
		if (model && file === FILE_LIST) return Response.json(model.list());
		const path = model?.paths.get(file);
		if (path === undefined) return new Response("Not found", { status: 404 });
		return await fileResponse(path, request);
	};
}

function typeOf(path: string): string {
	return TYPES[extname(path)] ?? "application/octet-stream";
}

function decoded(name: string): string {
	try {
		return decodeURIComponent(name);
	} catch {
		return name; // no UTF-8
	}
}

/** A file or, where a range is asked for, its end from some byte on or a part. */
async function fileResponse(path: string, { method, headers }: Request): Promise<Response> {
	let file;
	try {
		file = await open(path);
	} catch (error) {
		if (isSystemError(error)) return new Response("Not found", { status: 404 });
		throw error;
	}
	const { size, mtimeMs } = await file.stat();
	const common = {
		"content-type": typeOf(path),
		"accept-ranges": "bytes",
		"cache-control": "no-cache",
		"etag": `"${size}-${mtimeMs}"`,
	};
	const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(headers.get("range") ?? "") ?? [];
	const isPart = from !== undefined;
	const first = isPart ? Number(from) : 0;
	const last = to ? Math.min(Number(to), size - 1) : size - 1;
	if (isPart && first > last) {
		await file.close();
		return new Response("", { status: 416, headers: { "content-range": `bytes */${size}` } });
	}
	const part = isPart && { "content-range": `bytes ${first}-${last}/${size}` };
	const init = {
		status: isPart ? 206 : 200,
		headers: { ...common, ...part, "content-length": String(last - first + 1) },
	};
	if (method === "HEAD") {
		await file.close();
		return new Response(null, init);
	}
	let at = first;
	const body = new ReadableStream<Uint8Array>({
		async pull(controller) {
			const chunk = new Uint8Array(Math.min(CHUNK, last + 1 - at));
			const { bytesRead } = await file.read(chunk, 0, chunk.length, at);
			if (bytesRead > 0) controller.enqueue(chunk.subarray(0, bytesRead));
			at += bytesRead;
			if (bytesRead > 0 && at <= last) return;
			await file.close();
			// A file that has become shorter must not look complete.
			if (at <= last) controller.error(new Error(`"${path}" has changed`));
			else controller.close();
		},
		cancel: () => file.close(),
	});
	return new Response(body, init);
}
