import { UserError } from "../../base/errors.ts";
import type { Folder } from "../../storage/folder.ts";
import { readSentencePiece } from "../../models/tokenizers/sentencepiece.ts";
import type { Step, TokenizerJson } from "../../models/tokenizers/tokenizer_sources.ts";

/** The score of tokens that no merge makes, below all others. */
const UNMADE = -1e6;

/**
 * The scores by which llama.cpp merges pieces like SentencePiece: of all neighbours whose text is a token,
 * those with the greatest score first. They are those of `tokenizer.model` or, without it, the ranks of the
 * merges, if these are all merges of the vocabulary, token by token.
 *
 * @param ids The vocabulary of the model in tokenizer.json.
 * @returns By token id.
 * @throws {UserError} If merges by scores would not be the same.
 */
export function pieceScores(
	folder: Folder,
	{ model }: TokenizerJson,
	ids: ReadonlyMap<string, number>,
): Map<number, number> {
	const scores = new Map<number, number>();
	if (folder.has("tokenizer.model")) {
		const { pieces } = readSentencePiece(folder.file("tokenizer.model"));
		if (pieces.every(({ text }, id) => (ids.get(text) ?? id) === id)) {
			pieces.forEach(({ score }, id) => scores.set(id, score));
			return scores;
		}
	}
	const counts = new Map<string, number>();
	let last: string | undefined;
	for (const [rank, merge] of (model?.merges ?? []).entries()) {
		const token = (typeof merge === "string" ? merge.split(" ", 2) : merge).join("");
		if (token !== last && counts.has(token)) refuse(`"${token}" is merged at two ranks`);
		counts.set(token, (counts.get(token) ?? 0) + 1);
		if (token !== last) scores.set(ids.get(token)!, -rank);
		last = token;
	}
	for (const [token, count] of counts) {
		if (count !== splitsOf(token, ids)) refuse(`not all merges that make "${token}" are listed`);
	}
	for (const id of ids.values()) if (!scores.has(id)) scores.set(id, UNMADE);
	return scores;
}

function refuse(problem: string): never {
	throw new UserError(
		`Cannot export the tokenizer to gguf: llama.cpp merges by a score of each token, but in ` +
			`tokenizer.json ${problem}; add the model's tokenizer.model`,
	);
}

/** The ways to make a token of two others. */
function splitsOf(token: string, ids: ReadonlyMap<string, number>): number {
	let count = 0;
	let left = "";
	for (const character of token) {
		if (left !== "" && ids.has(left) && ids.has(token.slice(left.length))) count++;
		left += character;
	}
	return count;
}

/**
 * Whether a space is put before a text, by the steps that turn spaces into "▁".
 *
 * @throws {UserError} If there are other steps, or they do something else.
 */
export function hasSpacePrefix({ normalizer, pre_tokenizer: own }: TokenizerJson): boolean {
	const steps = [normalizer, own].flatMap((step): Step[] => {
		if (!step) return [];
		return step.type === "Sequence" ? (step.normalizers ?? step.pretokenizers) as Step[] : [step];
	});
	let hasPrefix = false;
	for (const step of steps) {
		const { type, prepend, pattern, content, replacement, behavior } = step;
		const { String: replaced } = (pattern ?? {}) as { String?: unknown };
		if (type === "Prepend" && prepend === "▁") hasPrefix = true;
		else if (type === "Metaspace" && replacement === "▁") {
			const { prepend_scheme: scheme = "always", add_prefix_space: adds = true } = step;
			hasPrefix = adds === true && scheme !== "never";
		} else if (
			!(type === "Replace" && replaced === " " && content === "▁") &&
			!(type === "Split" && replaced === " " && behavior === "MergedWithPrevious") // none is left
		) {
			throw new UserError(
				`Cannot export the tokenizer to gguf: llama.cpp's SentencePiece tokenizer has no step ` +
					JSON.stringify(step),
			);
		}
	}
	return hasPrefix;
}
