import { createHash, timingSafeEqual } from "node:crypto";
import { Answers } from "./answers.ts";
import { ApiError } from "./api_error.ts";
import { type BodyLimits, readBody } from "./body.ts";
import type { Engine } from "./engine.ts";
import { LinkedSignal } from "./linked_signal.ts";
import type { Metrics } from "./metrics.ts";
import { chatJob, completionJob, type Job, type ServedModel } from "./requests.ts";
import { runJob, streamJob } from "./jobs.ts";
import { wholeResponse } from "./whole_response.ts";

export interface ServerOptions {
	/** Where to listen; port 0 takes a free one. */
	hostname: string;
	port: number;
	/** Keys of which requests must have one; without any, all may ask. */
	apiKeys?: readonly string[];
	/** Origins of web pages that may ask; "*" are all. */
	origins?: readonly string[];
	body?: Partial<BodyLimits>;
	/** The most requests at a time, with those that wait. */
	mostRequests?: number;
	/** Milliseconds that a client may take to read what waits for it. */
	patience?: number;
	/** Milliseconds after which a whole response begins, and between its signs of life. */
	heartbeat?: number;
	/** Called with faults of the program while it answers a request. */
	onFault?: (error: unknown) => void;
}

const BODY: BodyLimits = { most: 4 << 20, milliseconds: 30_000 };
const MOST_REQUESTS = 64;
const PATIENCE = 60_000;
const HEARTBEAT = 2000;
/** Seconds after which a client that was refused for lack of room may ask again. */
const RETRY_SECONDS = 2;
/** Seconds for which browsers keep what they may do. */
const PREFLIGHT_SECONDS = 600;

/** A request that has been let in. */
interface Visit {
	request: Request;
	/** Who shares the GPU with others: a key and an address. */
	client: string;
}

interface Route {
	method: "GET" | "POST";
	/** Whether it needs no key. */
	isOpen?: boolean;
	answer: (visit: Visit) => Response | Promise<Response>;
}

/** An HTTP server with the endpoints of OpenAI's API for text, and those for its operation. */
export class TextServer implements AsyncDisposable {
	readonly #server: Deno.HttpServer<Deno.NetAddr>;
	readonly #routes: Record<string, Route>;
	readonly #keys: Uint8Array[];
	readonly #started = Math.floor(Date.now() / 1000);
	readonly #options: Required<Omit<ServerOptions, "hostname" | "port" | "body">>;
	readonly #body: BodyLimits;
	/** Requests for texts that are in progress. */
	#requests = 0;
	#isDraining = false;
	/** Ends all texts. */
	readonly #end = new AbortController();

