import { UserError } from "../base/errors.ts";
import { type HubRepository, kindOf, pageOf } from "./repository.ts";
import { PassingTrouble, retryAfterMs } from "./retry.ts";
import type { HubSettings } from "./settings.ts";

/** A missing or inaccessible repository. */
export class NoSuchRepository extends UserError {}

/** Temporary failures, in addition to all statuses from 500. */
const PASSING = [408, 425, 429];

/**
 * The error of a response with status 400 or more; reads its body.
 *
 * @param path The requested file, if any.
 * @see hf_raise_for_status in Python's huggingface_hub, for the headers.
 */
export async function refusal(
	response: Response,
	settings: HubSettings,
	repository: HubRepository,
	path?: string,
): Promise<Error> {
	const { status, headers } = response;
	const body = await startOf(response, 100_000);
	const ofHub = URL.parse(response.url)?.origin === new URL(settings.endpoint).origin;
	const said = (headers.get("X-Error-Message") ?? errorOf(body))?.slice(0, 300);
	const answer = `${ofHub ? "the hub" : `"${URL.parse(response.url)?.host}"`} answers ${status}` +
		(said ? ` (${said})` : "");
	// URLs on other hosts are signed and expire; the next attempt gets a new one from the hub.
	if (status >= 500 || PASSING.includes(status) || !ofHub) {
		return new PassingTrouble(answer, retryAfterMs(headers.get("Retry-After")));
	}

	const { id, revision } = repository;
	const page = pageOf(settings.endpoint, repository);
	const tokens = `${settings.endpoint}/settings/tokens`;
	const because = (text: string) => new UserError(`Cannot download "${id}": ${text}`);
	switch (headers.get("X-Error-Code")) {
		case "GatedRepo":
			return because(
				`its owner asks for conditions to be accepted; do so at ${page}, ` +
					(settings.token === undefined
						? `then set HF_TOKEN to a token of that account (${tokens})`
						: `with the account of the token of ${settings.tokenSource}` +
							(said ? ` (the hub says: ${said})` : "")),
			);
		case "RevisionNotFound":
			return because(
				`it has no revision "${revision}"; its branches and commits are at ${page}/tree/main`,
			);
		case "EntryNotFound":
			return noSuchFile(settings, repository, path!);
	}
	if (status === 404 && !headers.has("X-Error-Code") && !isJson(body)) {
		return noHub(settings, repository, `sends ${typeText(headers)} in place of JSON`);
	}
	if (said === "Access to this resource is disabled.") {
		return because("the hub has disabled access to it; nothing but another repository would do");
	}
	if (status === 401 && settings.token !== undefined) {
		return because(
			`the hub refuses the token of ${settings.tokenSource}` + (said ? ` (${said})` : "") +
				`; make a new one at ${tokens}, or unset it`,
		);
	}
	// Without access, the hub does not distinguish private from missing repositories.
	if (status === 401 || status === 404) {
		return new NoSuchRepository(
			`Cannot download "${id}": ` +
				(settings.token === undefined
					? `the hub has no such ${kindOf(repository)}, or it is private; ` +
						`check the name at ${page}, and set HF_TOKEN if it is private (${tokens})`
					: `the hub has no such ${kindOf(repository)}, or the token of ${settings.tokenSource} ` +
						`may not see it; check the name at ${page}, and the token's rights at ${tokens}`),
		);
	}
	if (status === 403) {
		return because(`${answer}; check the rights of the token at ${tokens}`);
	}
	return because(answer);
}

/** The start of a response's body, of at most so many characters and a chunk. */
async function startOf(response: Response, characters: number): Promise<string> {
	const decoder = new TextDecoder();
	let text = "";
	for await (const chunk of response.body ?? []) {
		text += decoder.decode(chunk, { stream: true });
		if (text.length >= characters) break; // which cancels the rest
	}
	return text;
}

export function noSuchFile(
	{ endpoint }: HubSettings,
	repository: HubRepository,
	path: string,
): UserError {
	const { id, revision } = repository;
	const tree = `${pageOf(endpoint, repository)}/tree/${encodeURIComponent(revision)}`;
	return new UserError(
		`Cannot download "${id}": revision "${revision}" has no file "${path}"; ` +
			`its files are at ${tree}`,
	);
}

/** The error of a server that is not a hub. */
export function noHub(
	{ endpoint }: HubSettings,
	{ id }: HubRepository,
	evidence: string,
	cause?: unknown,
): UserError {
	return new UserError(
		`Cannot download "${id}": what answers at "${endpoint}" is no hub (it ${evidence}); ` +
			`check HF_ENDPOINT, or sign in to the network`,
		{ cause },
	);
}

/** The content type of a response. */
export function typeText(headers: Headers): string {
	return `"${headers.get("Content-Type") ?? "no type"}"`;
}

export function isJson(text: string): boolean {
	try {
		JSON.parse(text);
		return true;
	} catch {
		return false;
	}
}

/** The "error" of a JSON body. */
function errorOf(body: string): string | undefined {
	const error = isJson(body) ? JSON.parse(body)?.error : undefined;
	return typeof error === "string" ? error : undefined;
}
