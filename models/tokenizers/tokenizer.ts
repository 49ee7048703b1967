import { Tokenizer } from "@huggingface/tokenizers";
import { UserError } from "../../base/errors.ts";
import type { Folder } from "../../storage/folder.ts";
import { readJson } from "../../storage/json.ts";
import {
  type AddedToken,
  readTokenizerSettings,
  type TokenizerClass,
  type TokenizerSettings,
} from "./tokenizer_settings.ts";
import { type BpeJson, SOURCES, type Step, type TokenizerJson } from "./tokenizer_sources.ts";

/** The files of a tokenizer, which are copied with a model. */
export const TOKENIZER_FILES = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "tokenizer.model",
  "chat_template.jinja",
];

/** Members that the library requires, with their neutral values. */
const NOTHING = { added_tokens: [], normalizer: null, post_processor: null, decoder: null };

/** A tokenizer: text to token ids and back, equal to that of `transformers`. */
export class TextTokenizer {
  readonly #tokenizer: Tokenizer;

  private constructor(
    tokenizer: Tokenizer,
    { bos, eos }: TokenizerSettings,
    /** The names of the tokenizer's files in the folder. */
    readonly files: string[],
  ) {
    this.#tokenizer = tokenizer;
    this.vocabularySize = tokenizer.model!.vocab.length;
    this.bosId = tokenizer.token_to_id(bos ?? "");
    this.eosId = tokenizer.token_to_id(eos ?? "");
  }

  /** The greatest token id plus 1; a model's embedding may have more rows. */
  readonly vocabularySize: number;

  /** The tokens that begin and end a text, if the model has them. */
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;

  /**
   * Loads the tokenizer of a model folder: `tokenizer.json`; else `vocab.json` and `merges.txt` of GPT-2
   * (also OPT) or Qwen2, or `tokenizer.model` of Llama; with the special tokens of the smaller files.
   * The ids are those of version 4 of `transformers`. Version 5 treats spaces at the start of a text and
   * between words differently for Llama's files.
   *
   * @throws {UserError} If files are missing, damaged or not supported.
   */
  static load(folder: Folder): TextTokenizer {
    const files = TOKENIZER_FILES.filter((name) => folder.has(name));
    const settings = readTokenizerSettings(folder);
    try {
      const json = readVocabulary(folder, files, settings);
      const tokenizer = new Tokenizer({
        ...NOTHING,
        ...json,
        added_tokens: withTokens(json, settings),
        pre_tokenizer: preTokenizer(json),
        post_processor: template(json, settings),
      }, {});
      return new TextTokenizer(tokenizer, settings, files);
    } catch (error) {
      if (error instanceof UserError) throw error;
      const problem = error instanceof Error ? error.message : String(error);
      throw new UserError(`Cannot open the tokenizer of "${folder.path}": ${problem}`);
    }
  }

  /**
   * The token ids of a text of any length.
   *
   * @param options.specialTokens Whether to add the tokenizer's special tokens, such as a first token;
   *   true by default. Special tokens written out in the text are always recognized.
   */
  encode(text: string, { specialTokens = true }: { specialTokens?: boolean } = {}): number[] {
    return this.#tokenizer.encode(text, { add_special_tokens: specialTokens }).ids;
  }

  /**
   * The text of token ids. Ids without a token, which some models can predict, are skipped.
   *
   * @param options.specialTokens Whether to write out special tokens; false by default.
   */
  decode(
    ids: ArrayLike<number>,
    { specialTokens = false }: { specialTokens?: boolean } = {},
  ): string {
    const known = Array.from(ids).filter((id) => this.#tokenizer.id_to_token(id) !== undefined);
    if (known.length === 0) return "";
    return this.#tokenizer.decode(known, {
      skip_special_tokens: !specialTokens,
      clean_up_tokenization_spaces: false, // otherwise encoding the text would not restore the ids
    });
  }
}

/**
 * The content of `tokenizer.json`, or its equivalent without the special tokens of the smaller files.
 */
function readVocabulary(
  folder: Folder,
  files: string[],
  settings: TokenizerSettings,
): TokenizerJson {
  if (files.includes("tokenizer.json")) {
    const json: TokenizerJson = {
      post_processor: null,
      ...readJson(folder.file("tokenizer.json")),
    };
    const own = json.pre_tokenizer;
    if (own?.type === "ByteLevel") {
      own.add_prefix_space = settings.addPrefixSpace ?? own.add_prefix_space;
    }
    return json;
  }
  const { className = "" } = settings;
  const source = Object.hasOwn(SOURCES, className)
    ? SOURCES[className as TokenizerClass]
    : undefined;
  if (source?.files.every((name) => files.includes(name))) return source.read(folder, settings);
  const quoted = (names: string[], joint: string) => names.map((name) => `"${name}"`).join(joint);
  const needs = source
    ? `, or ${quoted(source.files, " and ")} for its class ${className}`
    : className
    ? ` for its class ${className}`
    : ", as neither tokenizer_config.json nor config.json tells its class";
  const found = files.length > 0 ? `only ${quoted(files, ", ")}` : "nothing";
  throw new Error(
    `it needs "tokenizer.json"${needs} (found ${found}); ` +
      `make one in Python with AutoTokenizer.from_pretrained(...).save_pretrained(...)`,
  );
}

