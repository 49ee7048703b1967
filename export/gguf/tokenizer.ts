import { UserError } from "../../base/errors.ts";
import { findTemplate } from "../../models/tokenizers/chat_template.ts";
import { readTokenizerParts, type TokenizerParts } from "../../models/tokenizers/tokenizer.ts";
import { vocabularyOf } from "../../models/tokenizers/vocabularies.ts";
import type { ModelFiles } from "../../models/model_files.ts";
import { readJson } from "../../storage/json.ts";
import { isByteLevel, preTokenizerName } from "./pre_tokenizers.ts";
import { hasSpacePrefix, pieceScores } from "./sentencepiece.ts";
import type { MetadataValue } from "./writer.ts";

/** Types of tokens in a GGUF file. */
const TYPES = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 };

/** Metadata of a tokenizer by key. */
export interface TokenizerMetadata {
	values: Record<string, MetadataValue | undefined>;
	notes: string[];
}

/**
 * The metadata of a model's tokenizer and chat template.
 *
 * @throws {UserError} If llama.cpp has no such tokenizer.
 */
export function tokenizerMetadata(model: ModelFiles): TokenizerMetadata {
	const { source, architecture: { vocabularySize } } = model;
	const parts = readTokenizerParts(source);
	const { json } = parts;
	const notes: string[] = [];
	checkModel(json);
	const { ids } = vocabularyOf(json.model);
	const { tokens, types } = tokenList(parts, ids, vocabularySize);
	const isBytes = isByteLevel(json);
	const special = { ...specialIds(model, parts, ids), ...aroundText(model) };
	const template = findTemplate(source);
	if (template === undefined) notes.push("it has no chat template");
	const common: TokenizerMetadata["values"] = {
		"tokenizer.ggml.tokens": { type: "texts", value: tokens },
		"tokenizer.ggml.token_type": { type: "i32s", value: types },
		...special,
		"tokenizer.chat_template": template === undefined
			? undefined
			: { type: "text", value: template },
	};
	if (isBytes) {
		const { type } = json.normalizer ?? {};
		if (type === "NFC") {
			notes.push("llama.cpp does not normalize texts to NFC, as the tokenizer does");
		} else if (type !== undefined) {
			throw new UserError(
				`Cannot export the tokenizer to gguf: llama.cpp has no normalizer "${type}" for bytes`,
			);
		}
		const merges = json.model!.merges!.map((merge) =>
			typeof merge === "string" ? merge : merge.join(" ")
		);
		return {
			notes,
			values: {
				"tokenizer.ggml.model": { type: "text", value: "gpt2" },
				"tokenizer.ggml.pre": { type: "text", value: preTokenizerName(json) },
				...common,
				"tokenizer.ggml.merges": { type: "texts", value: merges },
			},
		};
	}
	if (json.model?.byte_fallback !== true) {
		throw new UserError(
			`Cannot export the tokenizer to gguf: it works neither on bytes nor falls back to them, ` +
				`which llama.cpp's tokenizers of the kinds of GPT-2 and SentencePiece do`,
		);
	}
	const scores = pieceScores(source, json, ids);
	const value = tokens.map((_, id) => scores.get(id) ?? 0);
	return {
		notes,
		values: {
			"tokenizer.ggml.model": { type: "text", value: "llama" },
			"tokenizer.ggml.pre": { type: "text", value: "default" },
			...common,
			"tokenizer.ggml.scores": { type: "f32s", value },
			"tokenizer.ggml.add_space_prefix": { type: "bool", value: hasSpacePrefix(json) },
		},
	};
}

/** @throws {UserError} If the model of a tokenizer is no BPE, or has an option that llama.cpp lacks. */
function checkModel({ model }: TokenizerParts["json"]): void {
	const type = model?.type ?? (model?.merges ? "BPE" : undefined);
	if (type !== "BPE") {
		throw new UserError(
			`Cannot export the tokenizer to gguf: its model is "${type}"; supported is BPE`,
		);
	}
	for (const option of ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]) {
		const value = model![option];
		if (value == null || value === "" || value === 0) continue;
		throw new UserError(
			`Cannot export the tokenizer to gguf: llama.cpp has no ${option}, found ` +
				JSON.stringify(value),
		);
	}
}

