import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { UserError } from "~/base/errors.ts";
import { mergesOf, type Piece, readSentencePiece } from "~/models/tokenizers/sentencepiece.ts";
import { WireReader } from "~/models/tokenizers/wire_reader.ts";
import { denoFile } from "~/storage/deno_folder.ts";
import { fixtureBytes } from "../../fixture.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";

type Write = (writer: BinaryWriter) => void;

/** Pieces with scores as a BPE has them; U+FEFF is text, not a byte order mark. */
const PIECES: Piece[] = [
	{ text: "<unk>", score: 0, type: 2 },
	{ text: "<s>", score: 0, type: 3 },
	{ text: "[INST]", score: 0, type: 4 },
	{ text: "<0x0A>", score: 0, type: 6 },
	{ text: "ab", score: -0, type: 1 },
	{ text: "\ufeff", score: -1.5, type: 1 },
	{ text: "😀", score: -2, type: 5 },
];

const BPE: Write = (trainer) => trainer.tag(3, WireType.Varint).int32(2);
const LIKE_LLAMA: Write = (normalizer) =>
	normalizer.tag(1, WireType.LengthDelimited).string("identity")
		.tag(2, WireType.LengthDelimited).bytes(new Uint8Array())
		.tag(4, WireType.Varint).bool(false);

/** The file of a model; members that are null are left out. */
function modelFile(
	{ pieces = PIECES, trainer = BPE, normalizer = LIKE_LLAMA }: {
		pieces?: Piece[];
		trainer?: Write | null;
		normalizer?: Write | null;
	} = {},
): Uint8Array {
	const file = new BinaryWriter();
	for (const { text, score, type } of pieces) {
		file.tag(1, WireType.LengthDelimited).fork();
		file.tag(1, WireType.LengthDelimited).string(text);
		file.tag(2, WireType.Bit32).float(score);
		if (type !== 1) file.tag(3, WireType.Varint).int32(type);
		file.join();
	}
	[trainer, normalizer].forEach((write, i) => {
		if (!write) return;
		file.tag(2 + i, WireType.LengthDelimited).fork();
		write(file);
		file.join();
	});
	return file.finish();
}

function read(bytes: Uint8Array) {
	using folder = new TemporaryFolder();
	const path = folder.file("tokenizer.model");
	writeFileSync(path, bytes);
	return readSentencePiece(denoFile(path));
}

Deno.test("the pieces of a model are read", () => {
	assert.deepEqual(read(modelFile()), { pieces: PIECES, unknown: "<unk>", addsSpace: true });
});

Deno.test("unknown members are passed over, and the last of the known ones counts", () => {
	const trainer: Write = (writer) => {
		writer.tag(3, WireType.Varint).int32(1).tag(3, WireType.Varint).int32(2);
		writer.tag(99, WireType.Bit64).fixed64(1).tag(98, WireType.StartGroup);
		writer.tag(1, WireType.Varint).int32(5).tag(98, WireType.EndGroup);
		writer.tag(45, WireType.Varint).int32(7); // not of the kind that a piece has
		writer.tag(45, WireType.LengthDelimited).string("??");
	};
	assert.equal(read(modelFile({ trainer })).unknown, "??");
});

Deno.test("a model that SentencePiece trained is read", () => {
	const { pieces } = read(fixtureBytes("tokenizers/tokenizer.model"));
	assert.equal(pieces.length, 700);
	assert.deepEqual(pieces.slice(0, 7).map(({ text, type }) => [text, type]), [
		["<unk>", 2],
		["<s>", 3],
		["</s>", 3],
		["<|end|>", 3],
		["[INST]", 4],
		["->", 4],
		["<0x00>", 6],
	]);
});

Deno.test("merges come by score, then by the lengths of their parts", () => {
	const scores: [string, number][] = [
		...["a", "b", "c", "😀"].map((text): [string, number] => [text, -9]),
		["😀a", -3],
		["bc", -2],
		["ab", -1],
		["cab", -1],
		["abc", -2],
		["a😀a", -2],
		["xyz", 0],
	];
	const pieces = scores.map(([text, score]) => ({ text, score, type: 1 }));
	assert.deepEqual(mergesOf(pieces), [
		["c", "ab"], // of score -1 and a left part of 1, the longest right part
		["a", "b"],
		["ab", "c"], // of score -2, the longest left part
		["a", "bc"],
		["a", "😀a"],
		["b", "c"],
		["😀", "a"],
	]);
});

Deno.test("numbers, texts and what is passed over are as protobuf's own library writes them", () => {
	const numbers = [0, 1, 127, 128, 300, 2 ** 21, 2 ** 28 + 5, 2 ** 31 - 1, -1, -(2 ** 31)];
	const writer = new BinaryWriter();
	for (const number of numbers) writer.tag(1, WireType.Varint).int32(number);
	writer.tag(2, WireType.Bit32).float(-1.5).tag(3, WireType.LengthDelimited).string("\uFEFFä😀");
	const reader = new WireReader(writer.finish());
	for (const number of numbers) assert.deepEqual([reader.tag(), reader.varint()], [[1, 0], number]);
	assert.deepEqual([reader.tag(), reader.float()], [[2, 5], -1.5]);
	assert.deepEqual([reader.tag(), reader.string(), reader.isAtEnd], [[3, 2], "\uFEFFä😀", true]);
});

