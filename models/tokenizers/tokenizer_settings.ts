import { UserError } from "../../base/errors.ts";
import type { Folder } from "../../storage/folder.ts";
import { readJson } from "../../storage/json.ts";

/** The tokenizers that we can make without a `tokenizer.json`, as `transformers` names them. */
export type TokenizerClass = "LlamaTokenizer" | "GPT2Tokenizer" | "Qwen2Tokenizer";

/** A token that is found in the text before anything else happens to it. */
export interface AddedToken {
  id?: number;
  content: string;
  single_word?: boolean;
  lstrip?: boolean;
  rstrip?: boolean;
  normalized?: boolean;
  special?: boolean;
}

/** What the small files of a folder say about its tokenizer, beside the vocabulary. */
export interface TokenizerSettings {
  /** The class that the files name, or that `transformers` takes for the type of the model. */
  className: string | undefined;
  bos: string | undefined;
  eos: string | undefined;
  /** In the order in which they get ids where they have none. */
  addedTokens: AddedToken[];
  /** Those of them that no file names: the class has them. */
  usualTokens: Set<string>;
  /** Whether a text begins and ends with these tokens, where the files say so. */
  addBos: boolean | undefined;
  addEos: boolean | undefined;
  addPrefixSpace: boolean | undefined;
  /** Whether Llama's tokenizer puts a space after each special token. */
  legacy: boolean | undefined;
}

/** The classes that `transformers` takes where `tokenizer_config.json` names none. */
const CLASS_OF_MODEL: Record<string, TokenizerClass> = {
  llama: "LlamaTokenizer",
  mistral: "LlamaTokenizer",
  gpt2: "GPT2Tokenizer",
  opt: "GPT2Tokenizer",
  qwen2: "Qwen2Tokenizer",
  qwen3: "Qwen2Tokenizer",
};

/** The members that name special tokens, in the order in which new ones get their ids. */
const SPECIAL_TOKENS = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"]
  .map((name) => `${name}_token`);