/** Whether there is no `tokenizer.json`, so that the tokenizer class gives its defaults. */
function isMade(json: TokenizerJson): boolean {
  return json.post_processor === undefined;
}

/** The added tokens, including missing ones from the smaller files. */
function withTokens(json: TokenizerJson, settings: TokenizerSettings): AddedToken[] {
  const { vocab = {} } = json.model ?? {};
  const ids = new Map(
    Array.isArray(vocab) ? vocab.map(([token], id) => [token, id]) : Object.entries(vocab),
  );
  const tokens = new Map<string, AddedToken>();
  for (const token of json.added_tokens ?? []) tokens.set(token.content, token);
  let next = 0;
  for (const id of ids.values()) next = Math.max(next, id + 1);
  for (const { id = 0 } of tokens.values()) next = Math.max(next, id + 1);
  for (const token of settings.addedTokens) {
    const known = tokens.get(token.content);
    const there = known !== undefined || ids.has(token.content);
    if (!there && !isMade(json) && settings.usualTokens.has(token.content)) continue;
    const id = known?.id ?? ids.get(token.content) ?? token.id ?? next;
    next = Math.max(next, id + 1);
    tokens.set(token.content, { ...token, ...known, id, special: known?.special || token.special });
  }
  for (const { content, single_word } of tokens.values()) {
    if (single_word) {
      throw new Error(`the token "${content}" is a "single_word", not supported yet`);
    }
  }
  return [...tokens.values()];
}

/**
 * The post-processor that adds special tokens: that of `tokenizer.json`; without the file, and always
 * for Llama, that of the settings.
 */
function template(json: TokenizerJson, settings: TokenizerSettings): Step | null | undefined {
  const { className, bos, eos, addBos, addEos } = settings;
  const isLlama = className === "LlamaTokenizer";
  const isSet = addBos !== undefined || addEos !== undefined;
  if (!isMade(json) && !(isLlama && isSet)) return json.post_processor;
  const token = (name: string, content: string | undefined) => {
    if (content === undefined) throw new Error(`it has no "${name}_token", but is to add one`);
    return { SpecialToken: { id: content, type_id: 0 } };
  };
  const single: unknown[] = [{ Sequence: { id: "A", type_id: 0 } }];
  if (addBos ?? isLlama) single.unshift(token("bos", bos));
  if (addEos) single.push(token("eos", eos));
  return { type: "TemplateProcessing", single };
}

/**
 * The pre-tokenizer, modified to make the library fast or exact; the ids do not change.
 */
function preTokenizer({ pre_tokenizer: own, model }: TokenizerJson): Step | null {
  if ((!own || own.type === "Metaspace" && own.split === false) && model && splitsAtSpaces(model)) {
    // The library caches words but not whole texts: this takes seconds instead of minutes.
    return sequence(...(own ? [own] : []), wordsOf("▁+[^▁]*|[^▁]+"));
  }
  return own ? exact(own) : null;
}

/** A step of a pre-tokenizer with which the library matches Python's `tokenizers`. */
function exact(step: Step): Step {
  switch (step.type) {
    case "Sequence":
      return sequence(...(step.pretokenizers as Step[]).map(exact));
    case "ByteLevel": { // the library's pattern treats U+FEFF as a space and U+0085 as none
      if (step.use_regex === false) return step;
      const bytes = { ...step, use_regex: false, add_prefix_space: false };
      return sequence(...(step.add_prefix_space ? [PREFIX_SPACE] : []), wordsOf(GPT2_WORD), bytes);
    }
    case "Digits": // the library recognizes ASCII digits only
      return wordsOf(step.individual_digits ? "\\p{N}|\\P{N}+" : "\\p{N}+|\\P{N}+");
    case "Metaspace": // the library does not split
      return step.split === false ? step : sequence(step, wordsOf("▁[^▁]*|[^▁]+"));
    default:
      return step;
  }
}

/** The word pattern of GPT-2. */
const GPT2_WORD =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Inserts a space before a text that does not begin with one. */
const PREFIX_SPACE = { type: "Replace", pattern: { Regex: "\\A[^ ]" }, content: " $&" };

/** Whether a BPE gives the same ids when the text is cut before each run of spaces. */
function splitsAtSpaces({ type, merges, ignore_merges, end_of_word_suffix }: BpeJson): boolean {
  if (type !== "BPE" || !merges || ignore_merges || end_of_word_suffix) return false;
  return !merges.some((merge) => { // joins a space to the text before it
    const [left, right] = typeof merge === "string" ? merge.split(" ", 2) : merge;
    return right.startsWith("▁") && !left.endsWith("▁");
  });
}

function sequence(...pretokenizers: Step[]): Step {
  return { type: "Sequence", pretokenizers };
}

/** The pre-tokenizer that splits a text into the matches of a pattern, which must cover it. */
function wordsOf(pattern: string): Step {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Removed", invert: true };
}
