import { Chromium } from "./chromium.ts";

/** WebGPU on the CPU, without a display. */
export const WEBGPU_FLAGS = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

/** A page of a server on this machine, in a Chromium with WebGPU on the CPU. */
export class WebPage implements AsyncDisposable {
	private constructor(
		readonly browser: Chromium,
		readonly server: Deno.HttpServer<Deno.NetAddr>,
	) {}

	/** @param files What the server has, by path, such as "/web.js"; no parts of those in "/whole". */
	static async open(
		files: Record<string, string | Uint8Array<ArrayBuffer>> = {},
	): Promise<WebPage> {
		const serve = ({ url, headers }: Request) => {
			const { pathname } = new URL(url);
			if (pathname === "/") {
				return new Response("<!doctype html><title>BiLLM</title><link rel=icon href=data:>", {
					headers: { "content-type": "text/html" },
				});
			}
			if (!Object.hasOwn(files, pathname)) return new Response("", { status: 404 });
			const type = pathname.endsWith(".js") ? "text/javascript" : "application/octet-stream";
			const file = files[pathname];
			const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.get("range") ?? "") ?? [];
			if (first === undefined || pathname.startsWith("/whole/")) {
				return new Response(file, { headers: { "content-type": type } });
			}
			return new Response(file.slice(Number(first), Number(last) + 1), { status: 206 });
		};
		const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, serve);
		const page = new WebPage(await Chromium.open(WEBGPU_FLAGS), server);
		const url = `http://127.0.0.1:${server.addr.port}/`;
		await page.browser.show(url, { width: 800, height: 600, scheme: "light" });
		return page;
	}

	/** What a function gives in the page, with values that JSON holds. */
	call<Value, Result>(work: (value: Value) => Promise<Result>, value: Value): Promise<Result> {
		return this.browser.evaluate(`(${work})(${JSON.stringify(value)})`);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.browser.close();
		await this.server.shutdown();
	}
}
