import { TemplateError } from "./limits.ts";
import { formatFloat } from "./numbers.ts";
import { isInteger, isNumber, numeric, type Python } from "./python.ts";
import { type Arguments, Dict, Tuple, Undefined, type Value } from "./values.ts";

/** How a value is written: an option of a format of C or of Python's format specifications. */
interface Layout {
	fill: string;
	align: string;
	sign: string;
	alternate: boolean;
	width: number;
	grouping: string;
	precision: number | undefined;
	kind: string;
}

const BASES: Record<string, number> = { b: 2, o: 8, x: 16, X: 16 };

/** A number in a layout. */
function numberText(python: Python, value: bigint | number, layout: Layout): string {
	const { kind, sign, alternate, width, grouping, fill, align } = layout;
	let digits: string;
	let prefix = "";
	if (typeof value === "bigint" && !/[eEfFgG%]/.test(kind)) {
		const size = value < 0n ? -value : value;
		digits = size.toString(BASES[kind] ?? 10);
		if (alternate && BASES[kind]) prefix = `0${kind}`;
		if (layout.precision !== undefined) digits = digits.padStart(layout.precision, "0");
	} else {
		const float = Number(value);
		const precision = layout.precision ?? 6;
		if (kind === "%") digits = `${formatFloat(100 * float, "f", precision)}%`;
		else digits = formatFloat(float, kind.toLowerCase(), precision, alternate);
	}
	if (grouping) {
		const group = BASES[kind]
			? /(?<=^[\da-f]+)(?=(?:[\da-f]{4})+$)/g
			: /(?<=^\d+)(?=(?:\d{3})+(?!\d))/g;
		digits = digits.replaceAll(group, grouping);
	}
	if (kind === kind.toUpperCase()) [digits, prefix] = [digits.toUpperCase(), prefix.toUpperCase()];
	const isNegative = value < 0 || Object.is(value, -0);
	const start = (isNegative ? "-" : sign === "-" ? "" : sign) + prefix;
	if (align !== "=") return filled(python, start + digits, layout);
	const lack = Math.max(0, width - start.length - digits.length);
	python.budget.characters(lack);
	return start + fill.repeat(lack) + digits;
}

/** A text filled up to the width of a layout. */
function filled(python: Python, text: string, { fill, align, width }: Layout): string {
	const lack = Math.max(0, width - python.points(text));
	python.budget.characters(text.length + lack * fill.length);
	const before = align === ">" ? lack : align === "^" ? lack >> 1 : 0;
	return fill.repeat(before) + text + fill.repeat(lack - before);
}

const CONVERSION = /%(?:\(([^()]*)\))?([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+)?)?[hlL]?([^]?)/gu;

/** `text % values`. */
export function formatPercent(python: Python, text: string, values: Value): string {
	const items = values instanceof Tuple ? values.items : [values];
	let taken = 0;
	const next = () => {
		if (taken >= items.length) throw new TemplateError("not enough arguments for format string");
		return items[taken++];
	};
	const parts: string[] = [];
	let at = 0;
	for (const match of text.matchAll(CONVERSION)) {
		const [whole, key, flags, width, precision, letter] = match;
		parts.push(text.slice(at, match.index));
		at = match.index + whole.length;
		if (letter === "%") {
			parts.push("%");
			continue;
		}
		if (key !== undefined && !(values instanceof Dict)) {
			throw new TemplateError("format requires a mapping");
		}
		const size = (written: string | undefined) =>
			written === "*"
				? python.integer(next())
				: written === undefined
				? undefined
				: Number(written);
		const wanted = size(width) ?? 0;
		const hasPoint = /\.\D*$/.test(whole.slice(0, -1)) || precision !== undefined;
		const decimals = size(precision) ?? (hasPoint ? 0 : undefined);
		const value = key === undefined ? next() : python.item(values, key);
		if (value === undefined) throw new TemplateError(`format lacks the key '${key}'`);
		const isLeft = flags.includes("-") || wanted < 0;
		const layout: Layout = {
			fill: flags.includes("0") && !isLeft ? "0" : " ",
			align: isLeft ? "<" : flags.includes("0") ? "=" : ">",
			sign: flags.includes("+") ? "+" : flags.includes(" ") ? " " : "-",
			alternate: flags.includes("#"),
			width: Math.abs(wanted),
			grouping: "",
			precision: decimals,
			kind: letter === "i" || letter === "u" ? "d" : letter,
		};
		parts.push(converted(python, value, layout));
	}
	parts.push(text.slice(at));
	const mayRemain = values instanceof Dict || values instanceof Undefined || Array.isArray(values);
	if (taken < items.length && !mayRemain) {
		throw new TemplateError("not all arguments converted during string formatting");
	}
	return python.join(parts);
}

