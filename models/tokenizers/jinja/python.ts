import { TemplateError } from "./limits.ts";
import type { Budget } from "./limits.ts";
import { floatText } from "./numbers.ts";
import { Dict, given, Items, Lazy, NONE, Thing, Tuple, Undefined, type Value } from "./values.ts";

/** White space as Python has it, within brackets of a pattern. */
export const SPACE =
	"\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

const UNPRINTABLE = /(?! )[\p{C}\p{Z}]/u;
const ESCAPES: Record<string, string> = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\" };

/** The operations of Python on values, within the limits of a rendering. */
export class Python {
	constructor(readonly budget: Budget) {}

	/** The name of a value's type. */
	typeOf(value: Value): string {
		if (typeof value === "boolean") return "bool";
		if (typeof value === "bigint") return "int";
		if (typeof value === "number") return "float";
		if (typeof value === "string") return "str";
		if (Array.isArray(value)) return "list";
		if (value instanceof Tuple) return "tuple";
		if (value instanceof Dict) return "dict";
		if (value instanceof Lazy) return "generator";
		if (value instanceof Undefined) return "Undefined";
		return value.type;
	}

	/** `bool(value)`. */
	isTrue(value: Value): boolean {
		if (value === NONE || value instanceof Undefined) return false;
		if (typeof value !== "object") return Boolean(value) || Number.isNaN(value);
		if (value instanceof Dict) return value.size > 0;
		return (sequence(value)?.length ?? 1) > 0;
	}

	/** `str(value)`. */
	text(value: Value): string {
		if (typeof value === "string") return value;
		return value instanceof Undefined ? "" : this.repr(value);
	}

	/** `repr(value)`. */
	repr(value: Value): string {
		this.budget.step();
		if (value === NONE) return "None";
		if (typeof value === "boolean") return value ? "True" : "False";
		if (typeof value === "bigint") return `${value}`;
		if (typeof value === "number") return floatText(value);
		if (typeof value === "string") return this.#quoted(value);
		if (Array.isArray(value)) return `[${this.#joined(value)}]`;
		if (value instanceof Tuple) {
			return `(${this.#joined(value.items)}${value.items.length === 1 ? "," : ""})`;
		}
		if (value instanceof Items) {
			if (value.type !== "range") return `${value.type}([${this.#joined(value.items)}])`;
			const [start, stop, step] = value.bounds;
			return `range(${start}, ${stop}${step === 1 ? "" : `, ${step}`})`;
		}
		if (value instanceof Dict) return `{${this.#pairs(value)}}`;
		if (value instanceof Thing) return `<${value.type} ${value.name}>`;
		return value instanceof Lazy ? "<generator object>" : "Undefined";
	}

