import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { RunningHash } from "./file_hash.ts";
import { type ListedFile, versionOf } from "./file_list.ts";
import type { AccessHandle } from "./origin_files.ts";
import { PassingTrouble, request, sleep } from "./request.ts";

/** Attempts without any progress before a download fails. */
const ATTEMPTS = 5;
/** Bytes that are read back at a time, for the hash of a file that is continued. */
const CHUNK = 4 << 20;

export interface DownloadLimits {
	/** Milliseconds without data after which a connection counts as lost. */
	stallMs: number;
	/** Milliseconds before the first new attempt; each further one waits twice as long. */
	pauseMs: number;
}

export const LIMITS: DownloadLimits = { stallMs: 30_000, pauseMs: 1000 };

/**
 * Downloads a file, from where `target` ends if the server gives parts of files, and checks its size and
 * hash as far as they are known. Lost connections are resumed.
 *
 * @param target What it has belongs to the version of the file that is listed, or is to be empty.
 * @param onBytes Called with the number of bytes in `target`.
 * @throws {UserError} If the server refuses or stays silent, the content is not the listed one (`target` is
 *   then empty).
 * @throws {DOMException} If the storage is full; `target` then has what was received.
 * @throws The reason of the signal.
 */
export async function downloadFile(
	file: ListedFile,
	target: AccessHandle,
	onBytes: (bytes: number) => void,
	signal?: AbortSignal,
	limits = LIMITS,
): Promise<void> {
	let isResumable = true;
	for (let failures = 0;;) {
		const before = isResumable ? target.getSize() : 0;
		if (before === 0) target.truncate(0);
		onBytes(before);
		try {
			isResumable = await receive(file, target, before, onBytes, signal, limits);
			if (isResumable) break;
		} catch (error) {
			signal?.throwIfAborted();
			if (!(error instanceof PassingTrouble)) throw error;
			failures = target.getSize() > before ? 1 : failures + 1;
			if (failures === ATTEMPTS) throw error;
			await sleep(limits.pauseMs * 2 ** (failures - 1), signal);
		}
	}
	check(file, target);
}

/**
 * Appends what a server sends to `target`.
 *
 * @returns False if the server has no such part of the file, so that it must be asked for the whole.
 */
async function receive(
	file: ListedFile,
	target: AccessHandle,
	start: number,
	onBytes: (bytes: number) => void,
	user: AbortSignal | undefined,
	{ stallMs }: DownloadLimits,
): Promise<boolean> {
	if (start > 0 && start === file.bytes) return true;
	const stall = new AbortController();
	let timer: ReturnType<typeof setTimeout> | undefined;
	const arrived = () => {
		clearTimeout(timer);
		timer = setTimeout(() => {
			const problem = `nothing has arrived for ${stallMs / 1000} s`;
			stall.abort(new PassingTrouble(`Cannot fetch "${file.url}": ${problem}`));
		}, stallMs);
	};
	arrived();
	const signal = user ? AbortSignal.any([user, stall.signal]) : stall.signal;
	try {
		const headers: HeadersInit = start > 0 ? { range: `bytes=${start}-` } : {};
		// The browser's own cache would hold the file a second time.
		const response = await request(file.url, { headers, signal, cache: "no-store" });
		if (!response) {
			throw new UserError(
				`Cannot fetch "${file.url}": the server does not have it; the model is not complete there`,
			);
		}
		const isPart = response.status === 206;
		if (response.status === 416 || (isPart && !isPartOf(file, response.headers, start))) {
			await response.body?.cancel();
			return false;
		}
		if (!isPart) {
			refuseOther(file, response);
			start = 0; // the server gives no parts
			target.truncate(0);
		}
		await append(response, target, start, (bytes) => {
			arrived();
			onBytes(bytes);
		});
		return true;
	} catch (error) {
		user?.throwIfAborted();
		if (stall.signal.aborted) throw stall.signal.reason;
		// A body that breaks off fails with a TypeError, the storage with others.
		if (!(error instanceof TypeError)) throw error;
		throw new PassingTrouble(`Cannot fetch "${file.url}": the connection was lost`);
	} finally {
		clearTimeout(timer);
		stall.abort(); // the rest of an answer that is not wanted
	}
}

/** Whether a part continues the listed version of a file from `start` on, as far as the headers say. */
function isPartOf({ bytes, hash, version }: ListedFile, headers: Headers, start: number): boolean {
	const [, first, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get("content-range") ?? "") ??
		[];
	if (first !== undefined && Number(first) !== start) return false;
	if (bytes !== undefined && Number(total) >= 0 && Number(total) !== bytes) return false;
	return hash !== undefined || (versionOf(headers).version ?? version) === version;
}

/** @throws {UserError} If the server says that the file is not the listed one. */
function refuseOther({ url, hash, version }: ListedFile, { headers }: Response): void {
	const now = versionOf(headers).version;
	if (hash || version === undefined || now === undefined || now === version) return;
	throw new UserError(`"${url}" has changed while the model was downloaded; load it again`);
}

async function append(
	response: Response,
	target: AccessHandle,
	start: number,
	onBytes: (bytes: number) => void,
): Promise<void> {
	let at = start;
	const reader = response.body!.getReader(); // not every browser iterates over streams
	for (;;) {
		const { done, value } = await reader.read();
		if (done) return;
		let rest = value;
		while (rest.length > 0) {
			const written = target.write(rest, { at });
			at += written;
			rest = rest.subarray(written);
		}
		onBytes(at);
	}
}

/** @throws {UserError} If the file, now complete, is not the listed one; `target` is then empty. */
function check({ url, bytes, hash }: ListedFile, target: AccessHandle): void {
	const size = target.getSize();
	const refuse = (problem: string): never => {
		target.truncate(0);
		throw new UserError(`"${url}" ${problem}; load the model again`);
	};
	if (bytes !== undefined && size !== bytes) {
		refuse(`has ${bytesText(size)}, but ${bytesText(bytes)} were announced`);
	}
	if (!hash) return;
	const running = new RunningHash(hash, size);
	const chunk = new Uint8Array(Math.min(CHUNK, size));
	for (let at = 0; at < size;) {
		const count = target.read(chunk, { at });
		running.add(chunk.subarray(0, count));
		at += count;
	}
	if (!running.isRight()) refuse("does not have the hash that the server lists for it");
}
