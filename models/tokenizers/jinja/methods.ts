import { formatText } from "./formats.ts";
import { LIMITS, TemplateError } from "./limits.ts";
import { type Python, SPACE } from "./python.ts";
import {
	type Arguments,
	type Bind,
	binder,
	Dict,
	given,
	Items,
	NONE,
	Thing,
	Tuple,
} from "./values.ts";
import { Undefined, type Value } from "./values.ts";

type Values = (Value | undefined)[];

/** A method: how its arguments are bound, and what it does. */
interface Method<Self> {
	bind?: Bind;
	run: (python: Python, self: Self, values: Values, args: Arguments) => Value;
}

function method<Self>(
	signature: string,
	run: (python: Python, self: Self, values: Values) => Value,
): Method<Self> {
	return { bind: binder(signature), run };
}

/** A method of texts without arguments. */
function plain(run: (text: string) => Value): Method<string> {
	return method("", (_, text) => run(text));
}

const LEADING = new RegExp(`^[${SPACE}]+`);
// deno-lint-ignore no-control-regex -- Python breaks lines at some of them
const BREAKS = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/g;
const DIGIT = /^[\p{Nd}\u00b2\u00b3\u00b9\u2070-\u2079\u2080-\u2089]+$/u;

function isSpace(unit: string): boolean {
	return unit === " " || unit === "\n" || LEADING.test(unit);
}

/** `text.strip(characters)` at the start, the end or both. */
export function strip(
	text: string,
	characters: Value | undefined,
	start = true,
	end = true,
): string {
	let [from, to] = [0, text.length];
	if (typeof characters !== "string") {
		if (given(characters) !== undefined) throw new TemplateError("strip() needs characters");
		if (start) from = LEADING.exec(text)?.[0].length ?? 0;
		while (end && from < to && isSpace(text[to - 1])) to--;
		return text.slice(from, to);
	}
	const set = new Set(characters);
	while (start && from < to) {
		const character = String.fromCodePoint(text.codePointAt(from)!);
		if (!set.has(character)) break;
		from += character.length;
	}
	while (end && from < to) {
		const isPair = to - from > 1 && /[\ud800-\udbff][\udc00-\udfff]/.test(text.slice(to - 2, to));
		const size = isPair ? 2 : 1;
		if (!set.has(text.slice(to - size, to))) break;
		to -= size;
	}
	return text.slice(from, to);
}

/** `text.capitalize()`, of one word `text.title()`. */
export function capitalized(text: string): string {
	const [first = ""] = text;
	const [upper, ...more] = first.toUpperCase();
	return (upper ?? "") + more.join("").toLowerCase() + text.slice(first.length).toLowerCase();
}

/** `text.islower()`. */
export function isLower(text: string): boolean {
	return /\p{Lowercase}/u.test(text) && !/\p{Uppercase}|\p{Lt}/u.test(text);
}

/** `text.isupper()`. */
export function isUpper(text: string): boolean {
	return /\p{Uppercase}/u.test(text) && !/\p{Lowercase}|\p{Lt}/u.test(text);
}

/** `text.splitlines(keepends)`. */
export function* splitLines(text: string, keepsEnds = false): Generator<string> {
	let start = 0;
	for (const { index, 0: end } of text.matchAll(BREAKS)) {
		yield text.slice(start, keepsEnds ? index + end.length : index);
		start = index + end.length;
	}
	if (start < text.length) yield text.slice(start);
}

/** `text.split()` and `text.rsplit()`. */
function split(python: Python, text: string, [by, most]: Values, fromRight: boolean): Value {
	const limit = python.integer(most, -1);
	const separator = given(by);
	if (separator === "") throw new TemplateError("empty separator");
	const parts: string[] = [];
	const count = limit < 0 ? Infinity : limit;
	if (separator !== undefined) {
		const all = text.split(python.string(separator), LIMITS.items + 1);
		python.budget.items(all.length);
		const between = separator as string;
		const kept = Math.min(all.length - 1, count);
		const rest = all.length - kept;
		if (fromRight) parts.push(all.slice(0, rest).join(between), ...all.slice(rest));
		else parts.push(...all.slice(0, kept), all.slice(kept).join(between));
	} else {
		const words = python.budget.collect(text.matchAll(new RegExp(`[^${SPACE}]+`, "g")));
		const { length } = words;
		if (length <= count) { for (const [word] of words) parts.push(word); }
		else if (fromRight) {
			const last = words[length - 1 - count];
			parts.push(text.slice(0, last.index + last[0].length));
			for (const [word] of words.slice(length - count)) parts.push(word);
		} else {
			for (const [word] of words.slice(0, count)) parts.push(word);
			parts.push(text.slice(words[count].index));
		}
	}
	return parts;
}

