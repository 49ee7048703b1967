import { basename } from "node:path";
import { UserError } from "../base/errors.ts";
import { PythonRandom } from "../base/python_random.ts";
import { textOfLine } from "./json_rows.ts";
import { readLines } from "./lines.ts";

/**
 * A tokenizer.
 *
 * @internal
 */
export interface TokenSource {
	encode(text: string): number[];
}

/** Maximum draws of a document per window; enough if one document in 1000 is long. */
const MAX_DRAWS = 20_000;

/** Words of the generator per reading of the file: usually enough for all draws. */
const LOOKAHEAD = 16_384;

/**
 * One random window from each of several random documents with more tokens than a window, equal to the
 * C4 calibration windows of GPTQ and the released BiLLM program for equal documents and token ids.
 *
 * Only documents that may be drawn are kept in memory. They are known in advance: each draw takes one word
 * of the generator, whatever is drawn, so interpreting all next words as document numbers gives a superset
 * of the drawn documents.
 *
 * @param path JSON Lines, plain or gzip.
 * @param options.length Tokens per window.
 * @param options.lookahead Words of the generator per reading of the file.
 * @param options.pause Called periodically; may throw to abort.
 * @returns `samples` windows. A larger number only adds windows.
 * @throws {UserError} If the file cannot be read, or no document drawn is long enough.
 */
export async function cropDocuments(
	path: string,
	tokenizer: TokenSource,
	{ samples, length, seed, column = "text", lookahead = LOOKAHEAD, pause }: {
		samples: number;
		length: number;
		seed: number;
		column?: string;
		lookahead?: number;
		pause?: () => Promise<void>;
	},
): Promise<Int32Array<ArrayBuffer>[]> {
	let documents = 0;
	for await (const _ of readLines(path)) if (++documents % 4096 === 0) await pause?.();
	if (documents === 0) throw new UserError(`"${basename(path)}" has no documents`);

	const random = new PythonRandom(seed);
	const drawDocument = (generator: PythonRandom) => generator.randint(0, documents - 1);

	let texts = new Map<number, string>();
	const textOf = async (wanted: number): Promise<string> => {
		if (!texts.has(wanted)) {
			const ahead = random.clone();
			const numbers = new Set([wanted]);
			for (let i = 0; i < lookahead; i++) numbers.add(drawDocument(ahead));
			texts = await readDocuments(path, numbers, column, pause);
		}
		return texts.get(wanted)!;
	};

	const tooShort = new Map<number, number>(); // tokens of documents, by their numbers
	const windows: Int32Array<ArrayBuffer>[] = [];
	while (windows.length < samples) {
		let ids: number[] | undefined;
		for (let draws = 0; !ids; draws++) {
			if (draws === MAX_DRAWS) throw noneLongEnough(path, length, tooShort);
			await pause?.();
			const drawn = drawDocument(random);
			if (tooShort.has(drawn)) continue;
			const encoded = tokenizer.encode(await textOf(drawn));
			if (encoded.length > length) ids = encoded;
			else tooShort.set(drawn, encoded.length);
		}
		const start = random.randint(0, ids.length - length - 1);
		windows.push(Int32Array.from(ids.slice(start, start + length)));
	}
	return windows;
}

/** Texts of documents by index, from 0. */
async function readDocuments(
	path: string,
	numbers: ReadonlySet<number>,
	column: string,
	pause?: () => Promise<void>,
): Promise<Map<number, string>> {
	const texts = new Map<number, string>();
	let number = 0;
	for await (const line of readLines(path)) {
		if (numbers.has(number)) texts.set(number, textOfLine(path, line, column));
		if (texts.size === numbers.size) break;
		if (++number % 4096 === 0) await pause?.();
	}
	return texts;
}

function noneLongEnough(path: string, length: number, tooShort: Map<number, number>): UserError {
	let longest = 0;
	for (const tokens of tooShort.values()) longest = Math.max(longest, tokens);
	return new UserError(
		`None of ${tooShort.size} documents drawn from "${basename(path)}" has more than ${length} ` +
			`tokens, the longest has ${longest}; use a smaller sequence-length`,
	);
}
