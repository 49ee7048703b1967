import { dirname } from "node:path";
import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { makeFolder, type RepositoryCache, sizeOf } from "./cache.ts";
import type { RemoteFile } from "./listing.ts";
import { PartialFile } from "./partial_file.ts";
import type { ProgressMeter } from "./progress.ts";
import { pageOf } from "./repository.ts";
import { Attempts, PassingTrouble, sleep } from "./retry.ts";
import { type HubSession, secondsText, StallGuard } from "./session.ts";
import { verifyFile } from "./verify.ts";

/** A transferred file with the wrong content, which must be discarded. */
class WrongContent extends Error {}

/**
 * Transfers a file to the blobs of the cache, unless present: resumes earlier transfers, retries after
 * temporary errors, and verifies length and hash. The caller holds the lock of the blob.
 *
 * @returns Whether the blob is new.
 * @throws {UserError} If the transfer fails. Partial content is kept, unless it is wrong.
 */
export async function transferBlob(
	session: HubSession,
	cache: RepositoryCache,
	commit: string,
	file: RemoteFile,
	meter: ProgressMeter,
): Promise<boolean> {
	const { repository, signal, limits, warn } = session;
	const blob = cache.blob(file.etag);
	const found = sizeOf(blob);
	if (found === file.bytes && await verifyFile(blob, file.etag, { signal })) return false;
	if (found !== undefined && found !== file.bytes) {
		warn(`"${blob}" has ${found} bytes in place of ${file.bytes}; downloading it again`);
	}
	makeFolder(dirname(blob), cache.remedy);

	const attempts = new Attempts(limits);
	for (let wrongs = 0;;) {
		const place = cache.incomplete(file.etag);
		using partial = await PartialFile.open(place, file, signal, cache.remedy);
		try {
			await complete(session, commit, partial, meter, attempts);
			const digest = partial.digest();
			if (digest !== file.etag) {
				throw new WrongContent(`what has come has the hash ${digest}, the hub lists ${file.etag}`);
			}
			await partial.finish(blob);
			return true;
		} catch (error) {
			if (!(error instanceof WrongContent)) throw error;
			partial.discard();
			meter.advance(-meter.doneOf(file.etag), file.etag);
			if (++wrongs === 2) {
				throw new UserError(
					`Cannot download "${file.path}" of "${repository.id}": ${error.message}, twice in a ` +
						`row; try again later or over another network, or report it at ` +
						`${pageOf(session.settings.endpoint, repository)}/discussions`,
				);
			}
			warn(`Downloading "${file.path}" of "${repository.id}" once more: ${error.message}`);
		}
	}
}

/** Transfers the missing part of a file, with retries. */
async function complete(
	session: HubSession,
	commit: string,
	partial: PartialFile,
	meter: ProgressMeter,
	attempts: Attempts,
): Promise<void> {
	const { repository, signal, limits, warn } = session;
	const { file } = partial;
	meter.advance(partial.size - meter.doneOf(file.etag), file.etag);
	// A server that sends the same beginning repeatedly makes no progress.
	let furthest = partial.size;
	while (!partial.complete) {
		try {
			await receive(session, commit, partial, (bytes) => {
				meter.receive(bytes, file.etag);
				if (partial.size > furthest) {
					furthest = partial.size;
					attempts.succeed();
				}
			});
		} catch (trouble) {
			if (!(trouble instanceof PassingTrouble)) throw trouble;
			meter.advance(partial.size - meter.doneOf(file.etag), file.etag);
			const what = `"${file.path}" of "${repository.id}"`;
			const pauseMs = attempts.pauseAfter(trouble);
			if (pauseMs === undefined) {
				const why = trouble.retryAfterMs > limits.longestRetryAfterMs
					? `the server asks to wait ${secondsText(trouble.retryAfterMs)}`
					: `${limits.attempts} attempts in a row have failed`;
				throw new UserError(
					`Cannot download ${what}: ${trouble.message}; ${why}; check the network and run the ` +
						`same command again; it resumes at ${bytesText(partial.size)} of ${
							bytesText(file.bytes)
						}`,
				);
			}
			warn(
				`The download of ${what} stopped at ${bytesText(partial.size)} of ` +
					`${bytesText(file.bytes)}: ${trouble.message}; trying again in ${secondsText(pauseMs)}`,
			);
			await sleep(pauseMs, signal);
		}
	}
}