/** The bytes of a file and what is wrong with it. */
const REFUSED: [name: string, bytes: Uint8Array | string, problem: string][] = [
	["empty", "", "it is cut off; download it again"],
	[
		"of tiktoken",
		"IQ== 0\nIg== 1\nIw== 2\n",
		'it is a vocabulary of tiktoken, not a SentencePiece model; add the model\'s "tokenizer.json"',
	],
	[
		"a pointer",
		"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
		"it is a Git LFS pointer, not the file itself; run `git lfs pull`",
	],
	[
		"a text",
		"Hello world",
		"it is damaged or not a SentencePiece model; download it again",
	],
	["without a trainer", modelFile({ trainer: null }), "it is cut off; download it again"],
	["without a normalizer", modelFile({ normalizer: null }), "it is cut off; download it again"],
	[
		"of type UNIGRAM by default",
		modelFile({ trainer: () => {} }),
		'its type is UNIGRAM, not BPE, which is not supported; add the model\'s "tokenizer.json"',
	],
	[
		"of type CHAR",
		modelFile({ trainer: (writer) => writer.tag(3, WireType.Varint).int32(4) }),
		'its type is CHAR, not BPE, which is not supported; add the model\'s "tokenizer.json"',
	],
	[
		"of an unknown type",
		modelFile({ trainer: (writer) => writer.tag(3, WireType.Varint).int32(9) }),
		'its type is number 9, not BPE, which is not supported; add the model\'s "tokenizer.json"',
	],
	[
		"with spaces last",
		modelFile({ trainer: (writer) => (BPE(writer), writer.tag(24, WireType.Varint).bool(true)) }),
		"it has spaces at the ends of words, which is not supported; " +
		'add the model\'s "tokenizer.json"',
	],
	[
		"that normalizes",
		modelFile({
			normalizer: (writer) => {
				LIKE_LLAMA(writer);
				writer.tag(2, WireType.LengthDelimited).bytes(new Uint8Array(8));
			},
		}),
		'it normalizes characters, which is not supported; add the model\'s "tokenizer.json"',
	],
	[
		"that removes spaces by default",
		modelFile({ normalizer: () => {} }),
		'it removes repeated spaces, which is not supported; add the model\'s "tokenizer.json"',
	],
	[
		"that keeps spaces",
		modelFile({
			normalizer: (writer) => (LIKE_LLAMA(writer), writer.tag(5, WireType.Varint).bool(false)),
		}),
		'it keeps spaces as they are, which is not supported; add the model\'s "tokenizer.json"',
	],
	[
		"with a piece without a text",
		modelFile({ pieces: [{ text: "", score: 0, type: 1 }] }),
		"it is damaged: a piece has no text or no score; download it again",
	],
	[
		"with a score that is no number",
		modelFile({ pieces: [{ text: "a", score: NaN, type: 1 }] }),
		"it is damaged: a piece has no text or no score; download it again",
	],
];

for (const [name, bytes, problem] of REFUSED) {
	Deno.test(`a model is refused: ${name}`, () => {
		using folder = new TemporaryFolder();
		const path = folder.file("tokenizer.model");
		writeFileSync(path, bytes);
		assert.throws(
			() => readSentencePiece(denoFile(path)),
			new UserError(`Cannot read "${path}": ${problem}`),
		);
	});
}

Deno.test("a model that is not there is named", () => {
	using folder = new TemporaryFolder();
	const path = folder.file("tokenizer.model");
	assert.throws(
		() => readSentencePiece(denoFile(path)),
		new UserError(`Cannot read "${path}": no such file or folder`),
	);
});

Deno.test("every model that is cut off is refused", () => {
	const file = modelFile();
	for (let length = 0; length < file.length; length++) {
		assert.throws(() => read(file.subarray(0, length)), UserError, `${length} bytes`);
	}
});

Deno.test("no changed byte of a model leads to another error", () => {
	const file = modelFile();
	for (let place = 0; place < file.length; place++) {
		for (const value of [0, 1, 0x7f, 0x80, 0xff, file[place] ^ 1]) {
			const changed = Uint8Array.from(file);
			changed[place] = value;
			try {
				read(changed);
			} catch (error) {
				assert.ok(error instanceof UserError, `byte ${place} is ${value}: ${error}`);
			}
		}
	}
});

Deno.test("a model that SentencePiece trained is refused when cut off in its pieces", () => {
	const file = fixtureBytes("tokenizers/tokenizer.model");
	for (let length = 1; length < file.length - 400; length += 97) {
		assert.throws(() => read(file.subarray(0, length)), UserError, `${length} bytes`);
	}
});
