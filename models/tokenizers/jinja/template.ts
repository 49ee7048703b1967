import { formatTime } from "./formats.ts";
import { Interpreter, memberOf, Output, Scope } from "./interpreter.ts";
import { Budget, LIMITS, TemplateError, withinStack } from "./limits.ts";
import type { Statement } from "./nodes.ts";
import { parse } from "./parser.ts";
import { Python } from "./python.ts";
import { Dict, functionOf, Items, NONE, Thing, type Value } from "./values.ts";

/**
 * A chat template in Jinja, with the settings and functions of transformers: `trim_blocks`,
 * `lstrip_blocks`, loop controls, the tag `generation`, `raise_exception` and `strftime_now`. Values behave
 * as in Python. What is not implemented is refused by name; {@link LIMITS} hold for each rendering.
 */
export class Template {
	readonly #statements: readonly Statement[];

	/** @throws {TemplateError} If the template is invalid. */
	constructor(source: string) {
		const text = source.replaceAll(/\r\n?/g, "\n").replace(/\n$/, "");
		this.#statements = withinStack(() => parse(text));
	}

	/**
	 * The text for these variables.
	 *
	 * @param variables Values of JSON; whole numbers are ints.
	 * @throws {TemplateError} If the template fails, rejects the variables, or exceeds a limit.
	 */
	render(variables: Readonly<Record<string, unknown>>, now = new Date()): string {
		return withinStack(() => {
			const python = new Python(new Budget());
			const globals = new Scope();
			for (const each of functions(python, now)) globals.set(each.name, each);
			for (const [name, value] of Object.entries(variables)) {
				if (value !== undefined) globals.set(name, fromJson(python, value));
			}
			const output = new Output(python);
			new Interpreter(python).run(this.#statements, new Scope(globals), output);
			return output.toString();
		});
	}
}

/** A value of JSON as one of Python. */
function fromJson(python: Python, json: unknown): Value {
	if (typeof json === "number") return Number.isSafeInteger(json) ? BigInt(json) : json;
	if (Array.isArray(json)) return json.map((item) => fromJson(python, item));
	if (json === null) return NONE;
	if (typeof json !== "object") return json as string | boolean;
	return python.dict(
		Object.entries(json).map(([key, value]) => [key, fromJson(python, value)] as const),
	);
}

/** The functions that a template can call. */
function functions(python: Python, now: Date): Thing[] {
	/** The dict of the arguments of `dict()` and `namespace()`. */
	const dictOf = (given: readonly Value[], named: ReadonlyMap<string, Value>): Dict => {
		const [first] = given;
		if (given.length > 1) throw new TemplateError(`dict() takes at most 1 argument`);
		const pairs = first === undefined
			? []
			: first instanceof Dict
			? first.entries()
			: python.list(first).map((pair) => {
				const [key, value, ...more] = python.list(pair);
				if (value === undefined || more.length > 0) throw new TemplateError("dict() needs pairs");
				return [key, value] as const;
			});
		return python.dict([...pairs, ...named]);
	};
	return [
		functionOf("raise_exception", "message", ([message]) => {
			throw new TemplateError(python.text(message!), 0);
		}),
		functionOf("strftime_now", "format", ([format]) => formatTime(now, python.string(format))),
		functionOf("range", "start, stop=, step=", (values) => range(python, values)),
		new Thing("function", "dict", { call: ({ positional, named }) => dictOf(positional, named) }),
		new Thing("function", "namespace", {
			call({ positional, named }) {
				const members = dictOf(positional, named);
				return new Thing("Namespace", "object", {
					member: (name) => members.get(python.hash(name)),
					assign: (name, value) => members.set(python.hash(name), name, value),
				});
			},
		}),
		functionOf("joiner", "sep=", ([separator]) => {
			let isFirst = true;
			const call = () => {
				const text = isFirst ? "" : separator ?? ", ";
				isFirst = false;
				return text;
			};
			return new Thing("Joiner", "object", { call });
		}),
		new Thing("function", "cycler", {
			call({ positional }) {
				if (positional.length === 0) throw new TemplateError("cycler() needs items");
				let at = 0;
				const next = () => positional[at++ % positional.length];
				const reset = () => {
					at = 0;
					return NONE;
				};
				const methods = memberOf({
					next: functionOf("next", "", next),
					reset: functionOf("reset", "", reset),
				});
				const member = (name: string) =>
					name === "current" ? positional[at % positional.length] : methods(name);
				return new Thing("Cycler", "object", { member });
			},
		}),
	];
}

function range(python: Python, values: readonly (Value | undefined)[]): Value {
	const given = values.filter((value) => value !== undefined).map((value) => python.integer(value));
	const [start, stop, step = 1] = given.length === 1 ? [0, given[0]] : given;
	if (step === 0) throw new TemplateError("range() needs a step other than 0");
	const length = Math.max(0, Math.ceil((stop - start) / step));
	if (length > LIMITS.range) {
		throw new TemplateError(
			`range() gives at most ${LIMITS.range.toLocaleString("en")} numbers, found ${length}`,
		);
	}
	if (given.some((value) => Math.abs(value) >= 2 ** 53)) {
		throw new TemplateError("range() takes integers below 2^53");
	}
	python.budget.items(length);
	const items = Array.from({ length }, (_, i) => BigInt(start + i * step));
	return new Items("range", items, [start, stop, step]);
}
