import { distance } from "fastest-levenshtein";

/**
 * The most likely candidate for a mistyped word, by edit distance.
 *
 * Case is ignored, and words of the same letters count as one edit apart. At most two letters in five may differ, and never more than three, so that a short
 * word does not match an unrelated one.
 *
 * @returns The nearest candidate, the first one of several; undefined if none is near.
 */
export function didYouMean(word: string, candidates: readonly string[]): string | undefined {
	const limit = Math.min(3, Math.round(0.4 * word.length));
	let best: { candidate: string; edits: number } | undefined;
	const letters = (word: string) => [...word.toLowerCase()].sort().join("");
	for (const candidate of candidates) {
		const found = distance(word.toLowerCase(), candidate.toLowerCase());
		const isSwap = word.length === candidate.length && letters(word) === letters(candidate);
		const edits = isSwap ? Math.min(found, 1) : found;
		if (edits <= limit && edits < (best?.edits ?? Infinity)) best = { candidate, edits };
	}
	return best?.candidate;
}
