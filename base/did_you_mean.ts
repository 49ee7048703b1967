import { distance } from "fastest-levenshtein";

/**
 * The candidate that a mistyped word most likely stands for.
 *
 * Upper and lower case count as equal. About two letters in five may differ, never more than three,
 * so that a short word is not taken for an unrelated one.
 *
 * @returns The nearest candidate, the first of several equally near; undefined if none is near.
 */
export function didYouMean(word: string, candidates: readonly string[]): string | undefined {
  const limit = Math.min(3, Math.round(0.4 * word.length));
  let best: { candidate: string; edits: number } | undefined;
  for (const candidate of candidates) {
    const edits = distance(word.toLowerCase(), candidate.toLowerCase());
    if (edits <= limit && edits < (best?.edits ?? Infinity)) best = { candidate, edits };
  }
  return best?.candidate;
}
