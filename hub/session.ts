import { UserError } from "../base/errors.ts";
import { VERSION } from "../base/version.ts";
import type { HubLimits } from "./limits.ts";
import { isJson, noHub, refusal, typeText } from "./refusal.ts";
import type { HubRepository } from "./repository.ts";
import { Attempts, PassingTrouble, sleep } from "./retry.ts";
import type { HubSettings } from "./settings.ts";

const MAX_REDIRECTS = 10;

/** Characters of an answer about a repository; a page of a listing has some 300 kB. */
const MAX_ANSWER = 32 << 20;

/** An unreachable hub; cached files may suffice. */
export class HubUnreachable extends UserError {
	override name = "HubUnreachable";
}

/** A guard that aborts a connection without data. */
export class StallGuard implements Disposable {
	readonly #stalled = new AbortController();
	#timer?: ReturnType<typeof setTimeout>;
	/** Aborted if the connection stalls or the user interrupts. */
	readonly signal: AbortSignal;

	constructor(readonly stallMs: number, user: AbortSignal) {
		this.signal = AbortSignal.any([user, this.#stalled.signal]);
		this.arrived();
	}

	/** Restarts the timeout after data arrived. */
	arrived(): void {
		clearTimeout(this.#timer);
		const trouble = new PassingTrouble(`nothing has arrived for ${this.stallMs / 1000} s`);
		this.#timer = setTimeout(() => this.#stalled.abort(trouble), this.stallMs);
	}

	[Symbol.dispose](): void {
		clearTimeout(this.#timer);
	}
}

/** The HTTP requests for one repository. */
export class HubSession {
	constructor(
		readonly settings: HubSettings,
		readonly repository: HubRepository,
		readonly limits: HubLimits,
		readonly signal: AbortSignal,
		readonly warn: (text: string) => void,
		/** Whether the cache could answer instead, so that timeouts are short. */
		readonly impatient = false,
	) {}

	/**
	 * One attempt at a request. Redirects are followed here because the token is for the endpoint's origin
	 * only, and `fetch` would follow to any scheme.
	 *
	 * @param path The requested file, for messages.
	 * @throws {PassingTrouble | UserError} If there is no response, or one with status 400 or more, except 416
	 *   for a range.
	 */
	async request(
		address: string,
		guard: StallGuard,
		init: { method?: string; headers?: HeadersInit; body?: BodyInit | null } = {},
		path?: string,
	): Promise<Response> {
		let { method = "GET", body } = init;
		let url = new URL(address);
		for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
			const headers = new Headers(init.headers);
			headers.set("User-Agent", `billm/${VERSION}`);
			// Compressed responses have no byte ranges and no verifiable length.
			headers.set("Accept-Encoding", "identity");
			headers.delete("Authorization");
			if (url.origin === this.#origin) {
				const { token, credentials } = this.settings;
				if (token !== undefined) headers.set("Authorization", `Bearer ${token}`);
				else if (credentials !== undefined) {
					const bytes = new TextEncoder().encode(credentials);
					headers.set("Authorization", `Basic ${bytes.toBase64()}`);
				}
			}
			const response = await this.translating(
				guard,
				() => fetch(url, { method, headers, body, redirect: "manual", signal: guard.signal }),
			);
			guard.arrived();
			const location = response.headers.get("Location");
			if (![301, 302, 303, 307, 308].includes(response.status) || location === null) {
				const beyondEnd = response.status === 416 && headers.has("Range");
				if (response.status < 400 || beyondEnd) return response;
				throw await this.translating(
					guard,
					() => refusal(response, this.settings, this.repository, path),
				);
			}
			await response.body?.cancel();
			const target = URL.parse(location, url);
			if (target === null || !/^https?:$/.test(target.protocol)) {
				throw new UserError(
					`Cannot download "${this.repository.id}": "${url.host}" redirects to ` +
						`"${location}", which is no web address; check HF_ENDPOINT`,
				);
			}
			if (response.status < 307 && method !== "GET") [method, body] = ["GET", undefined];
			url = target;
		}
		throw new UserError(
			`Cannot download "${this.repository.id}": the hub redirects more than ` +
				`${MAX_REDIRECTS} times, at last to "${url.host}"; check HF_ENDPOINT`,
		);
	}

	/**
	 * The `fetch` for API requests about the repository, with redirects, retries and errors with remedies. It
	 * returns only successful JSON responses.
	 *
	 * @throws {HubUnreachable} If there is no response.
	 * @throws {UserError} If the hub refuses, or the server is not a hub.
	 */
	readonly fetch = async (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
		const limits = this.impatient ? { ...this.limits, attempts: 1 } : this.limits;
		const stallMs = this.impatient ? limits.impatientStallMs : limits.stallMs;
		const attempts = new Attempts(limits);
		for (;;) {
			try {
				using guard = new StallGuard(stallMs, this.signal);
				const { method, headers, body } = init;
				const response = await this.request(String(input), guard, { method, headers, body });
				const text = await this.#textOf(response, guard);
				if (!isJson(text)) {
					const evidence = `sends ${typeText(response.headers)} in place of JSON`;
					throw noHub(this.settings, this.repository, evidence);
				}
				return new Response(text, { headers: response.headers });
			} catch (trouble) {
				if (!(trouble instanceof PassingTrouble)) throw trouble;
				const pauseMs = attempts.pauseAfter(trouble);
				if (pauseMs === undefined) {
					throw new HubUnreachable(
						`Cannot reach the hub at "${this.settings.endpoint}": ${trouble.message}; ` +
							`check the network and HF_ENDPOINT, or try again later`,
					);
				}
				this.warn(
					`The hub does not answer: ${trouble.message}; trying again in ${secondsText(pauseMs)}`,
				);
				await sleep(pauseMs, this.signal);
			}
		}
	};

	/** The body of an answer about a repository. @throws {UserError} If it is too long for one. */
	async #textOf(response: Response, guard: StallGuard): Promise<string> {
		const reader = response.body?.getReader();
		const decoder = new TextDecoder();
		let text = "";
		while (reader) {
			const { done, value } = await this.translating(guard, () => reader.read());
			if (done) break;
			guard.arrived();
			text += decoder.decode(value, { stream: true });
			if (text.length <= MAX_ANSWER) continue;
			await reader.cancel();
			throw noHub(this.settings, this.repository, "sends an answer that does not end");
		}
		return text + decoder.decode();
	}

	/**
	 * Converts errors of `fetch` and of bodies to `PassingTrouble`.
	 *
	 * @throws The signal's reason, if the user interrupted.
	 */
	async translating<T>(guard: StallGuard, work: () => Promise<T>): Promise<T> {
		try {
			return await work();
		} catch (error) {
			this.signal.throwIfAborted();
			if (guard.signal.aborted) throw guard.signal.reason;
			throw new PassingTrouble(networkReason(error));
		}
	}

	get #origin(): string {
		return new URL(this.settings.endpoint).origin;
	}
}

/** The message of a connection error, without the URL that Deno repeats. */
function networkReason(error: unknown): string {
	let innermost = error as Error;
	while (innermost.cause instanceof Error) innermost = innermost.cause;
	return innermost.message
		.replace(/^error sending request (?:for url \(\S*\)|from .*? for \S* \(\S*\)): /, "")
		.replace(/client error \(\w+\): /, "");
}

export function secondsText(ms: number): string {
	return `${(ms / 1000).toFixed(ms < 9500 ? 1 : 0)} s`;
}
