import { UserError } from "../../base/errors.ts";
import { counted } from "../../base/figures.ts";
import { withTimeLimit } from "../../base/time_limit.ts";
import type { Folder } from "../../storage/folder.ts";
import { readJson } from "../../storage/json.ts";
import { AddedTokens, type PlacedToken } from "./added_tokens.ts";
import { type Decoder, decoderOf, rawBytes } from "./decoders.ts";
import { Members } from "./members.ts";
import { normalizerOf } from "./normalizers.ts";
import { spansOf } from "./patterns.ts";
import { type Template, templateOf } from "./post_processors.ts";
import { type PreTokenizer, preTokenizerOf, splitting } from "./pre_tokenizers.ts";
import {
	type AddedToken,
	readTokenizerSettings,
	type TokenizerClass,
	type TokenizerSettings,
} from "./tokenizer_settings.ts";
import { type BpeJson, SOURCES, type TokenizerJson } from "./tokenizer_sources.ts";
import { type Vocabulary, vocabularyOf } from "./vocabularies.ts";

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

/**
 * A tokenizer: text to token ids and back, equal to that of `transformers`. Each component of
 * `tokenizer.json` and each of its options is implemented as in the Rust library, or refused by name.
 *
 * @internal
 */
export class TextTokenizer {
	readonly #added: AddedTokens;
	readonly #preTokenize: PreTokenizer;
	readonly #vocabulary: Vocabulary;
	readonly #template: Template;
	readonly #decode: Decoder;
	readonly #decoderJson: unknown;
	/** Tokens by id. */
	readonly #tokens: ReadonlyMap<number, string>;
	readonly #specialIds: ReadonlySet<number>;

	private constructor(
		json: TokenizerJson,
		settings: TokenizerSettings,
		/** The names of the tokenizer's files in the folder. */
		readonly files: string[],
		/** The folder in messages. */
		readonly path: string,
	) {
		checkMembers(json);
		this.#vocabulary = vocabularyOf(json.model);
		const { ids } = this.#vocabulary;
		const placed = withTokens(json, settings, ids);
		const normalize = normalizerOf("normalizer", json.normalizer);
		this.#added = new AddedTokens(placed, normalize);
		const preTokenize = preTokenizerOf("pre_tokenizer", json.pre_tokenizer);
		this.#preTokenize = cutsAtSpaces(json, ids)
			? (pieces) => CUT_AT_SPACES(preTokenize(pieces))
			: preTokenize;
		this.#decode = decoderOf("decoder", json.decoder);
		this.#decoderJson = json.decoder;
		const tokens = new Map(Array.from(ids, ([token, id]) => [id, token]));
		for (const { id, content } of placed) tokens.set(id, content);
		this.#tokens = tokens;
		this.#specialIds = new Set(placed.filter(({ special }) => special).map(({ id }) => id));
		const idOf = (token: string | undefined) =>
			placed.find(({ content }) => content === token)?.id ?? ids.get(token ?? "");
		this.#template = template(json, settings, idOf);
		let greatest = -1;
		for (const id of tokens.keys()) greatest = Math.max(greatest, id);
		this.vocabularySize = greatest + 1;
		this.bosId = idOf(settings.bos);
		this.eosId = idOf(settings.eos);
	}

	/** The greatest token id plus 1; a model's embedding may have more rows. */
	readonly vocabularySize: number;

	/** The tokens that begin and end a text, if the model has them. */
	readonly bosId: number | undefined;
	readonly eosId: number | undefined;