/** A value in a conversion of `%`. */
function converted(python: Python, value: Value, layout: Layout): string {
	const { kind } = layout;
	const asText = { ...layout, fill: " ", align: layout.align === "<" ? "<" : ">" };
	if (kind === "s" || kind === "r" || kind === "a") {
		const text = kind === "s" ? python.text(value) : python.repr(value);
		return filled(python, python.part(text, 0, layout.precision ?? Infinity), asText);
	}
	if (kind === "c") {
		const text = typeof value === "bigint" && value >= 0n && value < 0x110000n
			? String.fromCodePoint(Number(value))
			: python.string(value);
		return filled(python, text, asText);
	}
	if (!/^[doxXeEfFgG]$/.test(kind)) {
		throw new TemplateError(`unsupported format character '${kind}'`);
	}
	if (value instanceof Undefined) value.fail();
	if (!isNumber(value) || /[oxX]/.test(kind) && typeof value === "number") {
		throw new TemplateError(`%${kind} format: a number is required, not ${python.typeOf(value)}`);
	}
	if (kind !== "d") return numberText(python, numeric(value), layout);
	return numberText(python, whole(value), layout);
}

function whole(value: bigint | boolean | number): bigint {
	if (typeof value !== "number") return BigInt(value);
	if (!Number.isFinite(value)) throw new TemplateError("cannot convert float to integer");
	return BigInt(Math.trunc(value));
}

const SPECIFICATION = /^(?:([^])?([<>=^]))?([-+ ])?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([a-zA-Z%])?$/u;

/** `format(value, specification)`. */
function formatValue(python: Python, value: Value, specification: string): string {
	if (specification === "") return python.text(value);
	const found = SPECIFICATION.exec(specification);
	if (!found) throw new TemplateError(`invalid format specifier '${specification}'`);
	const [, fill, align, sign = "-", alternate, zero, width, grouping = "", precision, kind] = found;
	const isText = !isNumber(value) || typeof value === "boolean" && kind === undefined;
	const layout: Layout = {
		fill: fill ?? (zero ? "0" : " "),
		align: align ?? (isText ? "<" : zero ? "=" : ">"),
		sign,
		alternate: alternate !== undefined,
		width: Number(width ?? 0),
		grouping,
		precision: precision === undefined ? undefined : Number(precision),
		kind: kind ?? (isText ? "s" : typeof value === "number" ? "g" : "d"),
	};
	const isFit = isText
		? layout.kind === "s"
		: isInteger(value)
		? /^[bdoxXeEfFgG%]$/.test(layout.kind)
		: /^[eEfFgG%]$/.test(layout.kind);
	if (!isFit) {
		throw new TemplateError(
			`unknown format code '${layout.kind}' for object of type '${python.typeOf(value)}'`,
		);
	}
	if (isText) {
		return filled(python, python.part(python.text(value), 0, layout.precision ?? Infinity), layout);
	}
	if (typeof value === "number" && kind === undefined && precision === undefined) {
		return filled(python, python.text(value), layout);
	}
	return numberText(python, numeric(value), layout);
}

