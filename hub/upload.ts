import { commitIter, type CommitOperation, createRepo } from "@huggingface/hub";
import { pathToFileURL } from "node:url";
import { UserError } from "../base/errors.ts";
import { VERSION } from "../base/version.ts";
import { DEFAULT_LIMITS, type HubLimits } from "./limits.ts";
import { pageOf } from "./repository.ts";
import { Attempts, PassingTrouble, retryAfterMs, sleep } from "./retry.ts";
import { secondsText, StallGuard } from "./session.ts";
import type { HubSettings } from "./settings.ts";
import { encoded, type UploadOptions, type UploadPlan } from "./upload_plan.ts";

/**
 * Carries out a plan with one commit, which has all of its changes or none. What a request for a large file
 * has sent stays with the hub, which does not ask for it again if the upload is cut off before the commit.
 *
 * @param title The message of the commit.
 * @param isPrivate Whether a repository that is created is private.
 * @returns The address of the commit.
 * @throws {UserError} If there is no token, or the hub refuses.
 * @throws The signal's reason, if it is aborted.
 */
export async function upload(
	plan: UploadPlan,
	title: string,
	isPrivate: boolean,
	options: UploadOptions,
): Promise<string> {
	const { repository: { id }, isNew, commit: parentCommit, send, remove } = plan;
	const { settings, signal } = options;
	checkToken(settings, id);
	const requests = new UploadRequests(id, options, send.reduce((sum, { bytes }) => sum + bytes, 0));
	const repo = { type: "model", name: id } as const;
	const common = { repo, hubUrl: settings.endpoint, fetch: requests.fetch };
	const operations: CommitOperation[] = [
		...send.map(({ name: path, content }) => ({
			operation: "addOrUpdate" as const,
			path,
			content: "path" in content ? pathToFileURL(content.path) : new Blob([encoded(content.text)]),
		})),
		...remove.map((path) => ({ operation: "delete" as const, path })),
	];
	try {
		// The library takes only tokens that begin with "hf_"; the requests have the token by themselves.
		const visibility = isPrivate ? "private" : "public";
		if (isNew) await createRepo({ ...common, visibility, accessToken: "" });
		const steps = commitIter({
			...common,
			title,
			operations,
			branch: "main",
			parentCommit,
			useXet: false,
			abortSignal: signal,
		});
		for (;;) {
			const { done, value } = await steps.next();
			if (done) return value!.commit.url;
		}
	} catch (error) {
		signal.throwIfAborted();
		if (requests.refused) throw requests.refused;
		if (error instanceof UserError) throw error;
		throw new UserError(
			`Cannot upload to "${id}": what answers at "${settings.endpoint}" is no hub ` +
				`(${(error as Error).message}); check HF_ENDPOINT`,
			{ cause: error },
		);
	}
}

/** @throws {UserError} If there is no token. */
export function checkToken({ token, endpoint }: HubSettings, id: string): void {
	if (token !== undefined) return;
	throw new UserError(
		`Cannot upload to "${id}": there is no token; set HF_TOKEN to one with the right to write ` +
			`(${endpoint}/settings/tokens)`,
	);
}

/** The requests of an upload: with the token, repeated after temporary errors, with errors that help. */
class UploadRequests {
	/** The error of the first request that was refused. */
	refused?: UserError;
	readonly #limits: HubLimits;
	#sent = 0;

	constructor(readonly id: string, readonly options: UploadOptions, readonly total: number) {
		this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
	}

