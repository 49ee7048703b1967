/** Codes of any number of bits up to 31 in u32 words, least significant bit first. */

/** The code of `width` bits at bit `at`, counted from word `first`. */
export function codeAt(words: Uint32Array, first: number, at: number, width: number): number {
	const word = first + (at >>> 5);
	const shift = at & 31;
	let code = words[word] >>> shift;
	if (shift + width > 32) code |= words[word + 1] << (32 - shift);
	return code & (2 ** width - 1);
}

/** Writes the code that {@link codeAt} reads; the target bits must be 0. */
export function putCode(
	words: Uint32Array,
	code: number,
	first: number,
	at: number,
	width: number,
): void {
	const word = first + (at >>> 5);
	const shift = at & 31;
	words[word] |= code << shift;
	if (shift + width > 32) words[word + 1] |= code >>> (32 - shift);
}
