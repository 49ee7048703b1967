import { bitWords } from "~/base/bits.ts";
import { seededRandom } from "../reference/random.ts";

/** Random parts of a linear layer with planes of bits, salient columns and f16 numbers. */
export function randomParts(rows: number, cols: number, planes: number, seed: number) {
	const random = seededRandom(seed);
	const words = bitWords(cols);
	const keep = (word: number) => 32 * word + 32 <= cols ? ~0 : 2 ** (cols - 32 * word) - 1;
	const wordOf = (word: number) => (random() * 2 ** 32 & keep(word)) >>> 0;
	const mask = Uint32Array.from(
		{ length: words },
		(_, word) => (wordOf(word) & wordOf(word) & wordOf(word)) >>> 0,
	);
	const codes = new Uint32Array(rows * words * planes);
	codes.forEach((_, i) => codes[i] = wordOf(Math.floor(i / planes) % words));
	const halves = (count: number) =>
		Float32Array.from({ length: count }, () => Math.f16round(random() - 0.4));
	return { words, mask, codes, halves };
}
