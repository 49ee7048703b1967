import { constants } from "node:buffer";
import { gunzipSync } from "node:zlib";
import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";

/** Maximum length of a JavaScript string in UTF-16 units. */
export const MAX_LENGTH = constants.MAX_STRING_LENGTH;

/**
 * The text of a UTF-8 file without its byte order mark; of a gzip file if its name ends in `.gz`.
 *
 * A file whose name ends in `.raw` is a WikiText file. Its text equals the rows of the data set joined with
 * two newlines, as used for published perplexities: each line keeps its newline, and a blank line is an
 * empty row.
 *
 * @throws {UserError} If the file cannot be read, is not UTF-8, or is too long for a string.
 */
export function readText(path: string): string {
	const refuse = (problem: string): never => {
		throw new UserError(`Cannot read the text "${path}": ${problem}`);
	};
	let bytes = new Uint8Array();
	try {
		const { size } = Deno.statSync(path);
		if (size > MAX_LENGTH) {
			refuse(`it has ${bytesText(size)}, more than ${bytesText(MAX_LENGTH)}; use a part of it`);
		}
		bytes = Deno.readFileSync(path);
	} catch (error) {
		if (error instanceof UserError) throw error;
		if (error instanceof Deno.errors.NotFound) refuse("there is no such file");
		if (error instanceof Deno.errors.IsADirectory) refuse("it is a folder");
		refuse(error instanceof Error ? error.message : String(error));
	}
	if (/\.gz$/i.test(path)) {
		try {
			bytes = new Uint8Array(gunzipSync(bytes, { maxOutputLength: MAX_LENGTH }));
		} catch (error) {
			refuse(
				(error as { code?: string }).code === "ERR_BUFFER_TOO_LARGE"
					? `it holds more than ${bytesText(MAX_LENGTH)}; use a part of it`
					: "it is damaged, or not gzip, though its name ends in .gz",
			);
		}
	}
	let text = "";
	try {
		text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
	} catch {
		refuse("it is not UTF-8; convert it, for example with iconv");
	}
	if (!path.endsWith(".raw")) return text;
	try {
		return joinRows(text);
	} catch { // "Invalid string length"
		return refuse("its rows joined are too long for one text; use a part of it");
	}
}

function joinRows(text: string): string {
	const rows = text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
	return rows.map((row) => row.trim() === "" ? "" : row).join("\n\n");
}

/**
 * Several texts joined to one.
 *
 * @param options.separator Separator between texts.
 * @param options.name Name of the result in messages.
 * @param options.limit Maximum length in UTF-16 units.
 * @throws {UserError} If the result is longer than that.
 */
export async function joinTexts(
	texts: AsyncIterable<string>,
	{ separator, name, limit = MAX_LENGTH }: { separator: string; name: string; limit?: number },
): Promise<string> {
	const parts: string[] = [];
	let length = -separator.length;
	for await (const text of texts) {
		length += separator.length + text.length;
		if (length > limit) {
			throw new UserError(
				`The text "${name}" is longer than ${limit} characters, too long to be tokenized in one ` +
					`piece; use a part of it`,
			);
		}
		parts.push(text);
	}
	return parts.join(separator);
}
