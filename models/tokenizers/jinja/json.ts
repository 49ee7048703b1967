import { TemplateError } from "./limits.ts";
import { floatText } from "./numbers.ts";
import type { Python } from "./python.ts";
import { Dict, NONE, Tuple, type Value } from "./values.ts";

/** Options of `json.dumps()`. */
export interface JsonOptions {
	ascii: boolean;
	/** What each level is indented by; undefined for one line. */
	indent: string | undefined;
	separators: readonly [item: string, key: string];
	sorts: boolean;
}

/** `json.dumps(value)`. */
export function jsonText(python: Python, value: Value, options: JsonOptions): string {
	const { ascii, indent, separators: [comma, colon], sorts } = options;
	const text = (string: string) => {
		python.budget.each(string.length);
		// JSON.stringify would write the halves of pairs that stand alone as escapes.
		return `"${string.replaceAll(ascii ? /["\\]|[^ -~]/g : ESCAPED, escape)}"`;
	};
	const scalar = (value: Value): string | undefined => {
		if (value === NONE) return "null";
		if (typeof value === "boolean" || typeof value === "bigint") return `${value}`;
		if (typeof value === "number") return NAMES[`${value}`] ?? floatText(value);
		return undefined;
	};
	const write = (value: Value, margin: string): string => {
		python.budget.step();
		const plain = typeof value === "string" ? text(value) : scalar(value);
		if (plain !== undefined) return plain;
		const inner = indent === undefined ? "" : margin + indent;
		const wrap = (open: string, parts: string[], close: string) => {
			if (parts.length === 0) return open + close;
			if (indent === undefined) return `${open}${python.join(parts, comma)}${close}`;
			return `${open}${inner}${python.join(parts, comma.trimEnd() + inner)}${margin}${close}`;
		};
		if (value instanceof Dict) {
			const entries = value.entries();
			if (sorts) entries.sort(([a], [b]) => python.order(a, b));
			return wrap(
				"{",
				entries.map(([key, item]) => {
					const name = typeof key === "string" ? key : scalar(key);
					if (name === undefined) {
						throw new TemplateError(
							`keys must be str, int, float, bool or None, not ${python.typeOf(key)}`,
						);
					}
					return `${text(name)}${colon}${write(item, inner)}`;
				}),
				"}",
			);
		}
		const items = value instanceof Tuple ? value.items : value;
		if (!Array.isArray(items)) {
			throw new TemplateError(`Object of type ${python.typeOf(value)} is not JSON serializable`);
		}
		return wrap("[", items.map((item) => write(item, inner)), "]");
	};
	return write(value, "\n");
}

// deno-lint-ignore no-control-regex -- JSON escapes them
const ESCAPED = /["\\\0-\x1f]/g;

const NAMES: Record<string, string> = {
	NaN: "NaN",
	Infinity: "Infinity",
	"-Infinity": "-Infinity",
};

const SHORT: Record<string, string> = {
	'"': '\\"',
	"\\": "\\\\",
	"\n": "\\n",
	"\r": "\\r",
	"\t": "\\t",
	"\b": "\\b",
	"\f": "\\f",
};

function escape(unit: string): string {
	return SHORT[unit] ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
