import { UserError } from "../../base/errors.ts";
import type { Folder } from "../../storage/folder.ts";
import { readJson } from "../../storage/json.ts";

/** The tokenizer classes of `transformers` that are supported without a `tokenizer.json`. */
export type TokenizerClass =
	| "LlamaTokenizer"
	| "GemmaTokenizer"
	| "GPT2Tokenizer"
	| "Qwen2Tokenizer";

/** A token that is matched in the text before any other step. */
export interface AddedToken {
	id?: number;
	content: string;
	single_word?: boolean;
	lstrip?: boolean;
	rstrip?: boolean;
	normalized?: boolean;
	special?: boolean;
}

/** The tokenizer settings in a folder's smaller files, besides the vocabulary. */
export interface TokenizerSettings {
	/** The class in the files, or the default of `transformers` for the model type. */
	className: string | undefined;
	bos: string | undefined;
	eos: string | undefined;
	/** The special tokens by the names of their members, such as "pad_token". */
	specialTokens: Readonly<Record<string, string>>;
	/** Further special tokens, without names. */
	furtherTokens: readonly string[];
	/** The added tokens, in the order in which those without an id get one. */
	addedTokens: AddedToken[];
	/** Those of them that no file names and the class adds. */
	usualTokens: Set<string>;
	/** Whether a text begins and ends with these tokens; undefined if the files do not say. */
	addBos: boolean | undefined;
	addEos: boolean | undefined;
	addPrefixSpace: boolean | undefined;
	/** Whether Llama's tokenizer inserts a space after each special token. */
	legacy: boolean | undefined;
}

/** The default classes of `transformers` by model type, if `tokenizer_config.json` names none. */
const CLASS_OF_MODEL: Record<string, TokenizerClass> = {
	llama: "LlamaTokenizer",
	mistral: "LlamaTokenizer",
	gemma2: "GemmaTokenizer",
	gemma3: "GemmaTokenizer",
	gemma3_text: "GemmaTokenizer",
	gpt2: "GPT2Tokenizer",
	opt: "GPT2Tokenizer",
	qwen2: "Qwen2Tokenizer",
	qwen3: "Qwen2Tokenizer",
};

/** The members that name special tokens, in the order in which new ones get ids. */
const SPECIAL_TOKENS = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"]
	.map((name) => `${name}_token`);

/** The default special tokens of each class. */
const USUAL_TOKENS: Record<TokenizerClass, Record<string, string>> = {
	LlamaTokenizer: { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" },
	GemmaTokenizer: {
		bos_token: "<bos>",
		eos_token: "<eos>",
		unk_token: "<unk>",
		pad_token: "<pad>",
	},
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
 * Reads the tokenizer settings from `tokenizer_config.json`, `special_tokens_map.json`,
 * `added_tokens.json` and `config.json`, as far as they exist. As in `transformers`, the second takes
 * precedence over the first, but the second and third are ignored if the first has an
 * `added_tokens_decoder`.
 *
 * @throws {UserError} If a file is damaged or a member has a wrong type.
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
		specialTokens: Object.fromEntries(
			[...named].flatMap(([name, token]) => token ? [[name, token.content]] : []),
		),
		furtherTokens: further.map(({ content }) => content),
		addedTokens: [...added, ...special],
		usualTokens,
		addBos: config.flag("add_bos_token"),
		addEos: config.flag("add_eos_token"),
		addPrefixSpace: config.flag("add_prefix_space"),
		legacy: config.flag("legacy"),
	};
}

/** The class name without the "Fast" of older versions of `transformers`. */
function classNameOf(config: SettingsFile, folder: Folder): string | undefined {
	const name = config.text("tokenizer_class");
	if (name !== undefined) {
		const plain = name.replace(/Fast$/, "");
		return plain === "LLaMATokenizer" ? "LlamaTokenizer" : plain; // as the first conversions wrote
	}
	const type = new SettingsFile(folder, "config.json").text("model_type") ?? "";
	return Object.hasOwn(CLASS_OF_MODEL, type) ? CLASS_OF_MODEL[type] : undefined;
}

/** The members of a JSON file; none if the file does not exist. */
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
	 * A special token, written as a string or as either form of object of `transformers`.
	 *
	 * @returns Null if the file declares that there is none; undefined if it says nothing.
	 */
	token(name: string, value: unknown): AddedToken | null | undefined {
		if (value === undefined || value === "") return undefined; // early conversions of Llama have ""
		if (value === null) return null;
		if (typeof value === "string") return { content: value, special: true };
		return { ...this.#addedToken(name, value), special: true };
	}

	/** A list of special tokens, or an object with their names as keys. */
	tokens(name: string): AddedToken[] {
		const value = this.members[name] ?? [];
		if (typeof value !== "object") this.#refuse(name, value, "a list of tokens");
		return Object.values(value).map((token) => this.token(name, token))
			.filter((token) => token !== null && token !== undefined);
	}

	/** The tokens of an object with ids as keys. */
	tokensById(name: string): AddedToken[] {
		const value = this.members[name];
		if (typeof value !== "object") this.#refuse(name, value, "an object of tokens");
		return Object.entries(value as object).map(([id, token]) => ({
			...this.#addedToken(name, token),
			id: this.#id(name, /^\d+$/.test(id) ? Number(id) : id),
		}));
	}

	/** The tokens of a file that maps tokens to ids. */
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
