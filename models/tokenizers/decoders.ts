import { BYTES_OF } from "./characters.ts";
import { Members } from "./members.ts";
import { patternOf } from "./patterns.ts";

/** A function that turns tokens into parts of a text. */
export type Decoder = (tokens: string[]) => string[];

/** U+FEFF is a character as any other. */
const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });
const ENCODER = new TextEncoder();

/**
 * The decoder of a `tokenizer.json`; null joins tokens with spaces.
 *
 * @param path Its place in messages.
 * @throws {Error} If it, or an option of it, is not supported.
 */
export function decoderOf(path: string, json: unknown): Decoder {
	if (json === null || json === undefined) return (tokens) => [tokens.join(" ")];
	const members = new Members(path, json);
	const decoder = build(members);
	members.end();
	return decoder;
}

/**
 * The bytes of a token that need not be whole characters, where its decoder has such tokens.
 *
 * @param json A decoder that {@link decoderOf} takes.
 */
export function rawBytes(json: unknown, token: string): Uint8Array | undefined {
	const { type, decoders } = Object(json) as { type?: unknown; decoders?: unknown[] };
	if (type === "Sequence") {
		return decoders!.map((inner) => rawBytes(inner, token)).find((bytes) => bytes !== undefined);
	}
	if (type === "ByteLevel") return new Uint8Array(levelBytes(token));
	const byte = type === "ByteFallback" ? fallbackByte(token) : undefined;
	return byte === undefined ? undefined : Uint8Array.of(byte);
}

function build(members: Members): Decoder {
	switch (members.type) {
		case "Sequence": {
			const steps = members.list("decoders")
				.map((json, i) => decoderOf(`${members.path}.decoders[${i}]`, json));
			return (tokens) => steps.reduce((tokens, step) => step(tokens), tokens);
		}
		case "BPEDecoder": {
			const suffix = members.text("suffix", "</w>");
			return (tokens) =>
				tokens.map((token, i) => token.replaceAll(suffix, i === tokens.length - 1 ? "" : " "));
		}
		case "ByteFallback":
			return byteFallback;
		case "ByteLevel":
			members.ignore("add_prefix_space", "trim_offsets", "use_regex");
			return byteLevel;
		case "Fuse":
			return (tokens) => [tokens.join("")];
		case "Metaspace": {
			members.ignore("str_rep", "split");
			const replacement = members.text("replacement", "▁");
			const scheme = members.choice("prepend_scheme", ["always", "first", "never"], "always");
			const strips = scheme !== "never" && members.value("add_prefix_space") !== false;
			return (tokens) =>
				tokens.map((token, i) => token.replaceAll(replacement, i === 0 && strips ? "" : " "));
		}
		case "Replace": {
			const pattern = patternOf(members);
			const content = members.text("content");
			return (tokens) => tokens.map((token) => token.replaceAll(pattern, () => content));
		}
		case "Strip":
			return strip(members);
		case "WordPiece":
			return wordPiece(members);
		default:
			throw new Error(`"${members.path}" is "${members.type}", which is not supported`);
	}
}

function byteLevel(tokens: string[]): string[] {
	const bytes: number[] = [];
	for (const token of tokens) for (const byte of levelBytes(token)) bytes.push(byte);
	return [UTF8.decode(new Uint8Array(bytes))];
}

/** The bytes of GPT-2's characters; a token with others stands for itself. */
function levelBytes(token: string): Iterable<number> {
	const own = Array.from(token, (character) => BYTES_OF.get(character));
	return own.includes(undefined) ? ENCODER.encode(token) : own as number[];
}

/** The byte of a token such as "<0x41>". */
function fallbackByte(token: string): number | undefined {
	const [, byte] = /^<0x([0-9A-Fa-f]{2})>$/.exec(token) ?? [];
	return byte === undefined ? undefined : parseInt(byte, 16);
}

/**
 * Joins tokens such as "<0x41>". Of bytes that are no UTF-8, the characters among them stay, so that a text
 * which comes token by token never takes back what it has given; the Rust library gives U+FFFD for each.
 */
function byteFallback(tokens: string[]): string[] {
	const parts: string[] = [];
	let bytes: number[] = [];
	const flush = () => {
		if (bytes.length === 0) return;
		parts.push(UTF8.decode(new Uint8Array(bytes)));
		bytes = [];
	};
	for (const token of tokens) {
		const byte = fallbackByte(token);
		if (byte !== undefined) bytes.push(byte);
		else {
			flush();
			parts.push(token);
		}
	}
	flush();
	return parts;
}

/** Takes up to some times a character from both ends of each token. */
function strip(members: Members): Decoder {
	const content = members.text("content", " ");
	const start = members.count("start");
	const stop = members.count("stop");
	return (tokens) =>
		tokens.map((token) => {
			const characters = Array.from(token);
			let first = 0;
			while (first < Math.min(start, characters.length) && characters[first] === content) first++;
			let end = characters.length;
			const least = Math.max(0, characters.length - stop);
			while (end > least && characters[end - 1] === content) end--;
			return first < end ? characters.slice(first, end).join("") : "";
		});
}

/** What WordPiece's clean-up replaces, in this order. */
const CLEANED = [
	[" .", "."],
	[" ?", "?"],
	[" !", "!"],
	[" ,", ","],
	[" ' ", "'"],
	[" n't", "n't"],
	[" 'm", "'m"],
	[" do not", " don't"],
	[" 's", "'s"],
	[" 've", "'ve"],
	[" 're", "'re"],
];

function wordPiece(members: Members): Decoder {
	const prefix = members.text("prefix", "##");
	const cleans = members.flag("cleanup", true);
	return (tokens) =>
		tokens.map((token, i) => {
			const joined = i === 0
				? token
				: token.startsWith(prefix)
				? token.slice(prefix.length)
				: ` ${token}`;
			return cleans
				? CLEANED.reduce((text, [from, to]) => text.replaceAll(from, to), joined)
				: joined;
		});
}