	/** Listens from now on. @throws {Deno.errors.AddrInUse} If another program has the port. */
	constructor(
		readonly engine: Engine,
		readonly model: ServedModel,
		{ hostname, port, body, ...options }: ServerOptions,
	) {
		this.#options = {
			apiKeys: [],
			origins: [],
			mostRequests: MOST_REQUESTS,
			patience: PATIENCE,
			heartbeat: HEARTBEAT,
			onFault: () => {},
			...options,
		};
		this.#body = { ...BODY, ...body };
		this.#keys = this.#options.apiKeys.map(digest);
		this.#routes = {
			"/health": { method: "GET", isOpen: true, answer: () => this.#health() },
			"/metrics": { method: "GET", answer: () => this.#metrics() },
			"/v1/models": {
				method: "GET",
				answer: () => Response.json({ object: "list", data: [this.#described()] }),
			},
			[`/v1/models/${model.id}`]: { method: "GET", answer: () => Response.json(this.#described()) },
			"/v1/chat/completions": { method: "POST", answer: (visit) => this.#texts(visit, chatJob) },
			"/v1/completions": { method: "POST", answer: (visit) => this.#texts(visit, completionJob) },
		};
		this.#server = Deno.serve(
			{ hostname, port, onListen: () => {} },
			(request, { remoteAddr, completed }) =>
				this.#handle(request, (remoteAddr as Deno.NetAddr).hostname, completed),
		);
	}

	/** The address that clients use. */
	get url(): string {
		const { hostname, port } = this.#server.addr;
		return `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
	}

	/** Requests for texts that are in progress. */
	get requests(): number {
		return this.#requests;
	}

	/** Takes no more requests, and waits for the end of those in progress. */
	async drain(): Promise<void> {
		this.#isDraining = true;
		await this.#server.shutdown();
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#end.abort(new Error("The server ends"));
		await this.drain();
	}

	get #count(): Metrics {
		return this.engine.metrics;
	}

	async #handle(request: Request, address: string, completed: Promise<void>): Promise<Response> {
		const start = performance.now();
		const { pathname } = new URL(request.url);
		const path = Object.hasOwn(this.#routes, decoded(pathname)) ? decoded(pathname) : undefined;
		let response: Response;
		try {
			response = await this.#answer(request, path, address);
		} catch (error) {
			response = this.#errorOf(error).response;
		}
		const { status } = response;
		const name = path?.startsWith("/v1/models/") ? "/v1/models/ID" : path ?? "other";
		this.#count.count("requests_total", 1, { path: name, status });
		const seconds = () => (performance.now() - start) / 1000;
		if (path !== undefined && this.#routes[path].method === "POST") {
			completed.then(() => this.#count.observe("request_seconds", seconds()), () => {});
		}
		for (const [header, value] of this.#corsHeaders(request)) {
			response.headers.append(header, value);
		}
		if (this.#isDraining) response.headers.set("Connection", "close");
		if (request.method !== "HEAD") return response;
		await response.body?.cancel();
		return new Response(null, response);
	}

	async #answer(request: Request, path: string | undefined, address: string): Promise<Response> {
		this.#checkOrigin(request);
		const { method } = request;
		if (method === "OPTIONS") return preflight(request);
		const route = path === undefined ? undefined : this.#routes[path];
		const key = route?.isOpen ? "" : this.#keyOf(request);
		if (!route) {
			const { pathname } = new URL(request.url);
			throw new ApiError(404, `Unknown request URL: ${method} ${pathname.slice(0, 200)}`, {
				code: "unknown_url",
			});
		}
		if (route.method !== method && !(method === "HEAD" && route.method === "GET")) {
			throw new ApiError(405, `Not allowed: ${method} ${path}; use ${route.method}`, {
				headers: { Allow: route.method },
			});
		}
		return await route.answer({ request, client: `${key} ${address}` });
	}

	#errorOf(error: unknown): ApiError {
		if (error instanceof ApiError) return error;
		this.#options.onFault(error);
		return new ApiError(500, "The server has failed at this request; its output says why");
	}

	/**
	 * Refuses requests that a browser sends for a web page that may not ask: without that, any page could
	 * use a server on its reader's machine.
	 */
	#checkOrigin(request: Request): void {
		const origin = request.headers.get("Origin");
		if (origin === null || this.#allows(origin)) return;
		throw new ApiError(403, `Web pages of "${origin.slice(0, 200)}" may not use this server`);
	}

	#allows(origin: string): boolean {
		return this.#options.origins.some((allowed) => allowed === "*" || allowed === origin);
	}

	#corsHeaders(request: Request): [string, string][] {
		if (this.#options.origins.length === 0) return [];
		const origin = request.headers.get("Origin");
		const vary: [string, string] = ["Vary", "Origin"];
		if (origin === null || !this.#allows(origin)) return [vary];
		return [vary, ["Access-Control-Allow-Origin", origin]];
	}

	/** The key of a request, shortened, for telling clients apart. @throws {ApiError} Without a good one. */
	#keyOf(request: Request): string {
		if (this.#keys.length === 0) return "";
		const [, given] = /^Bearer +(\S+)$/i.exec(request.headers.get("Authorization") ?? "") ?? [];
		const hash = given === undefined ? undefined : digest(given);
		// All are compared, so that the time does not tell which one is near.
		const places = this.#keys.map((key) => hash !== undefined && timingSafeEqual(key, hash));
		if (places.includes(true)) return String(places.indexOf(true));
		throw new ApiError(
			401,
			given === undefined
				? "This server needs an API key: Authorization: Bearer KEY"
				: "Incorrect API key provided",
			{ code: "invalid_api_key", headers: { "WWW-Authenticate": "Bearer" } },
		);
	}

	async #texts(
		{ request, client }: Visit,
		read: (body: unknown, model: ServedModel) => Job | Promise<Job>,
	): Promise<Response> {
		if (this.#isDraining) throw new ApiError(503, "The server ends", { code: "shutting_down" });
		if (this.#requests >= this.#options.mostRequests) {
			throw new ApiError(429, `${this.#requests} requests are in progress; try again later`, {
				code: "server_busy",
				headers: { "Retry-After": String(RETRY_SECONDS) },
			});
		}
		this.#requests++;
		const link = new LinkedSignal(request.signal, this.#end.signal);
		const { signal } = link;
		const onEnd = () => {
			this.#requests--;
			link[Symbol.dispose]();
			if (signal.aborted) this.#count.count("cancelled_total");
		};
		let isRunning = false;
		try {
			const job = await read(await readBody(request, this.#body), this.model);
			const answers = new Answers(job, this.model);
			isRunning = true; // from here on, the job ends by itself
			const left = (reason: Error) => link.abort(reason);
			if (!job.stream) {
				const whole = runJob(this.engine, answers, client, signal).finally(onEnd);
				return await wholeResponse(whole, this.#options.heartbeat, left, (error) => {
					if (!signal.aborted) this.#options.onFault(error);
				});
			}
			const body = streamJob(this.engine, answers, {
				client,
				signal,
				patience: this.#options.patience,
				left,
				errorOf: (error) => this.#errorOf(error),
				onEnd,
			});
			return new Response(body, {
				headers: {
					"Content-Type": "text/event-stream; charset=utf-8",
					"Cache-Control": "no-cache",
					"X-Accel-Buffering": "no", // nginx would hold events back
				},
			});
		} catch (error) {
			if (!signal.aborted) throw error;
			throw new ApiError(503, "The request was cancelled", { code: "cancelled" });
		} finally {
			if (!isRunning) onEnd();
		}
	}

	#health(): Response {
		const status = this.engine.model.decoder.gpu.fault !== undefined
			? "failed"
			: this.#isDraining
			? "draining"
			: "ok";
		return Response.json({ status }, { status: status === "ok" ? 200 : 503 });
	}

	#metrics(): Response {
		const { current, pooled } = this.engine.model.decoder.gpu.memory;
		const { rss, heapUsed } = Deno.memoryUsage();
		const text = this.#count.text({
			texts_running: this.engine.places.inside,
			texts_waiting: this.engine.places.waiting,
			gpu_bytes: current + pooled,
			resident_bytes: rss,
			heap_bytes: heapUsed,
		});
		return new Response(text, { headers: { "Content-Type": "text/plain; version=0.0.4" } });
	}

	#described(): unknown {
		const { id, context } = this.model;
		const owned_by = id.includes("/") ? id.split("/")[0] : "billm";
		return { id, object: "model", created: this.#started, owned_by, max_model_len: context };
	}
}

/** What a browser may send, for pages whose origin was found to be allowed. */
function preflight(request: Request): Response {
	const wanted = request.headers.get("Access-Control-Request-Headers");
	return new Response(null, {
		status: 204,
		headers: {
			"Access-Control-Allow-Methods": "GET, POST",
			"Access-Control-Allow-Headers": wanted ?? "Authorization, Content-Type",
			"Access-Control-Max-Age": String(PREFLIGHT_SECONDS),
			"Vary": "Access-Control-Request-Headers",
		},
	});
}

function digest(key: string): Uint8Array {
	return createHash("sha256").update(key).digest();
}

/** A path without percent-encoding, as clients may write the "/" of a model's name; as it is if damaged. */
function decoded(pathname: string): string {
	try {
		return decodeURIComponent(pathname);
	} catch {
		return pathname;
	}
}
