import { formatPercent } from "./formats.ts";
import { jsonText } from "./json.ts";
import { LIMITS, TemplateError } from "./limits.ts";
import {
	attributeOf,
	capitalized,
	CENTER,
	filled,
	getItem,
	replace,
	splitLines,
	strip,
} from "./methods.ts";
import { parseFloatText, parseInteger, roundFloat } from "./numbers.ts";
import { isNumber, type Python } from "./python.ts";
import { TESTS } from "./tests.ts";
import {
	Arguments,
	type Bind,
	binder,
	Dict,
	given,
	Lazy,
	Tuple,
	Undefined,
	type Value,
} from "./values.ts";

type Values = (Value | undefined)[];

/** A filter, as in `x | trim`. */
interface Filter {
	bind?: Bind;
	run: (python: Python, value: Value, values: Values, args: Arguments) => Value;
}

/** A filter with the parameters of a signature. */
function filter(
	signature: string,
	run: (python: Python, value: Value, values: Values) => Value,
): Filter {
	return { bind: binder(signature), run };
}

/** A filter of the characters of a text, which takes other values as text. */
function ofText(run: (text: string) => Value): Filter {
	return filter("", (python, value) => {
		const text = python.text(value);
		python.budget.each(text.length);
		return run(text);
	});
}

/** What a filter selects or compares items by. */
type Getter = (item: Value) => Value;

/** The value at a path of attributes, such as "a.b.0"; the item itself without one. */
function getter(python: Python, path: Value | undefined, otherwise?: Value): Getter {
	const parts: Value[] = typeof path === "string"
		? path.split(".").map((part) => /^\d+$/.test(part) ? BigInt(part) : part)
		: given(path) === undefined
		? []
		: [path!];
	const isGiven = given(otherwise) !== undefined;
	return (item) =>
		parts.reduce((value, part) => {
			const next = getItem(python, value, part);
			return isGiven && next instanceof Undefined ? otherwise! : next;
		}, item);
}

/** A getter whose texts are compared without case, unless asked otherwise. */
function key(python: Python, path: Value | undefined, isSensitive: Value | undefined): Getter {
	const get = getter(python, path);
	return (item) => folded(python, get(item), isSensitive);
}

function folded(python: Python, value: Value, isSensitive: Value | undefined): Value {
	const folds = typeof value === "string" && !isTrue(python, isSensitive);
	if (folds) python.budget.characters(value.length);
	return folds ? value.toLowerCase() : value;
}

function isTrue(python: Python, value: Value | undefined): boolean {
	return value !== undefined && python.isTrue(value);
}

/** Items in the order of their keys; the order of equal ones is kept. */
function sorted<Item>(
	python: Python,
	items: readonly Item[],
	keyOf: (item: Item) => Value,
	reverse: Value | undefined,
): Item[] {
	const sign = isTrue(python, reverse) ? -1 : 1;
	return items.map((item) => ({ item, by: keyOf(item) }))
		.sort((a, b) => sign * python.order(a.by, b.by))
		.map(({ item }) => item);
}

function extreme(sign: number): Filter {
	return filter("case_sensitive=, attribute=", (python, value, [isSensitive, path]) => {
		const items = python.list(value);
		if (items.length === 0) return new Undefined("No aggregated item, sequence was empty.");
		const keyOf = key(python, path, isSensitive);
		let best = items[0];
		for (const item of items.slice(1)) {
			if (sign * python.order(keyOf(item), keyOf(best)) > 0) best = item;
		}
		return best;
	});
}

/** The items of a value; of one that is false there are none. */
function some(python: Python, value: Value): Iterable<Value> {
	return python.isTrue(value) ? python.iterate(value) : [];
}

/** `select`, `reject` and those by an attribute: the items for which a test holds, or does not. */
function selection(wanted: boolean, byAttribute: boolean): Filter {
	return {
		run(python, value, _, { positional, named }) {
			const [path] = positional;
			if (byAttribute && path === undefined) {
				throw new TemplateError("lacks the name of an attribute");
			}
			const get = byAttribute ? getter(python, path) : (item: Value) => item;
			const [name, ...more] = positional.slice(byAttribute ? 1 : 0);
			const args = new Arguments(more, named);
			const holds = (item: Value) =>
				name === undefined
					? python.isTrue(item)
					: applyTest(python, python.string(name), item, args);
			return new Lazy((function* () {
				for (const item of some(python, value)) if (holds(get(item)) === wanted) yield item;
			})());
		},
	};
}

