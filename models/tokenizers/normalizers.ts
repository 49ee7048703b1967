import { byteText, isSpace, trimEnd, trimStart } from "./characters.ts";
import { Members } from "./members.ts";
import { patternOf } from "./patterns.ts";
import { normalized } from "./unicode_forms.ts";

/** A function that changes a text before it is cut into words. */
export type Normalizer = (text: string) => string;

/**
 * The normalizer of a `tokenizer.json`; null is none.
 *
 * @param path Its place in messages.
 * @throws {Error} If it, or an option of it, is not supported.
 */
export function normalizerOf(path: string, json: unknown): Normalizer {
	if (json === null || json === undefined) return (text) => text;
	const members = new Members(path, json);
	const normalizer = build(members);
	members.end();
	return normalizer;
}

function build(members: Members): Normalizer {
	switch (members.type) {
		case "Sequence": {
			const steps = members.list("normalizers")
				.map((json, i) => normalizerOf(`${members.path}.normalizers[${i}]`, json));
			return (text) => steps.reduce((text, step) => step(text), text);
		}
		case "NFC":
		case "NFD":
		case "NFKC":
		case "NFKD": {
			const { type } = members;
			return (text) => normalized(text, type);
		}
		case "Lowercase":
			return lowercase;
		case "Prepend": {
			const start = members.text("prepend");
			return (text) => text === "" ? text : start + text;
		}
		case "Replace": {
			const pattern = patternOf(members);
			const content = members.text("content");
			return (text) => text.replaceAll(pattern, () => content);
		}
		case "Strip": {
			const left = members.flag("strip_left");
			const right = members.flag("strip_right");
			return (text) => {
				const rest = left ? trimStart(text) : text;
				return right ? trimEnd(rest) : rest;
			};
		}
		case "StripAccents":
			return (text) => text.replace(/\p{M}/gu, "");
		case "ByteLevel":
			return byteText;
		case "BertNormalizer":
			return bertNormalizer(members);
		default:
			throw new Error(`"${members.path}" is "${members.type}", which is not supported`);
	}
}

/** Lower case of each character by itself: a sigma at the end of a word is one as any other. */
function lowercase(text: string): string {
	return /^[\0-\x7f]*$/.test(text)
		? text.toLowerCase()
		: Array.from(text, (character) => character.toLowerCase()).join("");
}

function bertNormalizer(members: Members): Normalizer {
	const cleans = members.flag("clean_text", true);
	const spaces = members.flag("handle_chinese_chars", true);
	const lowers = members.flag("lowercase", true);
	const strips = members.flag("strip_accents", lowers);
	return (text) => {
		if (cleans) text = cleaned(text);
		if (spaces) {
			text = Array.from(text, (c) => isIdeograph(c.codePointAt(0)!) ? ` ${c} ` : c).join("");
		}
		if (strips) text = text.normalize("NFD").replace(/\p{Mn}/gu, "");
		return lowers ? lowercase(text) : text;
	};
}

/** Without control characters, and with a space for each white space. */
function cleaned(text: string): string {
	let result = "";
	for (const character of text) {
		if (/[\t\n\r]/.test(character)) result += " ";
		else if (character === "\ufffd" || /[\p{Cc}\p{Cf}\p{Co}\p{Cs}]/u.test(character)) continue;
		else result += isSpace(character) ? " " : character;
	}
	return result;
}

/** The ranges of CJK characters as the Rust library has them. */
const IDEOGRAPHS = [
	[0x4e00, 0x9fff],
	[0x3400, 0x4dbf],
	[0x20000, 0x2a6df],
	[0x2a700, 0x2b73f],
	[0x2b740, 0x2b81f],
	[0x2b920, 0x2ceaf],
	[0xf900, 0xfaff],
	[0x2f800, 0x2fa1f],
];

function isIdeograph(code: number): boolean {
	return IDEOGRAPHS.some(([first, last]) => code >= first && code <= last);
}
