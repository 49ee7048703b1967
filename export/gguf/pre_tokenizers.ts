import { UserError } from "../../base/errors.ts";
import type { Step, TokenizerJson } from "../../models/tokenizers/tokenizer_sources.ts";

/** Contractions, a word, a digit or some, signs, line ends, spaces: the patterns that many models share. */
const words = (contractions: string, word: string, digits: string, signs: string) =>
	`${contractions}${word}|${digits}| ?[^\\s\\p{L}\\p{N}]+${signs}|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|";
const WORD = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+";
const LINE_ENDS = "[\\r\\n]*";

/** A word that begins a new one at a capital letter behind a small one. */
const cased = (behind: string) => {
	const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
	const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
	const start = "[^\\r\\n\\p{L}\\p{N}]?";
	return `${start}${upper}*${lower}+${behind}|${start}${upper}+${lower}*${behind}`;
};

const BYTES = "bytes";
const GPT2 = "GPT-2's words, bytes";

/**
 * llama.cpp's names of what pre-tokenizers do, written as {@link described} writes it. Names that llama.cpp
 * treats alike are here once.
 */
const NAMES: readonly { does: string; name: string; ignoresMerges?: true }[] = [
	{ does: GPT2, name: "gpt-2" },
	{ does: `single digits, ${GPT2}`, name: "smollm" },
	{
		does: `${words(CONTRACTIONS, WORD, "\\p{N}{1,3}", LINE_ENDS)}, ${BYTES}`,
		name: "llama-bpe",
		ignoresMerges: true,
	},
	{ does: `${words(CONTRACTIONS, WORD, "\\p{N}{1,3}", LINE_ENDS)}, ${BYTES}`, name: "smaug-bpe" },
	{ does: `${words(CONTRACTIONS, WORD, "\\p{N}", LINE_ENDS)}, ${BYTES}`, name: "qwen2" },
	{
		does: `${words("", cased(""), "\\p{N}", "[\\r\\n/]*")}, ${BYTES}`,
		name: "tekken",
		ignoresMerges: true,
	},
	{
		does: `${
			words("", cased("(?i:'s|'t|'re|'ve|'m|'ll|'d)?"), "\\p{N}{1,3}", "[\\r\\n/]*")
		}, ${BYTES}`,
		name: "gpt-4o",
	},
];

/**
 * llama.cpp's name of a byte-level pre-tokenizer.
 *
 * @throws {UserError} If llama.cpp has none that does the same, with what it does.
 */
export function preTokenizerName({ pre_tokenizer: own, model }: TokenizerJson): string {
	const does = described(own);
	const ignores = model?.ignore_merges === true;
	const known = NAMES.filter((entry) => entry.does === does);
	const entry = known.find(({ ignoresMerges = false }) => ignoresMerges === ignores);
	if (entry) return entry.name;
	throw new UserError(
		known.length > 0
			? `Cannot export the tokenizer to gguf: llama.cpp has its pre-tokenizer ` +
				`("${known[0].name}") only with ignore_merges: ${!ignores}`
			: `Cannot export the tokenizer to gguf: llama.cpp has no pre-tokenizer that this program ` +
				`knows to do the same as ${does}`,
	);
}

/** Whether a pre-tokenizer works on bytes, as those of GPT-2 and its successors do. */
export function isByteLevel({ pre_tokenizer: own }: TokenizerJson): boolean {
	return stepsOf(own).some(({ type }) => type === "ByteLevel");
}

/** The steps of a pre-tokenizer in words; unknown ones by their names. */
function described(own: Step | null | undefined): string {
	return stepsOf(own).map((step) => {
		const { type, behavior, invert = false, pattern, use_regex: words = true } = step;
		const { add_prefix_space: prefix = true, individual_digits: single = false } = step;
		if (type === "ByteLevel" && !prefix) return words ? GPT2 : BYTES;
		if (type === "Digits" && single) return "single digits";
		const { Regex: regex } = (pattern ?? {}) as { Regex?: unknown };
		if (type === "Split" && behavior === "Isolated" && !invert && typeof regex === "string") {
			return regex;
		}
		const { type: _, ...options } = step;
		return `${type} ${JSON.stringify(options)}`;
	}).join(", ");
}

function stepsOf(own: Step | null | undefined): Step[] {
	if (!own) return [];
	return own.type === "Sequence" ? (own.pretokenizers as Step[]).flatMap(stepsOf) : [own];
}