/** The place of a text in another between two places, in code points; -1 if it is not there. */
function find(python: Python, text: string, [sought, start, end]: Values, last = false): number {
	const part = python.string(sought);
	const length = python.points(text);
	const [from, to] = range(python, length, start, end);
	if (from > to) return -1;
	const within = python.part(text, from, to);
	const place = last ? within.lastIndexOf(part) : within.indexOf(part);
	return place < 0 ? -1 : from + python.points(within.slice(0, place));
}

/** Start and end as places from the left, as a slice takes them; the start may be after the end. */
function range(
	python: Python,
	length: number,
	start: Value | undefined,
	end: Value | undefined,
): [start: number, end: number] {
	const place = (value: Value | undefined, otherwise: number) => {
		const index = python.integer(given(value), otherwise);
		return Math.max(0, index < 0 ? index + length : index);
	};
	return [place(start, 0), Math.min(length, place(end, length))];
}

function found(place: number): bigint {
	if (place < 0) throw new TemplateError("substring not found");
	return BigInt(place);
}

function begins(
	python: Python,
	text: string,
	[parts, start, end]: Values,
	atEnd: boolean,
): boolean {
	const [from, to] = range(python, python.points(text), start, end);
	if (from > to) return false;
	const part = start === undefined ? text : python.part(text, from, to);
	return (parts instanceof Tuple ? parts.items : [parts]).some((each) =>
		atEnd ? part.endsWith(python.string(each)) : part.startsWith(python.string(each))
	);
}

/** `text.replace(old, new, count)`. */
export function replace(python: Python, text: string, [old, by, most]: Values): string {
	const [from, to] = [python.string(old), python.string(by)];
	const wanted = python.integer(given(most), -1);
	const limit = wanted < 0 ? Infinity : wanted;
	if (limit === 0) return text;
	const all = occurrences(python, text, from);
	const count = Math.min(limit, all);
	python.budget.characters(text.length + count * Math.max(0, to.length - from.length));
	const pattern = from === "" ? /(?:)/gu : from;
	if (count === all) return text.replaceAll(pattern, to.replaceAll("$", "$$$$"));
	let left = count;
	return text.replaceAll(pattern, (part) => left-- > 0 ? to : part);
}

/** How often a text contains another, without overlaps; an empty one is around each character. */
function occurrences(python: Python, text: string, part: string): number {
	let count = 0;
	if (part === "") count = python.points(text) + 1;
	else {for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) {
			count++;
		}}
	python.budget.step(count);
	return count;
}

/** A text filled up to a width: the part before it of what is lacking is `share`. */
export function filled(
	python: Python,
	text: string,
	[width, fill]: Values,
	share: (lack: number, width: number) => number,
): string {
	const wanted = python.integer(width);
	const lack = wanted - python.points(text);
	const by = python.string(fill, " ");
	if (Array.from(by).length !== 1) {
		throw new TemplateError("the fill character must be exactly one character long");
	}
	if (lack <= 0) return text;
	python.budget.characters(text.length + lack * by.length);
	const before = share(lack, wanted);
	return by.repeat(before) + text + by.repeat(lack - before);
}

/** How much of what is lacking `center()` puts before the text. */
export const CENTER = (lack: number, width: number) => (lack >> 1) + (lack & width & 1);

function partition(
	python: Python,
	text: string,
	separator: Value | undefined,
	last: boolean,
): Value {
	const by = python.string(separator);
	if (by === "") throw new TemplateError("empty separator");
	const place = last ? text.lastIndexOf(by) : text.indexOf(by);
	if (place < 0) return new Tuple(last ? ["", "", text] : [text, "", ""]);
	return new Tuple([text.slice(0, place), by, text.slice(place + by.length)]);
}

