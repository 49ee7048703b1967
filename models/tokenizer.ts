import { Tokenizer } from "@huggingface/tokenizers";
import { join } from "node:path";
import { UserError } from "../pipeline/errors.ts";
import { readJson } from "./json.ts";

/** Files that belong to a tokenizer and go with a model that is copied. */
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

/** The parts of a `tokenizer.json` that we look at. */
interface TokenizerJson {
  added_tokens?: unknown[];
  pre_tokenizer?: PreTokenizer | null;
  model?: BpeJson;
}

interface PreTokenizer {
  type: string;
  [option: string]: unknown;
}

interface BpeJson {
  type?: string;
  merges?: (string | [string, string])[];
  ignore_merges?: boolean;
  end_of_word_suffix?: string | null;
}

/** The parts of a `tokenizer_config.json` that we look at. */
interface TokenizerConfig {
  tokenizer_class?: string;
  add_bos_token?: boolean;
  add_prefix_space?: boolean;
  clean_up_tokenization_spaces?: boolean;
  bos_token?: SpecialToken;
  eos_token?: SpecialToken;
  unk_token?: SpecialToken;
  pad_token?: SpecialToken;
}

type SpecialToken = string | { content: string } | null;

/** Members that the library asks for, and that mean nothing if they are absent. */
const NOTHING = { added_tokens: [], normalizer: null, post_processor: null, decoder: null };

/** Turns text into the token ids of a model and back, as `transformers` does. */
export class TextTokenizer {
  readonly #tokenizer: Tokenizer;

  private constructor(
    tokenizer: Tokenizer,
    config: TokenizerConfig,
    /** The names of the tokenizer's files in the folder, to be copied with the model. */
    readonly files: string[],
  ) {
    this.#tokenizer = tokenizer;
    this.vocabularySize = tokenizer.model!.vocab.length;
    this.bosId = tokenizer.token_to_id(contentOf(config.bos_token) ?? "");
    this.eosId = tokenizer.token_to_id(contentOf(config.eos_token) ?? "");
  }

  /** One more than the greatest token id; a model's embedding may have more rows. */
  readonly vocabularySize: number;

  /** The tokens that begin and end a text, where the model has them. */
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;

  /**
   * Reads the tokenizer of a model folder: `tokenizer.json`, or `vocab.json` and `merges.txt` of a
   * GPT-2 tokenizer (as in the folders of OPT), with `tokenizer_config.json` if there is one.
   *
   * @throws {UserError} If files are missing, damaged or of a kind that is not supported.
   */
  static load(folder: string): TextTokenizer {
    const files = TOKENIZER_FILES.filter((name) => exists(join(folder, name)));
    const config = files.includes("tokenizer_config.json")
      ? readJson(join(folder, "tokenizer_config.json")) as TokenizerConfig
      : {};
    let json: TokenizerJson;
    if (files.includes("tokenizer.json")) {
      json = readJson(join(folder, "tokenizer.json"));
    } else if (
      files.includes("vocab.json") && files.includes("merges.txt") &&
      config.tokenizer_class?.startsWith("GPT2Tokenizer")
    ) {
      json = gpt2Tokenizer(folder, config);
    } else {
      const found = files.length > 0 ? `only ${files.map((f) => `"${f}"`).join(", ")}` : "nothing";
      throw new UserError(
        `Cannot open the tokenizer of "${folder}": there is no "tokenizer.json" (found ${found}); ` +
          `make one in Python with AutoTokenizer.from_pretrained(...).save_pretrained(...)`,
      );
    }
    try {
      const tokenizer = new Tokenizer(
        { ...NOTHING, ...json, pre_tokenizer: preTokenizer(json) },
        config,
      );
      return new TextTokenizer(tokenizer, config, files);
    } catch (error) {
      const problem = error instanceof Error ? error.message : String(error);
      throw new UserError(`Cannot open the tokenizer of "${folder}": ${problem}`);
    }
  }

  /**
   * The token ids of a text of any length.
   *
   * @param options.specialTokens Whether to add what the tokenizer adds to each text, such as a
   *   first token; true by default. Special tokens written out in the text count always.
   */
  encode(text: string, { specialTokens = true }: { specialTokens?: boolean } = {}): number[] {
    return this.#tokenizer.encode(text, { add_special_tokens: specialTokens }).ids;
  }

  /**
   * The text of token ids. Ids without a token, which some models can predict, give nothing.
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
      clean_up_tokenization_spaces: false, // else the text of the ids would not give the ids
    });
  }
}

/**
 * The pre-tokenizer, changed where that makes the library fast or exact; the ids are those of the
 * original one.
 */
function preTokenizer({ pre_tokenizer: own, model }: TokenizerJson): PreTokenizer | null {
  if (own?.type === "ByteLevel" && own.use_regex !== false && !own.add_prefix_space) {
    // The library's own pattern counts U+FEFF as a space and U+0085 as none.
    return sequence(wordsOf(GPT2_WORD), { ...own, use_regex: false });
  }
  if ((!own || own.type === "Metaspace") && model && splitsAtSpaces(model)) {
    // The library remembers words that it has seen, but not a whole text: seconds, not minutes.
    return sequence(...(own ? [own] : []), wordsOf("▁+[^▁]*|[^▁]+"));
  }
  return own ?? null;
}

/** What GPT-2 takes for a word. */
const GPT2_WORD =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Whether a BPE gives the same ids when the text is cut before each run of spaces. */
function splitsAtSpaces({ type, merges, ignore_merges, end_of_word_suffix }: BpeJson): boolean {
  if (type !== "BPE" || !merges || ignore_merges || end_of_word_suffix) return false;
  return !merges.some((merge) => { // joins a space to what precedes it
    const [left, right] = typeof merge === "string" ? merge.split(" ", 2) : merge;
    return right.startsWith("▁") && !left.endsWith("▁");
  });
}

function sequence(...pretokenizers: PreTokenizer[]): PreTokenizer {
  return { type: "Sequence", pretokenizers };
}

/** The pre-tokenizer that gives the matches of a pattern, which must leave nothing out. */
function wordsOf(pattern: string): PreTokenizer {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Removed", invert: true };
}

/** The `tokenizer.json` that `transformers` makes of `vocab.json` and `merges.txt`. */
function gpt2Tokenizer(folder: string, config: TokenizerConfig): TokenizerJson {
  const vocab = readJson(join(folder, "vocab.json")) as Record<string, number>;
  const merges = Deno.readTextFileSync(join(folder, "merges.txt")).split(/\r?\n/)
    .filter((line) => line !== "" && !line.startsWith("#version"));
  const { bos_token, eos_token, unk_token, pad_token, add_bos_token, add_prefix_space } = config;
  const special = [bos_token, eos_token, unk_token, pad_token].map(contentOf)
    .filter((content) => content !== undefined && Object.hasOwn(vocab, content)) as string[];
  const bos = { SpecialToken: { id: contentOf(bos_token), type_id: 0 } };
  const text = { Sequence: { id: "A", type_id: 0 } };
  const byteLevel = { type: "ByteLevel", add_prefix_space: add_prefix_space ?? false };
  const json = {
    added_tokens: [...new Set(special)]
      .map((content) => ({ id: vocab[content], content, special: true })),
    pre_tokenizer: byteLevel,
    post_processor: { type: "TemplateProcessing", single: add_bos_token ? [bos, text] : [text] },
    decoder: byteLevel,
    model: { type: "BPE", vocab, merges },
  };
  return json;
}

function contentOf(token?: SpecialToken): string | undefined {
  return typeof token === "string" ? token : token?.content;
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      return false;
    }
    throw error;
  }
}
