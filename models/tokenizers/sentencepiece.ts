import { UserError } from "../../base/errors.ts";
import { readFile, type SourceFile } from "../../storage/folder.ts";
import { foreignContent } from "../../storage/safetensors.ts";
import { WireReader, WireType } from "./wire_reader.ts";

/** A piece of a SentencePiece vocabulary; its index is its token id. */
export interface Piece {
	/** The text, with "▁" for a space. */
	text: string;
	/** The merge priority: pieces with greater scores are merged first. */
	score: number;
	type: number;
}

/** The values of `Piece.type` of whole tokens. */
export const CONTROL = 3;
export const USER_DEFINED = 4;

/** A SentencePiece BPE model that does not normalize text, like Llama's and Gemma's. */
export interface SentencePieceModel {
	pieces: Piece[];
	/** Whether it puts a space before the text, as Llama's does. */
	addsSpace: boolean;
	/** The piece for unknown text that has not even byte pieces. */
	unknown: string;
}

/** The names of model types, numbered from 1. */
const MODEL_TYPES = ["UNIGRAM", "BPE", "WORD", "CHAR"];

/**
 * Reads a `tokenizer.model`.
 *
 * @throws {UserError} If the file cannot be read, is damaged, is not a SentencePiece model, is not a
 *   BPE, or normalizes text.
 * @see https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
 */
export function readSentencePiece(source: SourceFile): SentencePieceModel {
	const refuse = (problem: string): never => {
		throw new UserError(`Cannot read "${source.path}": ${problem}`);
	};
	const bytes = readFile(source);
	const start = new TextDecoder().decode(bytes.subarray(0, 200));
	const foreign = foreignContent(start);
	if (foreign !== undefined) refuse(foreign);
	if (/^[A-Za-z0-9+/]+=* \d+\r?\n/.test(start)) {
		refuse(
			`it is a vocabulary of tiktoken, not a SentencePiece model; add the model's "tokenizer.json"`,
		);
	}
	let model: ModelProto = { pieces: [] };
	try {
		model = readModel(bytes);
	} catch {
		refuse("it is damaged or not a SentencePiece model; download it again");
	}
	const { pieces, trainer, normalizer } = model;
	if (!trainer || !normalizer) return refuse("it is cut off; download it again");
	const type = MODEL_TYPES[trainer.modelType - 1] ?? `number ${trainer.modelType}`;
	const unsupported: [found: boolean, problem: string][] = [
		[type !== "BPE", `its type is ${type}, not BPE`],
		[normalizer.charsmap > 0, "it normalizes characters"],
		[normalizer.removesSpaces, "it removes repeated spaces"],
		[!normalizer.escapesSpaces, "it keeps spaces as they are"],
		[trainer.spacesLast, "it has spaces at the ends of words"],
	];
	for (const [found, problem] of unsupported) {
		if (found) refuse(`${problem}, which is not supported; add the model's "tokenizer.json"`);
	}
	if (pieces.some(({ text, score }) => text === "" || !Number.isFinite(score))) {
		refuse("it is damaged: a piece has no text or no score; download it again");
	}
	return { pieces, unknown: trainer.unknown, addsSpace: normalizer.addsSpace };
}

/** The fields of the file that are read. */
interface ModelProto {
	pieces: Piece[];
	trainer?: ReturnType<typeof readTrainer>;
	normalizer?: ReturnType<typeof readNormalizer>;
}

function readModel(bytes: Uint8Array): ModelProto {
	const model: ModelProto = { pieces: [] };
	readMessage(bytes, {
		1: [WireType.LengthDelimited, (reader) => model.pieces.push(readPiece(reader.bytes()))],
		2: [WireType.LengthDelimited, (reader) => model.trainer = readTrainer(reader.bytes())],
		3: [WireType.LengthDelimited, (reader) => model.normalizer = readNormalizer(reader.bytes())],
	});
	return model;
}

function readPiece(bytes: Uint8Array): Piece {
	const piece: Piece = { text: "", score: 0, type: 1 };
	readMessage(bytes, {
		1: [WireType.LengthDelimited, (reader) => piece.text = reader.string()],
		2: [WireType.Bit32, (reader) => piece.score = reader.float()],
		3: [WireType.Varint, (reader) => piece.type = reader.varint()],
	});
	return piece;
}

function readTrainer(bytes: Uint8Array) {
	const trainer = { modelType: 1, spacesLast: false, unknown: "<unk>" };
	readMessage(bytes, {
		3: [WireType.Varint, (reader) => trainer.modelType = reader.varint()],
		24: [WireType.Varint, (reader) => trainer.spacesLast = reader.varint() !== 0],
		45: [WireType.LengthDelimited, (reader) => trainer.unknown = reader.string()],
	});
	return trainer;
}

function readNormalizer(bytes: Uint8Array) {
	const normalizer = { charsmap: 0, addsSpace: true, removesSpaces: true, escapesSpaces: true };
	readMessage(bytes, {
		2: [WireType.LengthDelimited, (reader) => normalizer.charsmap = reader.bytes().length],
		3: [WireType.Varint, (reader) => normalizer.addsSpace = reader.varint() !== 0],
		4: [WireType.Varint, (reader) => normalizer.removesSpaces = reader.varint() !== 0],
		5: [WireType.Varint, (reader) => normalizer.escapesSpaces = reader.varint() !== 0],
	});
	return normalizer;
}

/** Reads the known fields of a message by number, and skips the others. */
function readMessage(
	bytes: Uint8Array,
	fields: Record<number, [wireType: number, read: (reader: WireReader) => void]>,
): void {
	const reader = new WireReader(bytes);
	while (!reader.isAtEnd) {
		const [number, wireType] = reader.tag();
		const [expected, read] = fields[number] ?? [];
		if (read && wireType === expected) {
			read(reader);
		} else {
			reader.pass(number, wireType);
		}
	}
}

/**
 * The merges with which a BPE of `transformers` gives the same tokens, in descending order of the
 * merged piece's score. Every split of a piece into two others is a merge; with equal scores, those with
 * longer left parts come first.
 */
export function mergesOf(pieces: Piece[]): [string, string][] {
	const texts = new Set(pieces.map(({ text }) => text));
	const merges: { parts: [string, string]; score: number; lengths: [number, number] }[] = [];
	for (const { text, score } of pieces) {
		const characters = Array.from(text);
		for (let cut = 1; cut < characters.length; cut++) {
			const left = characters.slice(0, cut).join("");
			const right = text.slice(left.length);
			if (texts.has(left) && texts.has(right)) {
				merges.push({ parts: [left, right], score, lengths: [cut, characters.length - cut] });
			}
		}
	}
	merges.sort((a, b) =>
		b.score - a.score || b.lengths[0] - a.lengths[0] || b.lengths[1] - a.lengths[1]
	);
	return merges.map(({ parts }) => parts);
}