/** What a class takes for members that are absent. */
const USUAL_TOKENS: Record<TokenizerClass, Record<string, string>> = {
  LlamaTokenizer: { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" },
  GPT2Tokenizer: {
    bos_token: "<|endoftext|>",
    eos_token: "<|endoftext|>",
    unk_token: "<|endoftext|>",
  },
  Qwen2Tokenizer: {
    eos_token: "<|endoftext|>",
    unk_token: "<|endoftext|>",
    pad_token: "<|endoftext|>",
  },
};

/**
 * Reads what `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and
 * `config.json` say about a tokenizer, as far as they are there. As in `transformers`, the second
 * outweighs the first, but it and the third count only where the first has no
 * `added_tokens_decoder`.
 *
 * @throws {UserError} If a file is damaged or a member of a wrong kind.
 */
export function readTokenizerSettings(folder: Folder): TokenizerSettings {
  const config = new SettingsFile(folder, "tokenizer_config.json");
  const listed = config.members.added_tokens_decoder;
  const map = new SettingsFile(folder, listed ? undefined : "special_tokens_map.json");
  const className = classNameOf(config, folder);
  const usual = Object.hasOwn(USUAL_TOKENS, className ?? "")
    ? USUAL_TOKENS[className as TokenizerClass]
    : {};

  const named = new Map<string, AddedToken | null>();
  for (const file of [config, map]) {
    for (const name of SPECIAL_TOKENS) {
      const token = file.token(name, file.members[name]);
      if (token !== undefined) named.set(name, token);
    }
  }
  const further = [config, map].flatMap((file) => [
    ...file.tokens("additional_special_tokens"),
    ...file.tokens("extra_special_tokens"),
  ]);
  const usualTokens = new Set<string>();
  for (const [name, content] of Object.entries(usual)) {
    if (named.has(name)) continue;
    if (![...named.values(), ...further].some((token) => token?.content === content)) {
      usualTokens.add(content);
    }
    named.set(name, { content, special: true });
  }
  const special = SPECIAL_TOKENS.map((name) => named.get(name) ?? null)
    .filter((token) => token !== null).concat(further);
  const added = listed
    ? config.tokensById("added_tokens_decoder")
    : new SettingsFile(folder, "added_tokens.json").idsByToken();
  return {
    className,
    bos: named.get("bos_token")?.content,
    eos: named.get("eos_token")?.content,
    addedTokens: [...added, ...special],
    usualTokens,
    addBos: config.flag("add_bos_token"),
    addEos: config.flag("add_eos_token"),
    addPrefixSpace: config.flag("add_prefix_space"),
    legacy: config.flag("legacy"),
  };
}

/** Without the "Fast" of the older versions of `transformers`. */
function classNameOf(config: SettingsFile, folder: Folder): string | undefined {
  const name = config.text("tokenizer_class");
  if (name !== undefined) {
    const plain = name.replace(/Fast$/, "");
    return plain === "LLaMATokenizer" ? "LlamaTokenizer" : plain; // as the first conversions wrote
  }
  const type = new SettingsFile(folder, "config.json").text("model_type") ?? "";
  return Object.hasOwn(CLASS_OF_MODEL, type) ? CLASS_OF_MODEL[type] : undefined;
}

/** The members of a JSON file; none, if it is not there. */
class SettingsFile {
  readonly #path: string;
  readonly members: Record<string, unknown>;

  constructor(folder: Folder, name: string | undefined) {
    const file = folder.file(name ?? "");
    this.#path = file.path;
    this.members = name !== undefined && folder.has(name) ? readJson(file) : {};
  }

  flag(name: string): boolean | undefined {
    const value = this.members[name] ?? undefined;
    if (value !== undefined && typeof value !== "boolean") {
      this.#refuse(name, value, "true or false");
    }
    return value as boolean | undefined;
  }

  text(name: string): string | undefined {
    const value = this.members[name] ?? undefined;
    if (value !== undefined && typeof value !== "string") this.#refuse(name, value, "a text");
    return value as string | undefined;
  }

  /**
   * A special token, which is a text or an object, in both forms that `transformers` has written.
   *
   * @returns Null for one that the file says is not there; undefined if it says nothing.
   */
  token(name: string, value: unknown): AddedToken | null | undefined {
    if (value === undefined || value === "") return undefined; // first conversions of Llama: ""
    if (value === null) return null;
    if (typeof value === "string") return { content: value, special: true };
    return { ...this.#addedToken(name, value), special: true };
  }

  /** A list of special tokens, or an object that gives them names. */
  tokens(name: string): AddedToken[] {
    const value = this.members[name] ?? [];
    if (typeof value !== "object") this.#refuse(name, value, "a list of tokens");
    return Object.values(value).map((token) => this.token(name, token))
      .filter((token) => token !== null && token !== undefined);
  }

  /** The tokens of an object whose keys are their ids. */
  tokensById(name: string): AddedToken[] {
    const value = this.members[name];
    if (typeof value !== "object") this.#refuse(name, value, "an object of tokens");
    return Object.entries(value as object).map(([id, token]) => ({
      ...this.#addedToken(name, token),
      id: this.#id(name, /^\d+$/.test(id) ? Number(id) : id),
    }));
  }

  /** The tokens of a file that gives each its id. */
  idsByToken(): AddedToken[] {
    return Object.entries(this.members)
      .map(([content, id]) => ({ content, id: this.#id(content, id) }));
  }

  #id(name: string, value: unknown): number {
    if (!isTokenId(value)) this.#refuse(name, value, "a token id");
    return value as number;
  }

  #addedToken(name: string, value: unknown): AddedToken {
    const token = value as AddedToken;
    if (typeof token?.content !== "string" || token.content === "") {
      this.#refuse(name, value, "a token");
    }
    const { content, single_word, lstrip, rstrip, normalized, special } = token;
    return { content, single_word, lstrip, rstrip, normalized, special };
  }

  #refuse(name: string, found: unknown, expected: string): never {
    throw new UserError(
      `Cannot read "${this.#path}": "${name}" is ${JSON.stringify(found)}, not ${expected}`,
    );
  }
}

/** Whether a value of a JSON file can be a token id. */
export function isTokenId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31;
}