	#quoted(text: string): string {
		this.budget.each(text.length);
		const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
		let quoted = quote;
		for (const character of text) {
			const code = character.codePointAt(0)!;
			if (character === quote || Object.hasOwn(ESCAPES, character)) {
				quoted += ESCAPES[character] ?? `\\${character}`;
			} else if (!UNPRINTABLE.test(character)) quoted += character;
			else if (code < 0x100) quoted += `\\x${code.toString(16).padStart(2, "0")}`;
			else if (code < 0x10000) quoted += `\\u${code.toString(16).padStart(4, "0")}`;
			else quoted += `\\U${code.toString(16).padStart(8, "0")}`;
		}
		return quoted + quote;
	}

	#joined(items: readonly Value[]): string {
		return this.join(items.map((item) => this.repr(item)), ", ");
	}

	#pairs(dict: Dict): string {
		return this.join(
			dict.entries().map(([key, value]) => `${this.repr(key)}: ${this.repr(value)}`),
			", ",
		);
	}

	/** Texts, joined. */
	join(texts: readonly string[], between = ""): string {
		let length = between.length * texts.length;
		for (const text of texts) length += text.length;
		this.budget.characters(length);
		return texts.join(between);
	}

	/** `a == b`. */
	equals(a: Value, b: Value): boolean {
		this.budget.step();
		if (a === b) return true;
		if (isNumber(a) && isNumber(b)) return numeric(a) == numeric(b);
		if (a instanceof Undefined && b instanceof Undefined) return true;
		if (a instanceof Dict && b instanceof Dict) {
			return a.size === b.size && a.entries().every(([key, value]) => {
				const other = b.get(this.hash(key));
				return other !== undefined && this.equals(value, other);
			});
		}
		const [left, right] = [sequence(a), sequence(b)];
		return left !== undefined && right !== undefined && this.typeOf(a) === this.typeOf(b) &&
			left.length === right.length && left.every((item, i) => this.equals(item, right[i]));
	}

	/**
	 * The order of two values: negative, zero or positive; NaN if there is none.
	 *
	 * @param operator The operator in messages.
	 */
	order(a: Value, b: Value, operator = "<"): number {
		this.budget.step();
		if (isNumber(a) && isNumber(b)) {
			const [left, right] = [numeric(a), numeric(b)];
			return left < right ? -1 : left > right ? 1 : left == right ? 0 : NaN;
		}
		if (typeof a === "string" && typeof b === "string") {
			this.budget.characters(Math.min(a.length, b.length));
			return orderOfTexts(a, b);
		}
		for (const value of [a, b]) if (value instanceof Undefined) value.fail();
		const [left, right] = [sequence(a), sequence(b)];
		if (!left || !right || this.typeOf(a) !== this.typeOf(b) || a instanceof Items) {
			throw new TemplateError(
				`'${operator}' not supported between instances of '${this.typeOf(a)}' and ` +
					`'${this.typeOf(b)}'`,
			);
		}
		const place = left.findIndex((item, i) => i >= right.length || !this.equals(item, right[i]));
		if (place < 0) return left.length - right.length;
		return place >= right.length ? 1 : this.order(left[place], right[place], operator);
	}

	/** `a OPERATOR b` of a comparison. */
	compare(operator: string, a: Value, b: Value): boolean {
		switch (operator) {
			case "==":
				return this.equals(a, b);
			case "!=":
				return !this.equals(a, b);
			case "in":
				return this.contains(b, a);
			case "not in":
				return !this.contains(b, a);
		}
		const order = this.order(a, b, operator);
		if (operator.startsWith("<")) return order < 0 || operator === "<=" && order === 0;
		return order > 0 || operator === ">=" && order === 0;
	}

	/** A text that is the same for keys that are equal. */
	hash(value: Value): string {
		this.budget.step();
		if (typeof value === "string") return `s${value}`;
		if (isNumber(value)) return `n${numeric(value)}`;
		if (value === NONE || value instanceof Undefined) return this.typeOf(value);
		if (value instanceof Tuple || value instanceof Items && value.type === "range") {
			const hashes = value.items.map((item) => this.hash(item));
			return this.join(hashes.map((hash) => `${hash.length}:${hash}`), ",");
		}
		throw new TemplateError(`unhashable type: '${this.typeOf(value)}'`);
	}

	/** A dict of entries. */
	dict(entries: Iterable<readonly [Value, Value]>): Dict {
		const dict = new Dict();
		for (const [key, value] of entries) dict.set(this.hash(key), key, value);
		return dict;
	}

	/** `item in container`. */
	contains(container: Value, item: Value): boolean {
		if (typeof container === "string") {
			if (item instanceof Undefined) item.fail();
			if (typeof item !== "string") {
				throw new TemplateError(
					`'in <string>' requires string as left operand, not ${this.typeOf(item)}`,
				);
			}
			this.budget.characters(container.length);
			return container.includes(item);
		}
		if (container instanceof Dict) return container.get(this.hash(item)) !== undefined;
		for (const each of this.iterate(container)) if (this.equals(each, item)) return true;
		return false;
	}

	/** `len(value)`, of texts in code points. */
	length(value: Value): number {
		if (typeof value === "string") return this.points(value);
		if (value instanceof Undefined) return 0;
		if (value instanceof Dict) return value.size;
		const items = sequence(value);
		if (!items) throw new TemplateError(`object of type '${this.typeOf(value)}' has no len()`);
		return items.length;
	}

	/** Whether a value can be iterated. */
	isIterable(value: Value): boolean {
		return typeof value === "string" || value instanceof Undefined || value instanceof Dict ||
			value instanceof Lazy || sequence(value) !== undefined;
	}

	/** The items of a value, one by one. */
	*iterate(value: Value): Generator<Value> {
		if (!this.isIterable(value)) {
			throw new TemplateError(`'${this.typeOf(value)}' object is not iterable`);
		}
		if (value instanceof Undefined) return;
		if (value instanceof Lazy) { // goes on where it is left off, so it must not be closed
			for (let next; !(next = value.iterator.next()).done; this.budget.step()) yield next.value;
			return;
		}
		const items = value instanceof Dict
			? value.entries().map(([key]) => key)
			: typeof value === "string"
			? value
			: sequence(value)!;
		for (const item of items) {
			this.budget.step();
			yield item;
		}
	}

	/** The items of a value as a list. */
	list(value: Value): Value[] {
		return this.budget.collect(this.iterate(value));
	}

	/** The code points of a text. */
	points(text: string): number {
		this.budget.characters(text.length);
		let count = text.length;
		if (HAS_PAIRS.test(text)) {
			for (let i = 1; i < text.length; i++) if (isPair(text, i)) count--;
		}
		return count;
	}

	/** The part of a text between two places in code points. */
	part(text: string, start: number, end = Infinity): string {
		this.budget.characters(text.length);
		if (!HAS_PAIRS.test(text)) return text.slice(start, end);
		const first = offset(text, start);
		return text.slice(first, end === Infinity ? undefined : offset(text, end - start, first));
	}

	/** An argument that must be an integer, limited to those that a `number` holds exactly. */
	integer(value: Value | undefined, otherwise = 0): number {
		if (value === undefined) return otherwise;
		if (value instanceof Undefined) value.fail();
		if (typeof value !== "bigint" && typeof value !== "boolean") {
			throw new TemplateError(
				`'${this.typeOf(value)}' object cannot be interpreted as an integer`,
			);
		}
		return Math.max(-(2 ** 53), Math.min(2 ** 53, Number(value)));
	}

	/** An argument that must be a text. */
	string(value: Value | undefined, otherwise = ""): string {
		if (value === undefined) return otherwise;
		if (value instanceof Undefined) value.fail();
		if (typeof value !== "string") {
			throw new TemplateError(`must be str, not ${this.typeOf(value)}`);
		}
		return value;
	}

	/** `value[key]`; undefined if it has no such item. */
	item(value: Value, key: Value): Value | undefined {
		if (value instanceof Undefined) value.fail();
		if (value instanceof Dict) {
			return Array.isArray(key) || key instanceof Dict ? undefined : value.get(this.hash(key));
		}
		if (typeof key !== "bigint" && typeof key !== "boolean") return undefined;
		if (value instanceof Items && value.type !== "range") return undefined;
		const index = this.integer(key);
		if (typeof value === "string") {
			const place = index < 0 ? index + this.points(value) : index;
			return place < 0 ? undefined : this.part(value, place, place + 1) || undefined;
		}
		return sequence(value)?.at(index);
	}

	/** `value[start:stop:step]`; undefined parts are left out. */
	slice(value: Value, bounds: readonly (Value | undefined)[]): Value {
		if (value instanceof Undefined) value.fail();
		const items = sequence(value);
		if (typeof value !== "string" && !items || value instanceof Items && value.type !== "range") {
			throw new TemplateError(`${this.described(value)} has no slices`);
		}
		const [start, stop, by] = bounds.map((bound) => {
			return given(bound) === undefined ? undefined : this.integer(bound);
		});
		const step = by ?? 1;
		if (step === 0) throw new TemplateError("slice step cannot be zero");
		const length = this.length(value);
		const [least, most] = step > 0 ? [0, length] : [-1, length - 1];
		const place = (bound: number | undefined, otherwise: number) => {
			if (bound === undefined) return otherwise;
			return Math.max(least, Math.min(most, bound < 0 ? bound + length : bound));
		};
		const [first, end] = [place(start, step > 0 ? 0 : most), place(stop, step > 0 ? length : -1)];
		if (typeof value === "string" && step === 1) {
			return this.part(value, first, Math.max(first, end));
		}
		const all = items ?? this.budget.collect(value as string);
		const taken: Value[] = [];
		for (let i = first; step > 0 ? i < end : i > end; i += step) taken.push(all[i]);
		this.budget.items(taken.length);
		if (typeof value === "string") return taken.join("");
		if (value instanceof Items) {
			const [start, , by] = value.bounds;
			return new Items("range", taken, [start + first * by, start + end * by, step * by]);
		}
		return value instanceof Tuple ? new Tuple(taken) : taken;
	}

	/** A value in messages: "'dict object'". */
	described(value: Value): string {
		return value === NONE ? "'None'" : `'${this.typeOf(value)} object'`;
	}

	/** `-value` or `+value`. */
	sign(operator: string, value: Value): Value {
		if (value instanceof Undefined) value.fail();
		if (!isNumber(value)) {
			throw new TemplateError(`bad operand type for unary ${operator}: '${this.typeOf(value)}'`);
		}
		const number = numeric(value);
		return operator === "-" ? -number : number;
	}

	/** `a OPERATOR b` of arithmetic, of texts and of lists. */
	binary(operator: string, a: Value, b: Value): Value {
		for (const value of [a, b]) if (value instanceof Undefined) value.fail();
		if (isNumber(a) && isNumber(b)) {
			const [left, right] = [numeric(a), numeric(b)];
			if (typeof left === "bigint" && typeof right === "bigint") {
				return this.#integers(operator, left, right);
			}
			return floats(operator, Number(left), Number(right));
		}
		if (operator === "+") {
			if (typeof a === "string" && typeof b === "string") return this.join([a, b]);
			if (Array.isArray(a) && Array.isArray(b)) return this.#concat(a, b);
			if (a instanceof Tuple && b instanceof Tuple) {
				return new Tuple(this.#concat(a.items, b.items));
			}
		}
		if (operator === "*") {
			if (isInteger(a)) return this.#times(b, a, [a, b]);
			if (isInteger(b)) return this.#times(a, b, [a, b]);
		}
		return this.#refuse(operator, a, b);
	}

	#refuse(operator: string, a: Value, b: Value): never {
		throw new TemplateError(
			`unsupported operand type(s) for ${operator}: '${this.typeOf(a)}' and '${this.typeOf(b)}'`,
		);
	}

	#concat(a: readonly Value[], b: readonly Value[]): Value[] {
		this.budget.items(a.length + b.length);
		return [...a, ...b];
	}

	#times(value: Value, times: Value, both: [Value, Value]): Value {
		const count = Math.max(0, this.integer(times));
		if (typeof value === "string") {
			this.budget.characters(value.length * count);
			return value === "" ? "" : value.repeat(count);
		}
		const items = Array.isArray(value) ? value : value instanceof Tuple ? value.items : undefined;
		if (!items) return this.#refuse("*", ...both);
		this.budget.items(items.length * count);
		const all: Value[] = items.length === 0
			? []
			: Array.from({ length: items.length * count }, (_, i) => items[i % items.length]);
		return value instanceof Tuple ? new Tuple(all) : all;
	}

	#integers(operator: string, a: bigint, b: bigint): Value {
		const { budget } = this;
		switch (operator) {
			case "+":
				return budget.integer(a + b);
			case "-":
				return budget.integer(a - b);
			case "*":
				return budget.integer(a * b);
			case "**":
				return b < 0n ? floats("**", Number(a), Number(b)) : power(budget, a, b);
		}
		if (b === 0n) throw new TemplateError("division by zero");
		if (operator === "/") return Number(a) / Number(b);
		const rest = a % b;
		const isOff = rest !== 0n && rest < 0n !== b < 0n; // Python rounds down, not towards zero
		return operator === "%" ? (isOff ? rest + b : rest) : a / b - (isOff ? 1n : 0n);
	}
}

