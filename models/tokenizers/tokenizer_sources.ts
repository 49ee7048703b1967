import { UserError } from "../../base/errors.ts";
import { type Folder, readText } from "../../storage/folder.ts";
import { readJson } from "../../storage/json.ts";
import { CONTROL, mergesOf, type Piece, readSentencePiece, USER_DEFINED } from "./sentencepiece.ts";
import {
	type AddedToken,
	isTokenId,
	type TokenizerClass,
	type TokenizerSettings,
} from "./tokenizer_settings.ts";

/** The parts of a `tokenizer.json` that are read or generated. */
export interface TokenizerJson {
	added_tokens?: AddedToken[];
	normalizer?: Step | null;
	pre_tokenizer?: Step | null;
	/** Absent if there is no such file. */
	post_processor?: Step | null;
	decoder?: Step | null;
	model?: BpeJson;
}

/** A step of encoding or decoding. */
export interface Step {
	type: string;
	[option: string]: unknown;
}

/** The BPE model in a `tokenizer.json`. */
export interface BpeJson {
	type?: string;
	vocab?: Record<string, number>;
	merges?: (string | [string, string])[];
	ignore_merges?: boolean;
	end_of_word_suffix?: string | null;
	[option: string]: unknown;
}

/** A vocabulary format from which `transformers` builds a tokenizer. */
export interface TokenizerSource {
	files: string[];
	/** The equivalent `tokenizer.json`, without the tokens of other files and the template. */
	read(folder: Folder, settings: TokenizerSettings): TokenizerJson;
}

/** The vocabulary formats of each class without a `tokenizer.json`. */
export const SOURCES: Record<TokenizerClass, TokenizerSource> = {
	LlamaTokenizer: { files: ["tokenizer.model"], read: llamaTokenizer },
	GemmaTokenizer: { files: ["tokenizer.model"], read: gemmaTokenizer },
	GPT2Tokenizer: { files: ["vocab.json", "merges.txt"], read: gpt2Tokenizer },
	Qwen2Tokenizer: { files: ["vocab.json", "merges.txt"], read: qwen2Tokenizer },
};

/** The word pattern of Qwen2. */
const QWEN2_WORD = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" +
	"| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

function gpt2Tokenizer(folder: Folder, { addPrefixSpace }: TokenizerSettings): TokenizerJson {
	return {
		model: readBytePairs(folder),
		pre_tokenizer: { type: "ByteLevel", add_prefix_space: addPrefixSpace ?? false },
		decoder: { type: "ByteLevel" },
	};
}

function qwen2Tokenizer(folder: Folder, { addPrefixSpace }: TokenizerSettings): TokenizerJson {
	const add_prefix_space = addPrefixSpace ?? false;
	return {
		model: readBytePairs(folder),
		normalizer: { type: "NFC" },
		pre_tokenizer: {
			type: "Sequence",
			pretokenizers: [
				{ type: "Split", pattern: { Regex: QWEN2_WORD }, behavior: "Isolated", invert: false },
				{ type: "ByteLevel", add_prefix_space, use_regex: false },
			],
		},
		decoder: { type: "ByteLevel" },
	};
}

/** Reads `vocab.json` and `merges.txt`. */
function readBytePairs(folder: Folder): BpeJson {
	const vocabFile = folder.file("vocab.json");
	const mergesFile = folder.file("merges.txt");
	const vocab = readJson(vocabFile) as Record<string, number>;
	for (const [token, id] of Object.entries(vocab)) {
		if (!isTokenId(id)) {
			throw new UserError(
				`Cannot read "${vocabFile.path}": "${token}" is ${JSON.stringify(id)}, not a token id`,
			);
		}
	}
	const merges: [string, string][] = [];
	readText(mergesFile).split(/\r?\n/).forEach((line, index) => {
		if (line === "" || line.startsWith("#version")) return;
		const refuse = (problem: string): never => {
			throw new UserError(
				`Cannot read "${mergesFile.path}": line ${index + 1}, "${line}", ${problem}`,
			);
		};
		const words = line.split(" ");
		if (words.length !== 2 || words.includes("")) refuse("is not two words with a space between");
		for (const token of [...words, words.join("")]) {
			if (!Object.hasOwn(vocab, token)) refuse(`needs "${token}", which "vocab.json" lacks`);
		}
		merges.push(words as [string, string]);
	});
	return { type: "BPE", vocab, merges };
}