/** One attempt to request and append the missing part. */
async function receive(
	session: HubSession,
	commit: string,
	partial: PartialFile,
	onBytes: (count: number) => void,
): Promise<void> {
	const { limits, signal } = session;
	const { path, bytes } = partial.file;
	const address = addressOf(session, commit, path);
	const headers: HeadersInit = partial.size > 0 ? { Range: `bytes=${partial.size}-` } : {};
	using guard = new StallGuard(limits.stallMs, signal);
	const response = await session.request(address, guard, { headers }, path);
	try {
		checkAnswer(response, partial);
	} catch (error) {
		await response.body?.cancel();
		throw error;
	}

	// An empty body is done without having a reader.
	const reader = response.body?.getReader();
	while (reader) {
		const { done, value } = await session.translating(guard, () => reader.read());
		if (done) break;
		guard.arrived();
		try {
			if (partial.size + value.length > bytes) {
				throw new WrongContent(`the server sends more than the ${bytes} bytes that the hub lists`);
			}
			partial.append(value);
		} catch (error) {
			await reader.cancel();
			throw error;
		}
		onBytes(value.length);
	}
	if (!partial.complete) throw new PassingTrouble("the server ended the connection early");
}

/** The URL of a file's content. */
function addressOf({ settings, repository }: HubSession, commit: string, path: string): string {
	const parts = path.split("/").map(encodeURIComponent);
	return [pageOf(settings.endpoint, repository), "resolve", commit, ...parts].join("/");
}

/**
 * The first bytes of a file, which are not verified; temporary errors are retried.
 *
 * @param count At most the size of the file.
 * @throws {UserError} If they do not arrive.
 */
export async function readStart(
	session: HubSession,
	commit: string,
	{ path }: RemoteFile,
	count: number,
): Promise<Uint8Array> {
	const { repository, limits, signal } = session;
	if (count === 0) return new Uint8Array(0);
	const attempts = new Attempts(limits);
	for (;;) {
		try {
			return await receiveStart(session, addressOf(session, commit, path), path, count);
		} catch (trouble) {
			if (!(trouble instanceof PassingTrouble)) throw trouble;
			const pauseMs = attempts.pauseAfter(trouble);
			if (pauseMs === undefined) {
				throw new UserError(
					`Cannot read the header of "${path}" of "${repository.id}": ${trouble.message}; check ` +
						`the network and run the same command again`,
				);
			}
			await sleep(pauseMs, signal);
		}
	}
}

async function receiveStart(
	session: HubSession,
	address: string,
	path: string,
	count: number,
): Promise<Uint8Array> {
	using guard = new StallGuard(session.limits.stallMs, session.signal);
	const headers = { Range: `bytes=0-${count - 1}` };
	const response = await session.request(address, guard, { headers }, path);
	const start = new Uint8Array(count);
	let length = 0;
	const reader = response.body?.getReader();
	try {
		if (![200, 206].includes(response.status)) {
			throw new PassingTrouble(`the server answers ${response.status}`);
		}
		while (reader && length < count) {
			const { done, value } = await session.translating(guard, () => reader.read());
			if (done) break;
			guard.arrived();
			const part = value.subarray(0, count - length);
			start.set(part, length);
			length += part.length;
		}
	} finally {
		await reader?.cancel().catch(() => {}); // a server that ignores ranges sends more
	}
	if (length < count) throw new PassingTrouble("the server ended the connection early");
	return start;
}

/** Checks that the body is the missing part; restarts the file if it is the whole. */
function checkAnswer({ status, headers }: Response, partial: PartialFile): void {
	const { bytes } = partial.file;
	const coding = headers.get("Content-Encoding") ?? "identity";
	if (coding !== "identity") {
		throw new PassingTrouble(`the server sends it as "${coding}", which was not asked for`);
	}
	if (status === 416) {
		partial.restart();
		throw new PassingTrouble("the server has nothing at this place of the file (416)");
	}
	if (status === 206) {
		const [, start, total] =
			/^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get("Content-Range") ?? "") ??
				[];
		if (Number(start) === partial.size && (total === "*" || Number(total) === bytes)) return;
		const found = headers.get("Content-Range");
		const wanted = `bytes ${partial.size}-${bytes - 1}/${bytes}`;
		partial.restart(); // the next attempt requests no range
		throw new PassingTrouble(`the server sends "${found}" in place of "${wanted}"`);
	}
	if (status !== 200) throw new PassingTrouble(`the server answers ${status}`);
	const length = headers.get("Content-Length");
	if (length !== null && Number(length) !== bytes) {
		throw new PassingTrouble(
			`the server sends ${length} bytes in place of the ${bytes} that the hub lists`,
		);
	}
	if (partial.size > 0) partial.restart(); // the server ignores ranges
}
