// Each component of a tokenizer.json against the Rust library `tokenizers`. And what is not implemented is refused by name.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { fixture } from "../../fixture.ts";
import { assertHashes } from "../../golden.ts";
import { decoderOf } from "~/models/tokenizers/decoders.ts";
import { normalizerOf } from "~/models/tokenizers/normalizers.ts";
import { preTokenizerOf } from "~/models/tokenizers/pre_tokenizers.ts";
import { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";
import { MemoryFolder } from "~/storage/memory_folder.ts";

// deno-lint-ignore no-explicit-any -- JSON of many forms
type Json = any;

/** Components with {@link assertHashes hashes} of the first four digits of hashes of what they give. */
type Cases = [component: Json, hashes: string][];

const FIXTURE:
	& { texts: string[] }
	& Record<
		"pre_tokenizers" | "normalizers" | "decoders" | "tokenizers",
		Cases
	> = fixture("tokenizers/components");
const { texts } = FIXTURE;

/** Checks what a component gives of all texts. */
function check([component, hashes]: Cases[number], give: (text: string) => unknown): void {
	const found = texts.map((text) => JSON.stringify(give(text)));
	const digits = found.map((text) => createHash("sha256").update(text).digest("hex").slice(0, 4));
	assertHashes(digits, hashes, 16, (first, end) => {
		const given = texts.slice(first, end).map((text, i) => [text, found[first + i]]);
		return `${JSON.stringify(component).slice(0, 400)} should not give ${JSON.stringify(given)}`;
	});
}

/** The parts of a text between its spaces, every third one as its bytes, as the fixture has them. */
function tokensOf(text: string): string[] {
	return text.split(" ").filter((word) => word !== "").flatMap((word, i) => {
		if (i % 3 !== 2) return [(i % 3 === 1 ? "##" : "") + word];
		const hex = (byte: number) => byte.toString(16).toUpperCase().padStart(2, "0");
		return Array.from(new TextEncoder().encode(word), (byte) => `<0x${hex(byte)}>`);
	});
}

function load(json: unknown): TextTokenizer {
	const bytes = new TextEncoder().encode(JSON.stringify(json));
	return TextTokenizer.load(new MemoryFolder(new Map([["tokenizer.json", bytes]])));
}

Deno.test("pre-tokenizers cut texts as the Rust library does", () => {
	for (const [json, hashes] of FIXTURE.pre_tokenizers) {
		const preTokenize = preTokenizerOf("pre_tokenizer", json);
		check(
			[json, hashes],
			(text) =>
				preTokenize([{ text, isFirst: true }]).map((piece) => piece.text)
					.filter((text) => text !== ""),
		);
	}
});

Deno.test("normalizers change texts as the Rust library does", () => {
	for (const [json, hashes] of FIXTURE.normalizers) {
		check([json, hashes], normalizerOf("normalizer", json));
	}
});

Deno.test("decoders join tokens as the Rust library does", () => {
	for (const [json, hashes] of FIXTURE.decoders) {
		const decode = decoderOf("decoder", json);
		check([json, hashes], (text) => decode(tokensOf(text)).join(""));
	}
});

Deno.test("models, added tokens and templates give the ids and texts of the Rust library", () => {
	for (const [json, hashes] of FIXTURE.tokenizers) {
		const tokenizer = load(json);
		check([json, hashes], (text) => {
			const ids = tokenizer.encode(text);
			return [ids, tokenizer.decode(ids, { specialTokens: true }), tokenizer.decode(ids)];
		});
	}
});

/** All objects with a "type" in a JSON value, with their places. */
function componentsIn(json: Json): Json[] {
	if (typeof json !== "object" || json === null) return [];
	const inner = Object.values(json).flatMap(componentsIn);
	return Array.isArray(json) || typeof json.type !== "string" ? inner : [json, ...inner];
}

const WORDS = { type: "WordLevel", unk_token: "a", vocab: { a: 0 } };

/** A whole tokenizer with one component. */
function withComponent(member: string, component: Json): Json {
	return { model: WORDS, post_processor: null, [member]: structuredClone(component) };
}

Deno.test("no member of any component is passed over", () => {
	const wholes = [
		...FIXTURE.pre_tokenizers.map(([json]) => withComponent("pre_tokenizer", json)),
		...FIXTURE.normalizers.map(([json]) => withComponent("normalizer", json)),
		...FIXTURE.decoders.map(([json]) => withComponent("decoder", json)),
		...FIXTURE.tokenizers.map(([json]) => json),
	];
	for (const whole of wholes) {
		load(whole);
		const copy = structuredClone(whole);
		for (const component of [copy, ...componentsIn(copy), ...(copy.added_tokens ?? [])]) {
			component.newfangled = 7;
			assert.throws(() => load(copy), {
				name: "UserError",
				message:
					/^Cannot open the tokenizer of "memory": ".+" has "newfangled": 7, which is not supported$/,
			}, JSON.stringify(component).slice(0, 200));
			delete component.newfangled;
		}
	}
});

const UNKNOWN: Record<string, string[]> = {
	normalizer: ["Precompiled", "Nmt", "Visual"],
	pre_tokenizer: ["UnicodeScripts", "Visual"],
	decoder: ["CTC", "Visual"],
	post_processor: ["Visual"],
	model: ["Visual"],
};

for (const [member, types] of Object.entries(UNKNOWN)) {
	Deno.test(`a ${member} that is not implemented is refused by name`, () => {
		for (const type of types) {
			assert.throws(() => load(withComponent(member, { type })), {
				name: "UserError",
				message: `Cannot open the tokenizer of "memory": "${member}" is "${type}", which is not ` +
					"supported",
			});
		}
	});
}

/** Values of other kinds than the right one, which is none of them. */
const OTHERS: Json[] = [5, "text", true, [], {}, [1], null, 1.5, -1];

Deno.test("a member of another kind is refused, or has no effect", () => {
	for (const [whole] of FIXTURE.tokenizers) {
		for (const [member, value] of Object.entries<Json>(whole)) {
			if (typeof value !== "object" || value === null) continue;
			for (const name of Object.keys(value)) {
				for (const other of OTHERS) {
					const copy = structuredClone(whole);
					copy[member][name] = other;
					let tokenizer: TextTokenizer;
					try {
						tokenizer = load(copy);
					} catch (error) {
						assert.equal((error as Error).name, "UserError", `${member}.${name} = ${other}`);
						assert.match((error as Error).message, /^Cannot open the tokenizer of "memory": /);
						continue;
					}
					const ids = texts.slice(0, 30).flatMap((text) => tokenizer.encode(text));
					assert.ok(ids.every(Number.isSafeInteger), `${member}.${name} = ${other}`);
				}
			}
		}
	}
});

Deno.test("vocabularies that are inconsistent are refused", () => {
	const bpe = { type: "BPE", vocab: { a: 0, b: 1, ab: 2 }, merges: [["a", "b"]] };
	const unigram = { type: "Unigram", unk_id: 0, vocab: [["<unk>", 0], ["a", -1]] };
	const cases: [Json, RegExp][] = [
		[{ ...bpe, vocab: 5 }, /"model\.vocab" is 5, not a map from tokens to ids$/],
		[{ ...bpe, vocab: ["a"] }, /"model\.vocab" is \["a"\], not a map from tokens to ids$/],
		[{ ...bpe, vocab: { a: "0" } }, /"model\.vocab\["a"\]" is "0", not a token id$/],
		[{ ...bpe, vocab: { a: -1 } }, /"model\.vocab\["a"\]" is -1, not a token id$/],
		[{ ...bpe, vocab: { a: 0, b: 1 } }, /"model\.merges\[0\]" .* it lacks "ab"$/],
		[{ ...bpe, merges: ["a b c"] }, /"model\.merges\[0\]" is "a b c", not two tokens$/],
		[{ ...bpe, merges: {} }, /"model\.merges" is \{\}, not a list$/],
		[{ ...bpe, unk_token: "<unk>" }, /"model\.unk_token" is "<unk>", not a token of the vocab/],
		[{ ...bpe, dropout: 0.1 }, /"model\.dropout" is 0\.1, not 0$/],
		[{ ...unigram, unk_id: 2 }, /"model\.unk_id" is 2, not an id of the vocabulary$/],
		[{ ...unigram, unk_id: null }, /"model\.unk_id" is missing, not an id of the vocabulary$/],
		[{ ...unigram, vocab: [["a", "b"]] }, /"model\.vocab\[0\]" is \["a","b"\], not a token with/],
		[{ ...WORDS, unk_token: "b" }, /"model\.unk_token" is "b", not a token of the vocabulary$/],
		[{ type: "WordLevel", vocab: { a: 0 } }, /"model\.unk_token" is missing, not a token of/],
		[{ type: "WordPiece", vocab: { a: 0 } }, /"model\.unk_token" is missing, not a token of/],
	];
	for (const [model, message] of cases) {
		assert.throws(() => load({ model, post_processor: null }), { name: "UserError", message });
	}
});

Deno.test("a pattern that has no equivalent is refused", () => {
	for (const Regex of ["(", "[a", "(?(1)a)", "\\K"]) {
		const split = { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false };
		assert.throws(() => load(withComponent("pre_tokenizer", split)), { name: "UserError" }, Regex);
	}
});