/** The steps of SentencePiece that Llama and Gemma share: spaces as "▁", and bytes of unknown text. */
const ESCAPE_SPACES: Step = { type: "Replace", pattern: { String: " " }, content: "▁" };
const FROM_PIECES: Step[] = [
	{ type: "Replace", pattern: { String: "▁" }, content: " " },
	{ type: "ByteFallback" },
	{ type: "Fuse" },
];

/**
 * Reads `tokenizer.model`.
 *
 * @param addsSpace Whether models of the class put a space before a text.
 * @throws {UserError} If the file is not supported, or this one does otherwise.
 */
function readPieces(folder: Folder, className: TokenizerClass, addsSpace: boolean) {
	const file = folder.file("tokenizer.model");
	const model = readSentencePiece(file);
	if (model.addsSpace === addsSpace) return model;
	throw new UserError(
		`Cannot read "${file.path}": it puts ${addsSpace ? "no" : "a"} space before the text, ` +
			`unlike the models of ${className}; add the model's "tokenizer.json"`,
	);
}

function piecesModel(pieces: Piece[], unknown: string): BpeJson {
	return {
		type: "BPE",
		vocab: Object.fromEntries(pieces.map(({ text }, id) => [text, id])),
		merges: mergesOf(pieces),
		unk_token: unknown,
		fuse_unk: true,
		byte_fallback: true,
	};
}

/** The pieces that are whole tokens. */
function wholeTokens(pieces: readonly Piece[], special: readonly string[] = []): AddedToken[] {
	return pieces.flatMap(({ text, type }) => {
		if (type !== CONTROL && type !== USER_DEFINED) return [];
		const isSpecial = type === CONTROL || special.includes(text);
		return [{ content: text, special: isSpecial, normalized: false }];
	});
}

/**
 * Llama's tokenizer by version 4 of `transformers`; version 5 adds the space before a text
 * differently.
 */
function llamaTokenizer(folder: Folder, settings: TokenizerSettings): TokenizerJson {
	const { pieces, unknown } = readPieces(folder, "LlamaTokenizer", true);
	const { legacy = true, addPrefixSpace = true } = settings;
	const prepend: Step[] = addPrefixSpace ? [{ type: "Prepend", prepend: "▁" }] : [];
	const scheme = addPrefixSpace ? "first" : "never";
	const strip: Step[] = addPrefixSpace ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : [];
	return {
		model: piecesModel(pieces, unknown),
		normalizer: legacy ? { type: "Sequence", normalizers: [...prepend, ESCAPE_SPACES] } : null,
		pre_tokenizer: legacy
			? null
			: { type: "Metaspace", replacement: "▁", prepend_scheme: scheme, split: false },
		decoder: { type: "Sequence", decoders: [...FROM_PIECES, ...strip] },
		added_tokens: wholeTokens(pieces),
	};
}

/** Gemma's tokenizer by version 4 of `transformers`. */
function gemmaTokenizer(folder: Folder, settings: TokenizerSettings): TokenizerJson {
	const { pieces, unknown } = readPieces(folder, "GemmaTokenizer", false);
	const { pad_token = "<pad>", eos_token = "<eos>", bos_token = "<bos>" } = settings.specialTokens;
	// The first names are those of the settings; older models have no tab but its byte.
	const names = [pad_token, eos_token, bos_token];
	const hasTab = pieces.some(({ text }) => text === "\t");
	const own = pieces.map((piece, id) => {
		const text = names[id] ?? (!hasTab && piece.text === "<0x09>" ? "\t" : piece.text);
		return { ...piece, text };
	});
	return {
		model: piecesModel(own, unknown),
		normalizer: ESCAPE_SPACES,
		pre_tokenizer: null, // that of transformers splits at spaces, of which none is left
		decoder: { type: "Sequence", decoders: FROM_PIECES },
		added_tokens: wholeTokens(pieces, ["<start_of_turn>", "<end_of_turn>"]),
	};
}
