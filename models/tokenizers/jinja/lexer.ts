import { TemplateError } from "./limits.ts";
import { parseInteger } from "./numbers.ts";
import { SPACE } from "./python.ts";

/** A token of a template. Text between tags is "data"; the end of the template is "end". */
export interface Token {
	type: "data" | "{{" | "}}" | "{%" | "%}" | "name" | "string" | "number" | "operator" | "end";
	/** What is written there; of a string its content. */
	text: string;
	/** The value of a number. */
	number?: bigint | number;
	line: number;
}

const BLANKS = `[${SPACE}]*`;
const RAW = new RegExp(`\\{%([-+]?)${BLANKS}raw${BLANKS}(?:-%\\}${BLANKS}|%\\})`, "y");
const END_RAW = new RegExp(
	`\\{%([-+]?)${BLANKS}endraw${BLANKS}(?:\\+%\\}|-%\\}${BLANKS}|%\\}\n?)`,
	"g",
);
const END_COMMENT = new RegExp(`\\+#\\}|-#\\}${BLANKS}|#\\}\n?`, "g");
const END_BLOCK = new RegExp(`\\+%\\}|-%\\}${BLANKS}|%\\}\n?`, "y");
const END_VARIABLE = new RegExp(`-\\}\\}${BLANKS}|\\}\\}`, "y");
const BLANK = new RegExp(`[${SPACE}]+`, "y");
const TRAILING = new RegExp(`^[${SPACE}]$`);
const FLOAT = /(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy;
const INTEGER = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy;
const NAME = /[\p{L}\p{M}\p{N}_]+/uy;
const STRING = /'((?:[^'\\]|\\[^])*)'|"((?:[^"\\]|\\[^])*)"/y;
const OPERATOR = /\/\/|\*\*|[=!<>]=|[-+*/%~[\](){}<>=.|,:;]/y;
const CLOSES: Record<string, string> = { "(": ")", "[": "]", "{": "}" };

/**
 * The tokens of a template, with white space around tags taken away as by Jinja with `trim_blocks` and
 * `lstrip_blocks`.
 *
 * @param source The template; its line ends are LF.
 * @throws {TemplateError}
 */