/** a^b for b >= 0, checked on the way. */
function power(budget: Budget, a: bigint, b: bigint): bigint {
	let result = 1n;
	for (let square = a; b > 0n; b >>= 1n) {
		if (b & 1n) result = budget.integer(result * square);
		if (b > 1n) square = budget.integer(square * square);
	}
	return result;
}

function floats(operator: string, a: number, b: number): number {
	if (operator === "+") return a + b;
	if (operator === "-") return a - b;
	if (operator === "*") return a * b;
	if (operator === "**") {
		if (a === 0 && b < 0) throw new TemplateError("0.0 cannot be raised to a negative power");
		if (a < 0 && !Number.isInteger(b)) {
			throw new TemplateError("a power of a negative number must be a whole one");
		}
		return a ** b;
	}
	if (b === 0) throw new TemplateError("float division by zero");
	if (operator === "/") return a / b;
	const rest = a % b;
	const modulo = rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest;
	return operator === "%" ? modulo : Math.round((a - modulo) / b);
}

const HAS_PAIRS = /[\ud800-\udbff]/;

/** The place in units that is some code points after another. */
function offset(text: string, points: number, from = 0): number {
	for (; points > 0 && from < text.length; points--) from += isPair(text, from + 1) ? 2 : 1;
	return from;
}