/** `text.format(...)`. */
export function formatText(
	python: Python,
	text: string,
	{ positional, named }: Arguments,
	access: {
		getAttribute: (python: Python, value: Value, name: string) => Value;
		getItem: (python: Python, value: Value, key: Value) => Value;
	},
): string {
	let automatic = 0;
	const parts: string[] = [];
	const field = (path: string): Value => {
		const [, first, rest] = /^([^.[]*)(.*)$/s.exec(path)!;
		const name = first === "" ? `${automatic++}` : first;
		let value = /^\d+$/.test(name) ? positional[Number(name)] : named.get(name);
		if (value === undefined) throw new TemplateError(`format() lacks the argument "${name}"`);
		for (const [step, attribute, key] of rest.matchAll(/\.([^.[]+)|\[([^\]]+)\]|./gs)) {
			const index = key !== undefined && /^\d+$/.test(key) ? BigInt(key) : key;
			if (attribute !== undefined) value = access.getAttribute(python, value, attribute);
			else if (key !== undefined) value = access.getItem(python, value, index);
			else throw new TemplateError(`format() cannot read "${step}" in "${path}"`);
		}
		return value;
	};
	const pattern = /\{\{|\}\}|\{([^{}!:]*)(?:!([rsa]))?(?::((?:[^{}]|\{[^{}]*\})*))?\}|[{}]/g;
	let at = 0;
	for (const match of text.matchAll(pattern)) {
		const [whole, path, conversion, specification = ""] = match;
		parts.push(text.slice(at, match.index));
		at = match.index + whole.length;
		if (path === undefined) {
			if (whole.length === 1) throw new TemplateError(`single '${whole}' in format string`);
			parts.push(whole[0]);
			continue;
		}
		const value = field(path);
		const inner = specification.replaceAll(/\{([^{}]*)\}/g, (_, name) => python.text(field(name)));
		const shown = conversion === undefined
			? value
			: conversion === "s"
			? python.text(value)
			: python.repr(value);
		parts.push(formatValue(python, shown, inner));
	}
	parts.push(text.slice(at));
	return python.join(parts);
}

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = [
	"January",
	"February",
	"March",
	"April",
	"May",
	"June",
	"July",
	"August",
	"September",
	"October",
	"November",
	"December",
];

/** `now.strftime(format)` in local time, with English names; "%-d" leaves zeros out. */
export function formatTime(now: Date, format: string): string {
	const day = Math.round(
		(Date.UTC(now.getFullYear(), now.getMonth(), now.getDate()) - Date.UTC(now.getFullYear(), 0)) /
			86_400_000,
	);
	const hour12 = now.getHours() % 12 || 12;
	const week = (first: number) => Math.floor((day + 7 - (now.getDay() - first + 7) % 7) / 7);
	const parts: Record<string, () => string | [value: number, width: number]> = {
		a: () => DAYS[now.getDay()].slice(0, 3),
		A: () => DAYS[now.getDay()],
		b: () => MONTHS[now.getMonth()].slice(0, 3),
		h: () => MONTHS[now.getMonth()].slice(0, 3),
		B: () => MONTHS[now.getMonth()],
		d: () => [now.getDate(), 2],
		f: () => [1000 * now.getMilliseconds(), 6],
		H: () => [now.getHours(), 2],
		I: () => [hour12, 2],
		j: () => [day + 1, 3],
		m: () => [now.getMonth() + 1, 2],
		M: () => [now.getMinutes(), 2],
		p: () => now.getHours() < 12 ? "AM" : "PM",
		s: () => `${Math.floor(now.getTime() / 1000)}`,
		S: () => [now.getSeconds(), 2],
		u: () => `${now.getDay() || 7}`,
		U: () => [week(0), 2],
		w: () => `${now.getDay()}`,
		W: () => [week(1), 2],
		y: () => [now.getFullYear() % 100, 2],
		Y: () => `${now.getFullYear()}`,
		z: () => "",
		Z: () => "",
		n: () => "\n",
		t: () => "\t",
		"%": () => "%",
		c: () => formatTime(now, `%a %b ${`${now.getDate()}`.padStart(2)} %H:%M:%S %Y`),
		D: () => formatTime(now, "%m/%d/%y"),
		e: () => `${now.getDate()}`.padStart(2),
		F: () => formatTime(now, "%Y-%m-%d"),
		R: () => formatTime(now, "%H:%M"),
		T: () => formatTime(now, "%H:%M:%S"),
		x: () => formatTime(now, "%m/%d/%y"),
		X: () => formatTime(now, "%H:%M:%S"),
	};
	return format.replaceAll(/%(-?)([^]?)/gu, (whole, minus, letter) => {
		if (!Object.hasOwn(parts, letter)) {
			throw new TemplateError(`strftime_now() does not know "${whole}"`);
		}
		const part = parts[letter]();
		if (typeof part === "string") return part;
		return `${part[0]}`.padStart(minus ? 0 : part[1], "0");
	});
}
