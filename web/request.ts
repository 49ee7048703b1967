import { UserError } from "../base/errors.ts";

/** A request that may succeed later: no connection, or a server that is overloaded. */
export class PassingTrouble extends UserError {}

/** A server has refused a request. */
export class Refusal extends UserError {
	constructor(message: string, readonly status: number) {
		super(message);
	}
}

/**
 * The server's response; undefined if it does not have the file. Servers of single-page applications answer
 * with a page for any path; no file of a model is a page, so that counts as not having it.
 *
 * @throws {PassingTrouble} If there is no response, or the status says that the server is overloaded.
 * @throws {UserError} If the server refuses in another way.
 * @throws The reason of the signal.
 */
export async function request(url: string, init: RequestInit = {}): Promise<Response | undefined> {
	let response: Response;
	try {
		response = await fetch(url, init);
	} catch {
		init.signal?.throwIfAborted();
		throw await noResponse(url);
	}
	const { status, statusText, headers } = response;
	const isPage = headers.get("content-type")?.startsWith("text/html");
	if (response.ok && !isPage) return response;
	if (status === 416) return response; // the caller asked for a range
	await response.body?.cancel();
	if (response.ok || status === 404) return undefined;
	const problem = `Cannot fetch "${url}": ${`${status} ${statusText}`.trim()}`;
	if ([408, 429, 500, 502, 503, 504].includes(status)) throw new PassingTrouble(problem);
	const isUnauthorized = status === 401 || status === 403;
	const advice = "; the server demands an authorization, which this page does not have";
	throw new Refusal(problem + (isUnauthorized ? advice : ""), status);
}

/** The error for a request without a response: pages are not told why, but can find out in part. */
async function noResponse(url: string): Promise<UserError> {
	const { origin, protocol } = new URL(url);
	const page = (globalThis as { location?: { protocol: string; origin: string } }).location;
	if (page?.protocol === "https:" && protocol === "http:") {
		return new UserError(
			`Cannot fetch "${url}": a page from https may not read from http; use an https address`,
		);
	}
	const isOther = page !== undefined && page.origin !== origin;
	const isThere = isOther &&
		await fetch(url, { mode: "no-cors", method: "HEAD", cache: "no-store" }).then(
			() => true,
			() => false,
		);
	if (isThere) {
		return new UserError(
			`Cannot fetch "${url}": "${origin}" answers, but does not let pages of other sites read its ` +
				`files (CORS); it must send "Access-Control-Allow-Origin: ${page.origin}", or *`,
		);
	}
	return new PassingTrouble(
		`Cannot fetch "${url}": "${origin}" does not answer; check the address and the network`,
	);
}

/** Waits; ends early, with the reason of the signal, if it is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
	return new Promise((resolve, reject) => {
		signal?.throwIfAborted();
		const stop = () => {
			clearTimeout(timer);
			reject(signal!.reason);
		};
		const timer = setTimeout(() => {
			signal?.removeEventListener("abort", stop);
			resolve();
		}, ms);
		signal?.addEventListener("abort", stop, { once: true });
	});
}