function isPair(text: string, i: number): boolean {
	return (text.charCodeAt(i) & 0xfc00) === 0xdc00 && (text.charCodeAt(i - 1) & 0xfc00) === 0xd800;
}

/** Python orders code points, JavaScript units: the halves of pairs are above all other units. */
function orderOfTexts(a: string, b: string): number {
	const length = Math.min(a.length, b.length);
	let i = 0;
	while (i < length && a.charCodeAt(i) === b.charCodeAt(i)) i++;
	if (i === length) return a.length - b.length;
	const [left, right] = [a, b].map((text) => {
		const unit = text.charCodeAt(i);
		return unit >= 0xe000 ? unit - 0x800 : unit >= 0xd800 ? unit + 0x2000 : unit;
	});
	return left - right;
}

/** The items of a sequence that is no text. */
export function sequence(value: Value): readonly Value[] | undefined {
	if (Array.isArray(value)) return value;
	return value instanceof Tuple || value instanceof Items ? value.items : undefined;
}

/** Whether a value is an int, as a bool is in Python. */
export function isInteger(value: Value): value is bigint | boolean {
	return typeof value === "bigint" || typeof value === "boolean";
}

/** Whether a value is an int or a float. */
export function isNumber(value: Value): value is bigint | boolean | number {
	return isInteger(value) || typeof value === "number";
}

/** A number, a bool as 0 or 1. */
export function numeric(value: bigint | boolean | number): bigint | number {
	return typeof value === "boolean" ? BigInt(value) : value;
}
