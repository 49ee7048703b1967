// Classes of characters as the Rust library has them, for single characters: strings of one code point.

/** `char::is_whitespace`: U+0085 is one, U+FEFF is none. */
export function isSpace(character: string): boolean {
	return /^\p{White_Space}$/u.test(character);
}

/** ASCII punctuation or a character of a category P. */
export function isPunctuation(character: string): boolean {
	return /^[!-/:-@[-`{-~\p{P}]$/u.test(character);
}

/** `char::is_numeric`: a character of a category N. */
export function isNumeric(character: string): boolean {
	return /^\p{N}$/u.test(character);
}

/** A character of a word. */
export const WORD = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";

const LEADING_SPACE = /^\p{White_Space}+/u;

export function trimStart(text: string): string {
	return text.replace(LEADING_SPACE, "");
}

export function trimEnd(text: string): string {
	// A pattern anchored at the end takes quadratic time in long runs of white space.
	let end = text.length;
	while (end > 0 && isSpace(text[end - 1])) end--; // all white space is in the first plane
	return text.slice(0, end);
}

/** GPT-2's characters for bytes, and the bytes of these characters. */
export const BYTE_CHARACTERS: readonly string[] = byteCharacters();
export const BYTES_OF: ReadonlyMap<string, number> = new Map(
	BYTE_CHARACTERS.map((character, byte) => [character, byte]),
);

function byteCharacters(): string[] {
	let next = 256;
	return Array.from({ length: 256 }, (_, byte) => {
		const isShown = byte >= 33 && byte <= 126 || byte >= 161 && byte !== 173;
		return String.fromCharCode(isShown ? byte : next++);
	});
}

const ENCODER = new TextEncoder();

/** The UTF-8 bytes of a text, each as GPT-2's character. */
export function byteText(text: string): string {
	let result = "";
	for (const byte of ENCODER.encode(text)) result += BYTE_CHARACTERS[byte];
	return result;
}

/** The token of a byte in vocabularies with byte fallback. */
export function byteToken(byte: number): string {
	return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
}

/** The ids of the byte tokens of a text; undefined if one of them is missing. */
export function byteIds(
	text: string,
	idOf: (token: string) => number | undefined,
): number[] | undefined {
	const ids: number[] = [];
	for (const byte of ENCODER.encode(text)) {
		const id = idOf(byteToken(byte));
		if (id === undefined) return undefined;
		ids.push(id);
	}
	return ids;
}
