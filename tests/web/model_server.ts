import { createHash } from "node:crypto";

/** How a server of model files behaves; all can be changed while it runs. */
export interface Behaviour {
	/** Whether it sends parts of files. */
	ranges: boolean;
	/** Whether it says which version of a file it has. */
	versions: boolean;
	/** Whether it answers HEAD requests. */
	heads: boolean;
	/** Answers with a page for what it does not have, as servers of applications do. */
	pages: boolean;
	/** The status of all answers, if it is not to be that of the file. */
	status?: number;
	/** Bytes of an answer after which the connection is lost. */
	cutAfter?: number;
	/** Bytes of an answer after which nothing more comes. */
	stallAfter?: number;
}

/** A server of the files of one model at "/m/", which remembers what it was asked for. */
export class ModelServer implements AsyncDisposable {
	readonly asked: { method: string; name: string; range: string | null; sent: number }[] = [];
	readonly behaviour: Behaviour = { ranges: true, versions: true, heads: true, pages: false };
	readonly #server: Deno.HttpServer<Deno.NetAddr>;

	constructor(readonly files: Record<string, string | Uint8Array<ArrayBuffer>>) {
		this.#server = Deno.serve(
			{
				port: 0,
				hostname: "127.0.0.1",
				onListen() {},
				onError: () => new Response("", { status: 500 }),
			},
			(request) => this.#answer(request),
		);
	}

	get url(): string {
		return `http://127.0.0.1:${this.#server.addr.port}/m`;
	}

	/** The names asked for with GET, without files that it does not have. */
	get fetched(): string[] {
		return this.asked.filter(({ method, name }) => method === "GET" && name in this.files)
			.map(({ name }) => name);
	}

	#answer({ method, url, headers: given }: Request): Response {
		const { ranges, versions, heads, pages, status } = this.behaviour;
		const name = decodeURIComponent(new URL(url).pathname).replace(/^\/m\//, "");
		const range = given.get("range");
		const record = { method, name, range, sent: 0 };
		this.asked.push(record);
		if (status) return new Response("", { status });
		if (method === "HEAD" && !heads) return new Response("", { status: 405 });
		if (!Object.hasOwn(this.files, name)) {
			const html = { "content-type": "text/html" };
			return new Response("<!doctype html>", pages ? { headers: html } : { status: 404 });
		}
		const file = this.files[name];
		const bytes = typeof file === "string" ? new TextEncoder().encode(file) : file;
		const headers = new Headers({ "content-type": "application/octet-stream" });
		if (versions) headers.set("etag", `"${createHash("md5").update(bytes).digest("hex")}"`);
		const [, from] = /^bytes=(\d+)-$/.exec(range ?? "") ?? [];
		const start = ranges && from ? Number(from) : 0;
		if (start > 0 && start >= bytes.length) return new Response("", { status: 416 });
		if (ranges && from) {
			headers.set("content-range", `bytes ${start}-${bytes.length - 1}/${bytes.length}`);
		}
		headers.set("content-length", String(bytes.length - start));
		const init = { headers, status: ranges && from ? 206 : 200 };
		if (method === "HEAD") return new Response(null, init);
		return new Response(this.#body(bytes.subarray(start), record), init);
	}

	#body(bytes: Uint8Array<ArrayBuffer>, record: { sent: number }): BodyInit {
		const { cutAfter = Infinity, stallAfter = Infinity } = this.behaviour;
		const most = Math.min(cutAfter, stallAfter);
		record.sent = Math.min(bytes.length, most);
		if (bytes.length <= most) return bytes;
		return new ReadableStream({
			async pull(controller) {
				controller.enqueue(bytes.subarray(0, most));
				await new Promise((resolve) => setTimeout(resolve, 50)); // what was sent is to arrive
				if (cutAfter < Infinity) controller.error(new Error("cut"));
				else await new Promise(() => {});
			},
		});
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#server.shutdown();
	}
}