/** All tokens by id, as many as the embedding has rows, and their types. */
function tokenList(
	{ json, added }: TokenizerParts,
	ids: ReadonlyMap<string, number>,
	rows: number,
): { tokens: string[]; types: Int32Array } {
	const tokens: string[] = [];
	const types = new Int32Array(rows).fill(TYPES.unused);
	const put = (token: string, id: number, type: number) => {
		if (id >= rows) return; // the model cannot read or write it
		tokens[id] = token;
		types[id] = type;
	};
	for (const [token, id] of ids) {
		const isByte = json.model?.byte_fallback === true && /^<0x[0-9A-F]{2}>$/.test(token);
		put(token, id, isByte ? TYPES.byte : TYPES.normal);
	}
	for (const { content, id, special } of added) {
		const isUnknown = content === json.model?.unk_token;
		put(content, id, isUnknown ? TYPES.unknown : special ? TYPES.control : TYPES.userDefined);
	}
	for (let id = 0; id < rows; id++) tokens[id] ??= `[PAD${id}]`;
	return { tokens, types };
}

/** The members of `generation_config.json` and names of special tokens, with the keys of their ids. */
const SPECIAL: readonly [token: string, key: string][] = [
	["bos_token", "bos_token_id"],
	["eos_token", "eos_token_id"],
	["unk_token", "unknown_token_id"],
	["pad_token", "padding_token_id"],
	["sep_token", "seperator_token_id"], // as llama.cpp spells it
	["mask_token", "mask_token_id"],
];

/** The ids of special tokens; those that end an answer also from generation_config.json. */
function specialIds(
	{ source }: ModelFiles,
	{ settings, added }: TokenizerParts,
	ids: ReadonlyMap<string, number>,
): TokenizerMetadata["values"] {
	const values: TokenizerMetadata["values"] = {};
	const put = (key: string, value: number | undefined) => {
		if (value !== undefined) values[`tokenizer.ggml.${key}`] = { type: "u32", value };
	};
	const idOf = (token: string | undefined) =>
		added.find(({ content }) => content === token)?.id ?? ids.get(token ?? "");
	for (const [token, key] of SPECIAL) put(key, idOf(settings.specialTokens[token]));
	const file = "generation_config.json";
	const { eos_token_id: ends } = source.has(file) ? readJson(source.file(file)) : {};
	const all = [ends].flat().filter((id) => Number.isSafeInteger(id)) as number[];
	const eos = idOf(settings.eos) ?? all[0];
	put("eos_token_id", eos);
	put("eot_token_id", all.find((id) => id !== eos));
	return values;
}

/** Whether a first and a last token are added to a text, and which. */
function aroundText({ tokenizer, name }: ModelFiles): TokenizerMetadata["values"] {
	const text = "a";
	const inner = tokenizer.encode(text, { specialTokens: false });
	const all = tokenizer.encode(text);
	const isAt = (start: number) => inner.every((id, i) => all[start + i] === id);
	const before = [0, 1].find((start) => isAt(start) && all.length - start - inner.length <= 1);
	if (before === undefined) {
		throw new UserError(
			`Cannot export the tokenizer of "${name}" to gguf: it adds ${all.length - inner.length} ` +
				`tokens to a text; llama.cpp adds one before it and one behind it at most`,
		);
	}
	const after = all.length - before - inner.length;
	return {
		"tokenizer.ggml.add_bos_token": { type: "bool", value: before === 1 },
		"tokenizer.ggml.add_eos_token": { type: "bool", value: after === 1 },
		...(before && { "tokenizer.ggml.bos_token_id": { type: "u32", value: all[0] } }),
		...(after && { "tokenizer.ggml.eos_token_id": { type: "u32", value: all.at(-1)! } }),
	};
}