	readonly fetch = async (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
		const { onWarning = () => {}, signal } = this.options;
		const url = new URL(String(input));
		// Whether a commit or a new repository that got no answer is there is not known.
		const isOnce = /\/(commit\/[^/]+|repos\/create)$/.test(url.pathname);
		const attempts = new Attempts(this.#limits);
		for (;;) {
			const before = this.#sent;
			try {
				return await this.#attempt(url, init);
			} catch (error) {
				signal.throwIfAborted();
				if (!(error instanceof PassingTrouble)) throw error;
				this.#sent = before;
				const pauseMs = isOnce ? undefined : attempts.pauseAfter(error);
				if (pauseMs === undefined) {
					this.refused = new UserError(
						`Cannot upload to "${this.id}": ${error.message}; run the same command again later; ` +
							`what has arrived is not sent again`,
					);
					throw this.refused;
				}
				onWarning(`${error.message}; trying again in ${secondsText(pauseMs)}`);
				await sleep(pauseMs, signal);
			}
		}
	};

	async #attempt(url: URL, init: RequestInit): Promise<Response> {
		const { settings, signal } = this.options;
		const isOfHub = url.origin === new URL(settings.endpoint).origin;
		const headers = new Headers(init.headers);
		headers.set("User-Agent", `billm/${VERSION}`);
		headers.delete("Authorization");
		if (isOfHub) headers.set("Authorization", `Bearer ${settings.token}`);
		using guard = new StallGuard(this.#limits.stallMs, signal);
		const { body } = init;
		const watched = body instanceof Blob
			? new WatchedBlob(body, (bytes) => {
				guard.arrived();
				this.#sent += bytes;
				this.options.onProgress?.("uploading", this.#sent, this.total);
			})
			: body;
		let response: Response;
		try {
			const request = { ...init, headers, body: watched, signal: guard.signal };
			// A redirect of anything but a question would lose the body, or take it to another place.
			response = await fetch(url, { ...request, redirect: "manual" });
		} catch (error) {
			signal.throwIfAborted();
			if (guard.signal.aborted) throw guard.signal.reason;
			throw new PassingTrouble(`"${url.host}" does not answer: ${(error as Error).message}`);
		}
		if (response.ok) return response;
		throw await this.#refusal(response, url, isOfHub);
	}

	async #refusal(response: Response, url: URL, isOfHub: boolean): Promise<Error> {
		const { status, headers } = response;
		const body = (await response.text().catch(() => "")).slice(0, 10_000);
		const said = (headers.get("X-Error-Message") ?? errorOf(body))?.slice(0, 300);
		const because = said ? ` (${said})` : "";
		const answer = `${isOfHub ? "the hub" : `"${url.host}"`} answers ${status}${because}`;
		// Addresses on other hosts are signed and expire; a new upload gets new ones.
		if (status >= 500 || [408, 425, 429].includes(status) || !isOfHub) {
			return new PassingTrouble(answer, retryAfterMs(headers.get("Retry-After")));
		}
		return this.refused ??= new UserError(
			`Cannot upload to "${this.id}": ${this.#remedy(status, because)}`,
		);
	}

	#remedy(status: number, because: string): string {
		const { endpoint, tokenSource = "HF_TOKEN" } = this.options.settings;
		const tokens = `${endpoint}/settings/tokens`;
		const page = pageOf(endpoint, { type: "model", id: this.id, revision: "main" });
		switch (status) {
			case 401:
				return `the hub refuses the token of ${tokenSource}${because}; make a new one at ${tokens}`;
			case 403:
				return `the token of ${tokenSource} may not write to it${because}; give it the right to write ` +
					`at ${tokens}, or choose a repository of your own`;
			case 404:
				return `the hub has no such place${because}, or the token of ${tokenSource} may not see it; ` +
					`check the name, and the token's rights at ${tokens}`;
			case 409:
				return `the hub has it already${because}, but does not show it to the token of ` +
					`${tokenSource}; look at ${page}`;
			case 412:
				return `somebody else has changed it meanwhile${because}; run the same command again`;
			default:
				return `the hub answers ${status}${because}`;
		}
	}
}

/** A blob that tells how many bytes of it are read. */
class WatchedBlob extends Blob {
	constructor(readonly of: Blob, readonly onBytes: (bytes: number) => void) {
		super();
	}

	override get size(): number {
		return this.of.size;
	}

	override stream(): ReturnType<Blob["stream"]> {
		const watch = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
			transform: (chunk, controller) => {
				this.onBytes(chunk.length);
				controller.enqueue(chunk);
			},
		});
		return this.of.stream().pipeThrough(watch);
	}
}

function errorOf(body: string): string | undefined {
	try {
		const { error } = JSON.parse(body);
		return typeof error === "string" ? error : undefined;
	} catch {
		return undefined;
	}
}
