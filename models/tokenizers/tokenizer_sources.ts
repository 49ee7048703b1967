import { UserError } from "../../base/errors.ts";
import { type Folder, readText } from "../../storage/folder.ts";
import { readJson } from "../../storage/json.ts";
import { CONTROL, mergesOf, readSentencePiece, USER_DEFINED } from "./sentencepiece.ts";
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

/**
 * Llama's tokenizer by version 4 of `transformers`; version 5 adds the space before a text
 * differently.
 */
function llamaTokenizer(folder: Folder, settings: TokenizerSettings): TokenizerJson {
  const { pieces, unknown } = readSentencePiece(folder.file("tokenizer.model"));
  const { legacy = true, addPrefixSpace = true } = settings;
  const prepend: Step[] = addPrefixSpace ? [{ type: "Prepend", prepend: "▁" }] : [];
  const replace = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const scheme = addPrefixSpace ? "first" : "never";
  const strip: Step[] = addPrefixSpace ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : [];
  return {
    model: {
      type: "BPE",
      vocab: Object.fromEntries(pieces.map(({ text }, id) => [text, id])),
      merges: mergesOf(pieces),
      unk_token: unknown,
      fuse_unk: true,
      byte_fallback: true,
    },
    normalizer: legacy ? { type: "Sequence", normalizers: [...prepend, replace] } : null,
    pre_tokenizer: legacy
      ? null
      : { type: "Metaspace", replacement: "▁", prepend_scheme: scheme, split: false },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...strip,
      ],
    },
    added_tokens: pieces
      .map(({ text, type }, id) => ({
        id,
        content: text,
        special: type === CONTROL,
        normalized: false,
        type,
      }))
      .filter(({ type }) => type === CONTROL || type === USER_DEFINED),
  };
}
