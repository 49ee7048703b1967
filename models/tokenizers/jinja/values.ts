import { TemplateError } from "./limits.ts";

class NoneType {
	readonly type = "NoneType";
}

/** None. It is no null: what follows `??` is for values that are not there. */
export const NONE = new NoneType();

/**
 * A value of a template, with Python's types: `bigint` is an int, `number` a float, an array a list. Nothing
 * changes a list or a dict once a template sees it, as in Jinja's immutable sandbox.
 */
export type Value =
	| NoneType
	| boolean
	| bigint
	| number
	| string
	| Value[]
	| Tuple
	| Dict
	| Items
	| Lazy
	| Thing
	| Undefined;

/** A tuple; one of `groupby` has names for its items. */
export class Tuple {
	constructor(readonly items: readonly Value[], readonly names: readonly string[] = []) {}
}

/** A dict: entries in the order of their insertion, by the hash of the key. */
export class Dict {
	readonly #entries = new Map<string, [key: Value, value: Value]>();

	get size(): number {
		return this.#entries.size;
	}

	get(hash: string): Value | undefined {
		return this.#entries.get(hash)?.[1];
	}

	/** Sets a value; a key that is there keeps its form and its place. */
	set(hash: string, key: Value, value: Value): void {
		const entry = this.#entries.get(hash);
		if (entry) entry[1] = value;
		else this.#entries.set(hash, [key, value]);
	}

	entries(): [key: Value, value: Value][] {
		return [...this.#entries.values()];
	}
}

/** A sequence that is no list: a range or a view of a dict. */
export class Items {
	/** @param bounds Start, stop and step of a range. */
	constructor(
		readonly type: "range" | "dict_keys" | "dict_values" | "dict_items",
		readonly items: readonly Value[],
		readonly bounds: readonly number[] = [],
	) {}
}

/** An argument that may be left out; none stands for one that is. */
export function given(value: Value | undefined): Exclude<Value, NoneType> | undefined {
	return value instanceof NoneType ? undefined : value;
}

/** A generator: items that are computed when they are asked for, once. */
export class Lazy {
	constructor(readonly iterator: Iterator<Value>) {}
}

/** An object of the interpreter: a function, a bound method, a macro, a loop, a namespace. */
export class Thing {
	constructor(
		readonly type: string,
		readonly name: string,
		readonly parts: {
			call?: (args: Arguments) => Value;
			/** A member; undefined if there is none. */
			member?: (name: string) => Value | undefined;
			/** Assigns a member, as `set ns.x`. */
			assign?: (name: string, value: Value) => void;
		},
	) {}
}

/** What is not there. It prints as nothing, is false and empty, and anything else that is done with it fails. */
export class Undefined {
	constructor(readonly message: string) {}

	fail(): never {
		throw new TemplateError(this.message);
	}
}

/** The arguments of a call. */
export class Arguments {
	constructor(
		readonly positional: readonly Value[],
		readonly named: ReadonlyMap<string, Value> = new Map(),
	) {}
}

/** A function that assigns arguments to parameters; those without an argument are undefined. */
export type Bind = (name: string, args: Arguments) => (Value | undefined)[];

/**
 * A function that assigns arguments to the parameters of a signature, such as "old, new, count=": those with
 * "=" may be left out.
 */
export function binder(signature: string): Bind {
	const all = signature === "" ? [] : signature.split(", ");
	const names = all.map((parameter) => parameter.replace("=", ""));
	return (name, { positional, named }) => {
		if (positional.length > names.length) {
			throw new TemplateError(
				`${name}() takes at most ${names.length} arguments, found ${positional.length}`,
			);
		}
		const bound: (Value | undefined)[] = names.map((_, i) => positional[i]);
		for (const [key, value] of named) {
			const place = names.indexOf(key);
			if (place < 0) throw new TemplateError(`${name}() has no argument "${key}"`);
			if (bound[place] !== undefined) throw new TemplateError(`${name}() has "${key}" twice`);
			bound[place] = value;
		}
		names.forEach((parameter, i) => {
			if (bound[i] === undefined && !all[i].endsWith("=")) {
				throw new TemplateError(`${name}() lacks the argument "${parameter}"`);
			}
		});
		return bound;
	};
}

/** A function of a template. */
export function functionOf(
	name: string,
	signature: string,
	run: (values: (Value | undefined)[]) => Value,
): Thing {
	const bind = binder(signature);
	return new Thing("function", name, { call: (args) => run(bind(name, args)) });
}
