import { closeSync, createReadStream, openSync, readSync } from "node:fs";
import { pipeline } from "node:stream";
import { createGunzip } from "node:zlib";
import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { reasonOf } from "../storage/folder.ts";
import { foreignContent } from "../storage/safetensors.ts";

/** A line of a file, without its newline. */
export interface Line {
	bytes: Uint8Array;
	/** Line number from 1, counting blank lines. */
	number: number;
}

const CHUNK = 1 << 18;

/** The most bytes of a line: more than any text of a data set has. */
export const MOST_LINE_BYTES = 64 << 20;
const LINE_FEED = 0x0a;

/**
 * The non-blank lines of a file of any size. If its name ends in `.gz`, it is gzip with one or several
 * members.
 *
 * @throws {UserError} If the file cannot be read, is truncated or damaged gzip, or has a line of more than
 *   {@link MOST_LINE_BYTES}.
 */
export async function* readLines(path: string): AsyncGenerator<Line> {
	let number = 0;
	let start: Uint8Array[] = []; // of a line whose end has not been read yet
	let started = 0; // its bytes
	const add = (length: number) => {
		if (started + length > MOST_LINE_BYTES) throw new LongLine();
		started += length;
	};
	try {
		for await (const chunk of readBytes(path)) {
			let from = 0;
			for (let end; (end = chunk.indexOf(LINE_FEED, from)) >= 0; from = end + 1) {
				add(end - from);
				const bytes = joinBytes(start, chunk.subarray(from, end));
				start = [];
				started = 0;
				number++;
				if (!isBlank(bytes)) yield { bytes, number };
			}
			add(chunk.length - from);
			if (from < chunk.length) start.push(chunk.subarray(from));
		}
	} catch (error) {
		throw new UserError(`Cannot read "${path}": ${readProblem(path, error, number)}`);
	}
	const bytes = joinBytes(start, new Uint8Array());
	if (!isBlank(bytes)) yield { bytes, number: number + 1 };
}

/** The error for a line of more than {@link MOST_LINE_BYTES}. */
class LongLine extends Error {}

function readBytes(path: string): AsyncIterable<Uint8Array> {
	const file = createReadStream(path, { highWaterMark: CHUNK });
	if (!/\.gz$/i.test(path)) return file;
	return pipeline(file, createGunzip({ chunkSize: CHUNK }), () => {}); // the iteration throws
}

function joinBytes(start: Uint8Array[], end: Uint8Array): Uint8Array {
	if (start.length === 0) return end;
	const joined = new Uint8Array(start.reduce((sum, { length }) => sum + length, end.length));
	let offset = 0;
	for (const part of [...start, end]) {
		joined.set(part, offset);
		offset += part.length;
	}
	return joined;
}

function isBlank(bytes: Uint8Array): boolean {
	return bytes.every((byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d);
}

function readProblem(path: string, error: unknown, lines: number): string {
	if (error instanceof LongLine) {
		return `line ${lines + 1} has more than ${
			bytesText(MOST_LINE_BYTES)
		}; no text of a data set is that long`;
	}
	const { code, message } = error as { code?: string; message: string };
	switch (code) {
		case "Z_BUF_ERROR":
			return "its compressed data end too early; download it again";
		case "Z_DATA_ERROR":
			if (lines > 0 || message !== "incorrect header check") {
				return "its compressed data are damaged; download it again";
			}
			return foreignFile(path) ?? "it is not gzip, though its name ends in .gz";
		default:
			return reasonOf(error);
	}
}

/** A description of a file that is not a data file; undefined if it may be one. */
export function foreignFile(path: string): string | undefined {
	const bytes = new Uint8Array(512);
	const file = openSync(path, "r");
	try {
		return foreignContent(new TextDecoder().decode(bytes.subarray(0, readSync(file, bytes))));
	} finally {
		closeSync(file);
	}
}