/** A number of a text or another number; undefined if it is none. */
function toFloat(value: Value): number | undefined {
	if (value instanceof Undefined) value.fail();
	if (isNumber(value)) return Number(value);
	return typeof value === "string" ? parseFloatText(value) : undefined;
}

function toInteger(python: Python, value: Value, base: number): bigint | undefined {
	if (value instanceof Undefined) value.fail();
	const own = typeof value === "string"
		? parseInteger(value, base)
		: typeof value === "boolean"
		? BigInt(value)
		: value;
	if (typeof own === "bigint") return python.budget.integer(own);
	const float = toFloat(value);
	if (float === undefined || Number.isNaN(float)) return undefined;
	if (Number.isFinite(float)) return BigInt(Math.trunc(float));
	if (typeof value === "string") return undefined;
	throw new TemplateError("cannot convert float infinity to integer");
}

const ESCAPES: Record<string, string> = {
	"&": "&amp;",
	"<": "&lt;",
	">": "&gt;",
	"'": "&#39;",
	'"': "&#34;",
};

const length = filter("", (python, value) => BigInt(python.length(value)));
const otherwise = filter("default_value=, boolean=", (python, value, [other, boolean]) => {
	const isMissing = value instanceof Undefined || isTrue(python, boolean) && !python.isTrue(value);
	return isMissing ? other ?? "" : value;
});
const escape = ofText((text) => text.replaceAll(/[&<>'"]/g, (character) => ESCAPES[character]));

/** The filters by name: those of Jinja, with `tojson` as transformers has it. */
const FILTERS: Record<string, Filter> = {
	abs: filter("", (python, value) => {
		const number = python.sign("+", value) as bigint | number;
		return number < 0 || Object.is(number, -0) ? -number : number;
	}),
	attr: filter("name", (python, value, [name]) => {
		const member = python.string(name);
		return attributeOf(python, value, member) ??
			new Undefined(`${python.described(value)} has no attribute '${member}'`);
	}),
	batch: filter("linecount, fill_with=", (python, value, [count, fill]) => {
		const size = Math.max(1, python.integer(count));
		return new Lazy((function* () {
			let batch: Value[] = [];
			for (const item of python.iterate(value)) {
				if (batch.length === size) {
					yield batch;
					batch = [];
				}
				batch.push(item);
			}
			if (batch.length === 0) return;
			if (given(fill) !== undefined) {
				python.budget.items(size);
				while (batch.length < size) batch.push(fill!);
			}
			yield batch;
		})());
	}),
	capitalize: ofText(capitalized),
	center: filter("width=", (python, value, [width]) => {
		return filled(python, python.text(value), [width ?? 80n], CENTER);
	}),
	count: length,
	d: otherwise,
	default: otherwise,
	dictsort: filter(
		"case_sensitive=, by=, reverse=",
		(python, value, [isSensitive, by, reverse]) => {
			const place = ["key", "value"].indexOf(python.string(by, "key"));
			if (place < 0) throw new TemplateError('dictsort() sorts by "key" or "value"');
			if (!(value instanceof Dict)) throw new TemplateError("dictsort() sorts a dict");
			const keyOf = (entry: [Value, Value]) => folded(python, entry[place], isSensitive);
			return sorted(python, value.entries(), keyOf, reverse).map((entry) => new Tuple(entry));
		},
	),
	e: escape,
	escape,
	first: filter("", (python, value) => {
		for (const item of python.iterate(value)) return item;
		return new Undefined("No first item, sequence was empty.");
	}),
	float: filter("default=", (_, value, [other]) => toFloat(value) ?? other ?? 0),
	forceescape: escape,
	format: {
		run(python, value, _, { positional, named }) {
			if (positional.length > 0 && named.size > 0) {
				throw new TemplateError("format() takes either positional or named arguments");
			}
			const values = named.size > 0 ? python.dict(named) : new Tuple(positional);
			return formatPercent(python, python.text(value), values);
		},
	},
	groupby: filter("attribute, default=, case_sensitive=", (python, value, values) => {
		const [path, other, isSensitive] = values;
		const get = getter(python, path, other);
		const keyOf = (item: Value) => folded(python, get(item), isSensitive);
		const groups: { by: Value; items: Value[] }[] = [];
		for (const item of sorted(python, python.list(value), keyOf, false)) {
			const by = keyOf(item);
			const last = groups.at(-1);
			if (last && python.equals(last.by, by)) last.items.push(item);
			else groups.push({ by, items: [item] });
		}
		return groups.map(({ items }) => new Tuple([get(items[0]), items], ["grouper", "list"]));
	}),
	indent: filter("width=, first=, blank=", (python, value, [width, first, blank]) => {
		const by = typeof width === "string"
			? width
			: " ".repeat(python.budget.characters(Math.max(0, python.integer(width, 4))));
		const lines = python.budget.collect(splitLines(`${python.string(value)}\n`));
		python.budget.characters(lines.length * by.length);
		const isBlank = isTrue(python, blank);
		const indented = lines.map((line, i) => {
			return (i === 0 ? isTrue(python, first) : isBlank || line !== "") ? by + line : line;
		});
		return python.join(indented, "\n");
	}),
	int: filter("default=, base=", (python, value, [other, base]) => {
		return toInteger(python, value, python.integer(base, 10)) ?? other ?? 0n;
	}),
	items: filter("", (python, value) => {
		if (!(value instanceof Dict) && !(value instanceof Undefined)) {
			throw new TemplateError("items() needs a dict");
		}
		const entries = value instanceof Dict ? value.entries() : [];
		return new Lazy(python.iterate(entries.map((entry) => new Tuple(entry))));
	}),
	join: filter("d=, attribute=", (python, value, [between, path]) => {
		const texts = python.list(value).map(getter(python, path)).map((item) => python.text(item));
		return python.join(texts, python.text(between ?? ""));
	}),
	last: filter("", (python, value) => {
		const items = typeof value === "string" ? Array.from(value.slice(-2)) : python.list(value);
		if (value instanceof Lazy) throw new TemplateError("'generator' object is not reversible");
		return items.at(-1) ?? new Undefined("No last item, sequence was empty.");
	}),
	length,
	list: filter("", (python, value) => python.list(value)),
	lower: filter("", (python, value) => python.text(value).toLowerCase()),
	map: {
		run(python, value, _, { positional, named }) {
			let change: Getter;
			if (positional.length === 0) {
				const [path, other] = binder("attribute, default=")("map", new Arguments([], named));
				change = getter(python, path, other);
			} else {
				const [name, ...more] = positional;
				const args = new Arguments(more, named);
				change = (item) => applyFilter(python, python.string(name), item, args);
			}
			return new Lazy((function* () {
				for (const item of some(python, value)) yield change(item);
			})());
		},
	},
	max: extreme(1),
	min: extreme(-1),
	reject: selection(false, false),
	rejectattr: selection(false, true),
	replace: filter("old, new, count=", (python, value, [old, by, count]) => {
		return replace(python, python.text(value), [python.text(old!), python.text(by!), count]);
	}),
	reverse: filter("", (python, value) => {
		if (typeof value === "string") return python.budget.collect(value).reverse().join("");
		return new Lazy(python.iterate(python.list(value).reverse()));
	}),
	round: filter("precision=, method=", (python, value, [precision, method]) => {
		const decimals = python.integer(precision);
		const way = python.string(method, "common");
		if (!["common", "ceil", "floor"].includes(way)) {
			throw new TemplateError("method must be common, ceil or floor");
		}
		const number = python.sign("+", value) as bigint | number;
		if (way === "common") {
			if (typeof number === "number") return roundFloat(number, decimals);
			if (decimals >= 0) return number;
			return decimals < -LIMITS.digits ? 0n : roundInteger(number, 10n ** BigInt(-decimals));
		}
		const scale = 10 ** decimals;
		return (way === "ceil" ? Math.ceil : Math.floor)(Number(number) * scale) / scale;
	}),
	safe: filter("", (python, value) => python.text(value)),
	select: selection(true, false),
	selectattr: selection(true, true),
	slice: filter("slices, fill_with=", (python, value, [slices, fill]) => {
		const items = python.list(value);
		const count = python.budget.items(Math.max(1, python.integer(slices)));
		const [size, longer] = [Math.floor(items.length / count), items.length % count];
		const isFilled = given(fill) !== undefined;
		return new Lazy(python.iterate(Array.from({ length: count }, (_, i) => {
			const start = i * size + Math.min(i, longer);
			const part = items.slice(start, start + size + (i < longer ? 1 : 0));
			return isFilled && i >= longer ? [...part, fill!] : part;
		})));
	}),
	sort: filter("reverse=, case_sensitive=, attribute=", (python, value, values) => {
		const [reverse, isSensitive, path] = values;
		const paths = typeof path === "string" ? path.split(",") : [path];
		const keys = paths.map((each) => key(python, each, isSensitive));
		return sorted(python, python.list(value), (item) => keys.map((get) => get(item)), reverse);
	}),
	string: filter("", (python, value) => python.text(value)),
	sum: filter("attribute=, start=", (python, value, [path, start]) => {
		if (typeof start === "string") throw new TemplateError("sum() can't sum strings");
		const items = python.list(value).map(getter(python, path));
		return items.reduce((sum, item) => python.binary("+", sum, item), start ?? 0n);
	}),
	title: ofText((text) => {
		return text.split(/([-\s({[<]+)/).map((word) => {
			const [first = ""] = word;
			return first.toUpperCase() + word.slice(first.length).toLowerCase();
		}).join("");
	}),
	tojson: filter("ensure_ascii=, indent=, separators=, sort_keys=", (python, value, values) => {
		const [ascii, indent, separators, sorts] = values;
		const margin = given(indent);
		const by = margin === undefined || typeof margin === "string"
			? margin
			: " ".repeat(python.budget.characters(Math.max(0, python.integer(margin))));
		const own = given(separators);
		const pair = own === undefined
			? [by === undefined ? ", " : ",", ": "]
			: python.list(own).map((text) => python.string(text));
		if (pair.length !== 2) throw new TemplateError("separators must be two texts");
		return jsonText(python, value, {
			ascii: isTrue(python, ascii),
			indent: by,
			separators: [pair[0], pair[1]],
			sorts: isTrue(python, sorts),
		});
	}),
	trim: filter("chars=", (python, value, [characters]) => strip(python.text(value), characters)),
	truncate: filter("length=, killwords=, end=, leeway=", (python, value, values) => {
		const [length, kills, end, leeway] = values;
		const tail = python.string(end, "...");
		const size = python.integer(length, 255);
		const tailSize = python.points(tail);
		if (size < tailSize) throw new TemplateError(`expected length >= ${tailSize}, got ${size}`);
		if (python.length(value) <= size + python.integer(leeway, 5)) return value;
		const text = python.string(value);
		const part = python.part(text, 0, size - tailSize);
		const space = part.lastIndexOf(" ");
		return (isTrue(python, kills) || space < 0 ? part : part.slice(0, space)) + tail;
	}),
	unique: filter("case_sensitive=, attribute=", (python, value, [isSensitive, path]) => {
		const keyOf = key(python, path, isSensitive);
		return new Lazy((function* () {
			const seen = new Set<string>();
			for (const item of python.iterate(value)) {
				const hash = python.hash(keyOf(item));
				if (!seen.has(hash)) yield item;
				seen.add(hash);
			}
		})());
	}),
	upper: filter("", (python, value) => python.text(value).toUpperCase()),
	wordcount: ofText((text) => BigInt(text.match(/[\p{L}\p{M}\p{N}_]+/gu)?.length ?? 0)),
};

/** An integer, rounded to a multiple of a step, ties to even. */
function roundInteger(value: bigint, step: bigint): bigint {
	const size = value < 0n ? -value : value;
	const twice = 2n * (size % step);
	const up = twice > step || twice === step && size / step & 1n;
	const rounded = (size / step + (up ? 1n : 0n)) * step;
	return value < 0n ? -rounded : rounded;
}

/** Applies a filter by its name. */
export function applyFilter(python: Python, name: string, value: Value, args: Arguments): Value {
	if (!Object.hasOwn(FILTERS, name)) throw new TemplateError(`no filter is named '${name}'`);
	const { bind, run } = FILTERS[name];
	if (typeof value === "string") python.budget.characters(value.length);
	const result = run(python, value, bind?.(name, args) ?? [], args);
	if (typeof result === "string") python.budget.characters(result.length);
	return result;
}

/** Applies a test by its name. */
export function applyTest(python: Python, name: string, value: Value, args: Arguments): boolean {
	if (name === "filter" || name === "test") {
		python.hash(value); // which some values have not
		return Object.hasOwn(name === "test" ? TESTS : FILTERS, python.text(value));
	}
	if (!Object.hasOwn(TESTS, name)) throw new TemplateError(`no test is named '${name}'`);
	const { bind, run } = TESTS[name];
	return run(python, value, bind(name, args));
}