const OF_TEXTS: Record<string, Method<string>> = {
	capitalize: plain(capitalized),
	center: method(
		"width, fillchar=",
		(python, text, values) => filled(python, text, values, CENTER),
	),
	count: method("sub, start=, end=", (python, text, [sub, start, end]) => {
		const part = python.string(sub);
		const [from, to] = range(python, python.points(text), start, end);
		if (from > to) return 0n;
		return BigInt(occurrences(python, python.part(text, from, to), part));
	}),
	endswith: method("suffix, start=, end=", (py, text, values) => begins(py, text, values, true)),
	find: method("sub, start=, end=", (python, text, values) => BigInt(find(python, text, values))),
	format: {
		run: (python, text, _, args) => formatText(python, text, args, { getAttribute, getItem }),
	},
	index: method("sub, start=, end=", (python, text, values) => found(find(python, text, values))),
	isalnum: plain((text) => /^[\p{L}\p{N}]+$/u.test(text)),
	isalpha: plain((text) => /^\p{L}+$/u.test(text)),
	isascii: plain((text) => /^[\0-\x7f]*$/.test(text)),
	isdecimal: plain((text) => /^\p{Nd}+$/u.test(text)),
	isdigit: plain((text) => DIGIT.test(text)),
	islower: plain(isLower),
	isnumeric: plain((text) => /^\p{N}+$/u.test(text)),
	isspace: plain((text) => text !== "" && strip(text, undefined) === ""),
	isupper: plain(isUpper),
	join: method("iterable", (python, text, [items]) => {
		return python.join(python.list(items!).map((item) => python.string(item)), text);
	}),
	ljust: method(
		"width, fillchar=",
		(python, text, values) => filled(python, text, values, () => 0),
	),
	lower: plain((text) => text.toLowerCase()),
	lstrip: method("chars=", (_, text, [characters]) => strip(text, characters, true, false)),
	partition: method("sep", (python, text, [by]) => partition(python, text, by, false)),
	removeprefix: method("prefix", (python, text, [prefix]) => {
		const part = python.string(prefix);
		return text.startsWith(part) ? text.slice(part.length) : text;
	}),
	removesuffix: method("suffix", (python, text, [suffix]) => {
		const part = python.string(suffix);
		return text.endsWith(part) ? text.slice(0, text.length - part.length) : text;
	}),
	replace: method("old, new, count=", replace),
	rfind: method("sub, start=, end=", (py, text, values) => BigInt(find(py, text, values, true))),
	rindex: method("sub, start=, end=", (py, text, values) => found(find(py, text, values, true))),
	rjust: method("width, fillchar=", (py, text, values) => filled(py, text, values, (lack) => lack)),
	rpartition: method("sep", (python, text, [by]) => partition(python, text, by, true)),
	rsplit: method("sep=, maxsplit=", (python, text, values) => split(python, text, values, true)),
	rstrip: method("chars=", (_, text, [characters]) => strip(text, characters, false, true)),
	split: method("sep=, maxsplit=", (python, text, values) => split(python, text, values, false)),
	splitlines: method("keepends=", (python, text, [keepsEnds]) => {
		const keeps = keepsEnds !== undefined && python.isTrue(keepsEnds);
		return python.budget.collect(splitLines(text, keeps));
	}),
	startswith: method("prefix, start=, end=", (py, text, values) => begins(py, text, values, false)),
	strip: method("chars=", (_, text, [characters]) => strip(text, characters)),
	title: method("", (python, text) => {
		python.budget.each(text.length);
		return text.replaceAll(/\p{Cased}+/gu, capitalized);
	}),
	upper: plain((text) => text.toUpperCase()),
	zfill: method("width", (python, text, [width]) => {
		const [sign] = /^[+-]?/.exec(text)!;
		const wanted = BigInt(python.integer(width) - sign.length);
		return sign + filled(python, text.slice(sign.length), [wanted, "0"], (lack) => lack);
	}),
};