export function tokensOf(source: string): Token[] {
	const tokens: Token[] = [];
	let at = 0;
	let line = 1;
	let isLineStart = true; // whether what was read last ends with a line
	const fail = (message: string): never => {
		throw new TemplateError(message, line);
	};
	const pass = (text: string) => {
		at += text.length;
		for (let i = text.indexOf("\n"); i >= 0; i = text.indexOf("\n", i + 1)) line++;
		isLineStart = text.endsWith("\n");
	};
	const match = (pattern: RegExp): RegExpExecArray | null => {
		pattern.lastIndex = at;
		return pattern.exec(source);
	};
	/** Adds text before a tag with a sign, as far as the tag leaves it. */
	const data = (text: string, sign: string, isVariable = false) => {
		const isFirst = isLineStart;
		let kept = text;
		if (sign === "-") kept = withoutSpaceAtEnd(text);
		else if (sign !== "+" && !isVariable) {
			const start = text.lastIndexOf("\n") + 1;
			const blank = withoutSpaceAtEnd(text);
			if ((start > 0 || isFirst) && blank.length <= start) kept = text.slice(0, start);
		}
		if (kept !== "") tokens.push({ type: "data", text: kept, line });
		pass(text);
	};

	while (at < source.length) {
		const start = nextTag(source, at);
		if (start < 0) {
			tokens.push({ type: "data", text: source.slice(at), line });
			break;
		}
		const kind = source[start + 1];
		const text = source.slice(at, start);
		const sign = "-+".includes(source[start + 2] ?? " ") ? source[start + 2] : "";
		RAW.lastIndex = start;
		const raw = RAW.exec(source);
		if (raw) {
			data(text, raw[1]);
			pass(raw[0]);
			const end = match(END_RAW) ?? fail("a raw block has no endraw");
			data(source.slice(at, end.index), end[1]);
			pass(end[0]);
			continue;
		}
		data(text, sign, kind === "{");
		pass(source.slice(at, at + 2 + sign.length));
		if (kind === "#") {
			const end = match(END_COMMENT) ?? fail("a comment has no end");
			pass(source.slice(at, end.index + end[0].length));
			continue;
		}
		readTag(kind === "%");
	}
	tokens.push({ type: "end", text: "the end of the template", line });
	return tokens;

	function readTag(isBlock: boolean): void {
		tokens.push({ type: isBlock ? "{%" : "{{", text: isBlock ? "{%" : "{{", line });
		const open: string[] = [];
		for (;;) {
			const end = open.length === 0 ? match(isBlock ? END_BLOCK : END_VARIABLE) : null;
			if (end) {
				tokens.push({ type: isBlock ? "%}" : "}}", text: end[0].trim(), line });
				return pass(end[0]);
			}
			if (at >= source.length) fail(`a tag has no end`);
			const blank = match(BLANK);
			if (blank) pass(blank[0]);
			else readToken(open);
		}
	}

	function readToken(open: string[]): void {
		const add = (type: Token["type"], [whole]: RegExpExecArray, more: Partial<Token> = {}) => {
			tokens.push({ type, text: whole, line, ...more });
			pass(whole);
		};
		let found = match(FLOAT);
		if (found) return add("number", found, { number: Number(found[0].replaceAll("_", "")) });
		found = match(INTEGER);
		if (found) {
			const number = parseInteger(found[0], 0);
			return add("number", found, { number: number ?? fail("an integer is too long") });
		}
		found = match(NAME);
		if (found) return add("name", found);
		found = match(STRING);
		if (found) return add("string", found, { text: unescaped(found[1] ?? found[2], fail) });
		found = match(OPERATOR) ??
			fail(`unexpected character "${String.fromCodePoint(source.codePointAt(at)!)}"`);
		const [operator] = found;
		if (CLOSES[operator]) open.push(CLOSES[operator]);
		else if (")]}".includes(operator)) {
			const expected = open.pop();
			if (expected !== operator) {
				fail(`unexpected "${operator}"${expected ? `, expected "${expected}"` : ""}`);
			}
		}
		add("operator", found);
	}
}

function nextTag(source: string, from: number): number {
	for (let at = source.indexOf("{", from); at >= 0; at = source.indexOf("{", at + 1)) {
		if ("{%#".includes(source[at + 1] ?? " ")) return at;
	}
	return -1;
}

/** A text without white space at its end; a pattern would take quadratic time. */
function withoutSpaceAtEnd(text: string): string {
	let end = text.length;
	while (end > 0 && TRAILING.test(text[end - 1])) end--;
	return text.slice(0, end);
}

const SIMPLE: Record<string, string> = {
	"\n": "",
	"\\": "\\",
	"'": "'",
	'"': '"',
	a: "\x07",
	b: "\b",
	f: "\f",
	n: "\n",
	r: "\r",
	t: "\t",
	v: "\v",
};

/** The content of a string with its escapes read as in Python; unknown ones stay. */
function unescaped(text: string, fail: (message: string) => never): string {
	const pattern = /\\(?:([0-7]{1,3})|x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([^]))/g;
	return text.replaceAll(pattern, (whole, octal, byte, unit, point, simple) => {
		if (octal !== undefined) return String.fromCharCode(parseInt(octal, 8));
		const hex = byte ?? unit ?? point;
		if (hex !== undefined) {
			const code = parseInt(hex, 16);
			return code > 0x10ffff ? fail(`"${whole}" is no character`) : String.fromCodePoint(code);
		}
		if ("xuUN".includes(simple)) fail(`"${whole}" is no escape`);
		return Object.hasOwn(SIMPLE, simple) ? SIMPLE[simple] : whole;
	});
}