	/**
	 * Loads the tokenizer of a model folder: `tokenizer.json`; else `vocab.json` and `merges.txt` of GPT-2
	 * (also OPT) or Qwen2, or `tokenizer.model` of Llama or Gemma; with the special tokens of the smaller
	 * files. The ids are those of version 4 of `transformers`. Version 5 treats spaces at the start of a text and
	 * between words differently for Llama's files.
	 *
	 * @throws {UserError} If files are missing, damaged or not supported.
	 */
	static load(folder: Folder): TextTokenizer {
		const files = TOKENIZER_FILES.filter((name) => folder.has(name));
		const settings = readTokenizerSettings(folder);
		try {
			const json = readVocabulary(folder, files, settings);
			return withTimeLimit(
				`opening the tokenizer of "${folder.path}"`,
				0,
				() => new TextTokenizer(json, settings, files, folder.path),
			);
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
		const what = `encoding ${
			counted(text.length, "character")
		} with the tokenizer of "${this.path}"`;
		return withTimeLimit(what, text.length, () => this.#encode(text, specialTokens));
	}

	#encode(text: string, specialTokens: boolean): number[] {
		const ids: number[] = [];
		const encodeText = () => {
			for (const section of this.#added.split(text.toWellFormed())) {
				if ("id" in section) ids.push(section.id);
				else if (section.text !== "") {
					for (const piece of this.#preTokenize([section])) {
						if (piece.text !== "") this.#vocabulary.encode(piece.text, ids);
					}
				}
			}
		};
		for (const item of this.#template) {
			if (item === "text") encodeText();
			else if (specialTokens) ids.push(item);
		}
		return ids;
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
		const tokens: string[] = [];
		for (const id of Array.from(ids)) {
			const token = this.#tokens.get(id);
			if (token === undefined || !specialTokens && this.#specialIds.has(id)) continue;
			tokens.push(token);
		}
		if (tokens.length === 0) return "";
		const what = `decoding ${counted(ids.length, "token")} with the tokenizer of "${this.path}"`;
		return withTimeLimit(what, 8 * ids.length, () => this.#decode(tokens).join(""));
	}

	/**
	 * The bytes that a token adds to a text in UTF-8, if it is not the first one: perhaps a part of a
	 * character. Those of a special token are its name. An id without a token has none.
	 */
	bytesOf(id: number): Uint8Array {
		const token = this.#tokens.get(id);
		if (token === undefined) return new Uint8Array(0);
		const raw = this.#specialIds.has(id) ? undefined : rawBytes(this.#decoderJson, token);
		if (raw) return raw;
		const twice = [token, token];
		const text = this.#specialIds.has(id)
			? token
			: withTimeLimit(`decoding a token with the tokenizer of "${this.path}"`, 8, () => {
				const first = this.#decode([token]).join("");
				return this.#decode(twice).join("").slice(first.length);
			});
		return new TextEncoder().encode(text);
	}
}

/** What a tokenizer consists of, for exports. */
export interface TokenizerParts {
	json: TokenizerJson;
	settings: TokenizerSettings;
	/** The added tokens with their ids, including those of the smaller files. */
	added: readonly PlacedToken[];
}

/**
 * The parts of the tokenizer of a model folder, see {@link TextTokenizer.load}.
 *
 * @throws {UserError} As that does.
 */
export function readTokenizerParts(folder: Folder): TokenizerParts {
	TextTokenizer.load(folder); // refuses what is damaged or not supported
	const files = TOKENIZER_FILES.filter((name) => folder.has(name));
	const settings = readTokenizerSettings(folder);
	const json = readVocabulary(folder, files, settings);
	return { json, settings, added: withTokens(json, settings, vocabularyOf(json.model).ids) };
}

/** Refuses members of a `tokenizer.json` that nobody knows. */
function checkMembers(json: TokenizerJson): void {
	const members = new Members("tokenizer.json", json);
	// Cutting to a length and padding are asked for by programs, not by the file.
	members.ignore("version", "truncation", "padding", "added_tokens", "normalizer");
	members.ignore("pre_tokenizer", "post_processor", "decoder", "model");
	members.end();
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

/**
 * The added tokens with their ids, including those of the smaller files. As in `transformers`, a token of
 * the vocabulary has its id, and others get the next ones, whatever the files say.
 */
function withTokens(
	json: TokenizerJson,
	settings: TokenizerSettings,
	ids: ReadonlyMap<string, number>,
): PlacedToken[] {
	const tokens = new Map<string, PlacedToken>();
	let next = ids.size;
	const add = (token: AddedToken) => {
		const known = tokens.get(token.content);
		if (token.content === "") return;
		const id = known?.id ?? ids.get(token.content) ?? (isMade(json) ? token.id : undefined) ?? next;
		next = Math.max(next, id + 1);
		tokens.set(token.content, { ...token, ...known, id, special: known?.special || token.special });
	};
	ownTokens(json).forEach(add);
	for (const token of settings.addedTokens) {
		const isThere = tokens.has(token.content) || ids.has(token.content);
		if (isThere || isMade(json) || !settings.usualTokens.has(token.content)) add(token);
	}
	return [...tokens.values()];
}

/** The added tokens of a `tokenizer.json`. */
function ownTokens({ added_tokens }: TokenizerJson): AddedToken[] {
	const list: unknown = added_tokens ?? [];
	if (!Array.isArray(list)) throw new Error(`"added_tokens" is ${typeof list}, not a list`);
	return list.map((json, i) => {
		const members = new Members(`added_tokens[${i}]`, json);
		const id = members.has("id") ? members.count("id") : undefined;
		const special = members.flag("special", false);
		const token = {
			id,
			content: members.text("content"),
			single_word: members.flag("single_word", false),
			lstrip: members.flag("lstrip", false),
			rstrip: members.flag("rstrip", false),
			normalized: members.flag("normalized", !special),
			special,
		};
		members.end();
		return token;
	});
}

/**
 * The special tokens around a text: those of the template of `tokenizer.json`; without a template, or if
 * the settings tell of them, those that the classes of Llama and Gemma add; without the
 * file, those of any class.
 */
function template(
	json: TokenizerJson,
	settings: TokenizerSettings,
	idOf: (token: string | undefined) => number | undefined,
): Template {
	const { className, bos, eos, addBos, addEos } = settings;
	const addsFirst = className === "LlamaTokenizer" || className === "GemmaTokenizer";
	const isSet = addBos !== undefined || addEos !== undefined;
	if (!isMade(json) && !(addsFirst && (isSet || json.post_processor === null))) {
		return templateOf("post_processor", json.post_processor);
	}
	const token = (name: string, content: string | undefined): number => {
		const id = idOf(content);
		if (id === undefined) throw new Error(`it has no "${name}_token", but is to add one`);
		return id;
	};
	// The class's own first token may have no row in the embedding.
	const isKnown = addBos === true || isMade(json) || idOf(bos) !== undefined;
	return [
		...((addBos ?? addsFirst) && isKnown ? [token("bos", bos)] : []),
		"text",
		...(addEos ? [token("eos", eos)] : []),
	];
}

/** Cuts a text before each run of the sign for spaces. */
const CUT_AT_SPACES = splitting(spansOf(/▁+[^▁]*|[^▁]+/g), "Isolated");

/**
 * Whether a text may be cut before each run of spaces, where the tokenizer would not. The ids are the same,
 * but words are shorter and come again.
 */
function cutsAtSpaces(
	{ pre_tokenizer: own, model }: TokenizerJson,
	ids: ReadonlyMap<string, number>,
): boolean {
	if (own && !(own.type === "Metaspace" && own.split === false)) return false;
	return model !== undefined && ids.has("▁") && joinsNoSpace(model);
}

/** Whether no merge of a BPE joins a space to the text before it. */
function joinsNoSpace(model: BpeJson): boolean {
	const { type, merges, ignore_merges, end_of_word_suffix, continuing_subword_prefix } = model;
	if (type !== "BPE" || !merges || ignore_merges) return false;
	if (end_of_word_suffix || continuing_subword_prefix) return false;
	return !merges.some((merge) => {
		const [left, right] = typeof merge === "string" ? merge.split(" ", 2) : merge;
		return right.startsWith("▁") && !left.endsWith("▁");
	});
}