const OF_DICTS: Record<string, Method<Dict>> = {
	copy: method("", (_, dict) => dict),
	get: method("key, default=", (python, dict, [key, otherwise]) => {
		return dict.get(python.hash(key!)) ?? otherwise ?? NONE;
	}),
	items: method("", (_, dict) => {
		return new Items("dict_items", dict.entries().map((entry) => new Tuple(entry)));
	}),
	keys: method("", (_, dict) => new Items("dict_keys", dict.entries().map(([key]) => key))),
	values: method(
		"",
		(_, dict) => new Items("dict_values", dict.entries().map(([, value]) => value)),
	),
};

const OF_SEQUENCES: Record<string, Method<readonly Value[]>> = {
	count: method("value", (python, items, [value]) => {
		return BigInt(items.filter((item) => python.equals(item, value!)).length);
	}),
	index: method("value, start=, stop=", (python, items, [value, start, stop]) => {
		const [from, to] = range(python, items.length, start, stop);
		const place = items.slice(from, to).findIndex((item) => python.equals(item, value!));
		if (place < 0) throw new TemplateError(`${python.repr(value!)} is not in list`);
		return BigInt(from + place);
	}),
};

const OF_LISTS = {
	...OF_SEQUENCES,
	copy: method("", (_, items) => [...items]),
} as typeof OF_SEQUENCES;

/** Methods that change a value, which Jinja's immutable sandbox refuses. */
const CHANGING: Record<string, string> = {
	list: " append clear extend insert pop remove reverse sort ",
	dict: " clear pop popitem setdefault update ",
};

/** Methods of Python that are not implemented, so that they are not taken for undefined ones. */
const MISSING: Record<string, string> = {
	str:
		" casefold encode expandtabs format_map isidentifier isprintable istitle maketrans swapcase " +
		"translate ",
	dict: " fromkeys ",
	int:
		" as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag numerator real " +
		"to_bytes is_integer ",
	float: " as_integer_ratio conjugate fromhex hex imag is_integer real ",
	range: " count index start step stop ",
};

/** An attribute of a value in Python; undefined if it has none of that name. */
export function attributeOf(python: Python, value: Value, name: string): Value | undefined {
	if (value instanceof Undefined) value.fail();
	const type = python.typeOf(value);
	if (value instanceof Thing) return value.parts.member?.(name);
	const isChanging = CHANGING[type]?.includes(` ${name} `);
	if (isChanging || name.startsWith("_")) {
		return new Undefined(`access to attribute '${name}' of '${type}' object is unsafe`);
	}
	if (MISSING[type]?.includes(` ${name} `)) {
		throw new TemplateError(`the method '${name}' of '${type}' is not supported`);
	}
	if (typeof value === "string") return bound(python, value, name, OF_TEXTS);
	if (Array.isArray(value)) return bound(python, value, name, OF_LISTS);
	if (value instanceof Dict) return bound(python, value, name, OF_DICTS);
	if (!(value instanceof Tuple)) return undefined;
	const place = value.names.indexOf(name);
	return place < 0 ? bound(python, value.items, name, OF_SEQUENCES) : value.items[place];
}

function bound<Self extends string | readonly Value[] | Dict>(
	python: Python,
	self: Self,
	name: string,
	methods: Record<string, Method<Self>>,
): Value | undefined {
	if (!Object.hasOwn(methods, name)) return undefined;
	const { bind, run } = methods[name];
	return new Thing("method", name, {
		call(args) {
			if (typeof self === "string") python.budget.characters(self.length);
			else python.budget.items(self instanceof Dict ? self.size : self.length);
			const result = run(python, self, bind?.(name, args) ?? [], args);
			if (typeof result === "string") python.budget.characters(result.length);
			return result;
		},
	});
}

/** `value.name`: an attribute, or else an item. */
export function getAttribute(python: Python, value: Value, name: string): Value {
	return attributeOf(python, value, name) ?? python.item(value, name) ??
		missing(python, value, name);
}

/** `value[key]`: an item, or else an attribute. */
export function getItem(python: Python, value: Value, key: Value): Value {
	const item = python.item(value, key) ??
		(typeof key === "string" ? attributeOf(python, value, key) : undefined);
	return item ?? missing(python, value, key);
}

function missing(python: Python, value: Value, key: Value): Undefined {
	if (key instanceof Undefined) return key;
	return new Undefined(
		typeof key === "string"
			? `${python.described(value)} has no attribute '${key}'`
			: `${python.typeOf(value)} object has no element ${python.repr(key)}`,
	);
}
