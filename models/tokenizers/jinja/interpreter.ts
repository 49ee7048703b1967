import { applyFilter, applyTest } from "./filters.ts";
import { LIMITS, TemplateError } from "./limits.ts";
import { getAttribute, getItem } from "./methods.ts";
import { formatPercent } from "./formats.ts";
import type { ArgumentNodes, Expression, Signature, Statement, Target } from "./nodes.ts";
import type { Python } from "./python.ts";
import { Arguments, functionOf, Thing, Tuple, Undefined, type Value } from "./values.ts";

/** Variables by name, over those of the scope around. */
export class Scope {
	readonly #variables = new Map<string, Value>();

	constructor(readonly around?: Scope) {}

	get(name: string): Value | undefined {
		return this.#variables.get(name) ?? this.around?.get(name);
	}

	set(name: string, value: Value): void {
		this.#variables.set(name, value);
	}
}

/** The text that statements print. */
export class Output {
	readonly #parts: string[] = [];
	#length = 0;

	constructor(readonly python: Python) {}

	print(text: string): void {
		this.#length += text.length;
		if (this.#length > LIMITS.characters) this.python.budget.characters(this.#length);
		this.python.budget.characters(text.length);
		this.#parts.push(text);
	}

	toString(): string {
		return this.#parts.join("");
	}
}

/** How a body ended, if not at its end. */
type Signal = "break" | "continue" | undefined;

/** Runs the statements of a template. */
export class Interpreter {
	constructor(readonly python: Python) {}

	/** Runs statements. @returns How they ended. */
	run(statements: readonly Statement[], scope: Scope, output: Output): Signal {
		for (const statement of statements) {
			const signal = this.#located(statement.line, () => this.#runOne(statement, scope, output));
			if (signal) return signal;
		}
		return undefined;
	}

	/** Adds the line to an error that has none. */
	#located<Result>(line: number, act: () => Result): Result {
		this.python.budget.step();
		try {
			return act();
		} catch (error) {
			if (error instanceof TemplateError) error.line ??= line;
			throw error;
		}
	}

	/** The text that statements print in a scope of their own. */
	#printed(statements: readonly Statement[], scope: Scope): string {
		const output = new Output(this.python);
		this.run(statements, scope, output);
		return output.toString();
	}

	#runOne(statement: Statement, scope: Scope, output: Output): Signal {
		switch (statement.kind) {
			case "text":
				output.print(statement.text);
				return undefined;
			case "print":
				output.print(this.python.text(this.evaluate(statement.value, scope)));
				return undefined;
			case "for":
				return this.#for(statement, this.evaluate(statement.over, scope), scope, output, 0);
			case "if": {
				const found = statement.branches.find(({ test }) => this.#isTrue(test, scope));
				return this.run(found?.body ?? statement.otherwise, scope, output);
			}
			case "set":
				this.#assign(statement.target, this.evaluate(statement.value, scope), scope);
				return undefined;
			case "set-block": {
				const { target, filter, body } = statement;
				const text = this.#printed(body, new Scope(scope));
				this.#assign(target, filter ? this.evaluate(filter, scope, text) : text, scope);
				return undefined;
			}
			case "with": {
				const inner = new Scope(scope);
				const values = statement.values.map((value) => this.evaluate(value, scope));
				statement.targets.forEach((target, i) => this.#assign(target, values[i], inner));
				return this.run(statement.body, inner, output);
			}
			case "macro": {
				const { name, signature, body } = statement;
				scope.set(name, this.#macro(name, signature, body, scope));
				return undefined;
			}
			case "call-block": {
				const { call, signature, body } = statement;
				const args = this.#arguments(call.args, scope);
				const caller = this.#macro("caller", signature, body, scope);
				const named = new Map([...args.named, ["caller", caller] as const]);
				const all = new Arguments(args.positional, named);
				output.print(this.python.text(this.#call(this.evaluate(call.of, scope), all)));
				return undefined;
			}
			case "filter-block": {
				const text = this.#printed(statement.body, new Scope(scope));
				output.print(this.python.text(this.evaluate(statement.filter, scope, text)));
				return undefined;
			}
			default:
				return statement.kind;
		}
	}

	#for(
		statement: Statement & { kind: "for" },
		over: Value,
		scope: Scope,
		output: Output,
		depth: number,
	): Signal {
		const { target, test, isRecursive, body, otherwise } = statement;
		const { python } = this;
		const items = test ? this.#filtered(over, target, test, scope) : python.iterate(over);
		const recurse = (inner: Value) => {
			if (!isRecursive) throw new TemplateError('only a loop that is "recursive" can be called');
			return python.budget.nested(() => {
				const inside = new Output(python);
				this.#for(statement, inner, scope, inside, depth + 1);
				return inside.toString();
			});
		};
		const loop = new Loop(python, items, test ? undefined : over, depth, recurse);
		let isEmpty = true; // for Jinja also if each pass ends early
		for (let next = loop.next(); next !== undefined; next = loop.next()) {
			const inner = new Scope(scope);
			inner.set("loop", loop.thing);
			this.#assign(target, next, inner);
			const signal = this.run(body, inner, output);
			if (signal === "break") break;
			if (!signal) isEmpty = false;
		}
		return isEmpty ? this.run(otherwise, new Scope(scope), output) : undefined;
	}

	*#filtered(over: Value, target: Target, test: Expression, scope: Scope): Generator<Value> {
		for (const item of this.python.iterate(over)) {
			const inner = new Scope(scope);
			this.#assign(target, item, inner);
			if (this.#isTrue(test, inner)) yield item;
		}
	}

	#assign(target: Target, value: Value, scope: Scope): void {
		if (target.kind === "name") return scope.set(target.name, value);
		if (target.kind === "member") {
			const object = this.#variable(target.of, scope);
			if (object instanceof Thing && object.parts.assign) {
				return object.parts.assign(target.name, value);
			}
			throw new TemplateError(`cannot assign to a member of "${target.of}", which is no namespace`);
		}
		const values = this.python.list(value);
		const { length } = target.targets;
		if (values.length !== length) {
			throw new TemplateError(`cannot unpack ${values.length} values into ${length} names`);
		}
		target.targets.forEach((each, i) => this.#assign(each, values[i], scope));
	}

	/** A macro: its arguments become variables of a scope within that of its definition. */
	#macro(
		name: string,
		{ names, defaults, uses }: Signature,
		body: Statement[],
		scope: Scope,
	): Thing {
		const call = ({ positional, named }: Arguments): Value => {
			const inner = new Scope(scope);
			const left = new Map(named);
			names.forEach((parameter, i) => {
				const given = positional[i] ?? left.get(parameter);
				if (i >= positional.length) left.delete(parameter);
				const own = defaults[i - names.length + defaults.length];
				const value = given ?? (own ? this.evaluate(own, inner) : undefined);
				inner.set(parameter, value ?? new Undefined(`parameter '${parameter}' was not provided`));
			});
			if (uses.has("caller") && !names.includes("caller")) {
				inner.set("caller", left.get("caller") ?? new Undefined("No caller defined"));
				left.delete("caller");
			}
			const more = positional.slice(names.length);
			if (uses.has("varargs")) inner.set("varargs", new Tuple(more));
			else if (more.length > 0) {
				throw new TemplateError(
					`the macro "${name}" takes at most ${names.length} arguments, found ${positional.length}`,
				);
			}
			if (uses.has("kwargs")) inner.set("kwargs", this.python.dict(left));
			else if (left.size > 0) {
				const [unknown] = left.keys();
				throw new TemplateError(`the macro "${name}" has no argument "${unknown}"`);
			}
			return this.python.budget.nested(() => this.#printed(body, inner));
		};
		const members: Record<string, Value> = {
			name,
			arguments: new Tuple(names),
			catch_kwargs: uses.has("kwargs"),
			catch_varargs: uses.has("varargs"),
			caller: uses.has("caller"),
		};
		return new Thing("Macro", this.python.repr(name), { call, member: memberOf(members) });
	}

	#isTrue(expression: Expression, scope: Scope): boolean {
		return this.python.isTrue(this.evaluate(expression, scope));
	}

	#variable(name: string, scope: Scope): Value {
		return scope.get(name) ?? new Undefined(`'${name}' is undefined`);
	}

	/** @param input What the first filter of a block is applied to. */
	evaluate(expression: Expression, scope: Scope, input?: Value): Value {
		return this.#located(expression.line, () => this.#evaluate(expression, scope, input));
	}

	#evaluate(expression: Expression, scope: Scope, input: Value | undefined): Value {
		const { python } = this;
		switch (expression.kind) {
			case "value":
				return expression.value;
			case "name":
				return this.#variable(expression.name, scope);
			case "list":
				return expression.items.map((item) => this.evaluate(item, scope));
			case "tuple":
				return new Tuple(expression.items.map((item) => this.evaluate(item, scope)));
			case "concat":
				return python.join(
					expression.items.map((item) => python.text(this.evaluate(item, scope))),
				);
			case "dict":
				return python.dict(expression.entries.map(([key, value]) => {
					return [this.evaluate(key, scope), this.evaluate(value, scope)] as const;
				}));
			case "attribute":
				return getAttribute(python, this.evaluate(expression.of, scope), expression.name);
			case "item": {
				const value = this.evaluate(expression.of, scope);
				const { key } = expression;
				if (key.kind !== "slice") return getItem(python, value, this.evaluate(key, scope));
				return python.slice(value, key.bounds.map((bound) => bound && this.evaluate(bound, scope)));
			}
			case "slice":
				throw new TemplateError("a slice stands alone in its brackets");
			case "call":
				return this.#call(
					this.evaluate(expression.of, scope),
					this.#arguments(expression.args, scope),
				);
			case "filter": {
				const value = expression.of ? this.evaluate(expression.of, scope, input) : input!;
				const args = this.#arguments(expression.args, scope);
				return applyFilter(python, expression.name, value, args);
			}
			case "test": {
				const value = this.evaluate(expression.of, scope);
				return applyTest(python, expression.name, value, this.#arguments(expression.args, scope));
			}
			case "sign":
				return python.sign(expression.operator, this.evaluate(expression.of, scope));
			case "not":
				return !this.#isTrue(expression.of, scope);
			case "and":
			case "or": {
				const left = this.evaluate(expression.left, scope);
				const isEnough = python.isTrue(left) === (expression.kind === "or");
				return isEnough ? left : this.evaluate(expression.right, scope);
			}
			case "binary": {
				const left = this.evaluate(expression.left, scope);
				const right = this.evaluate(expression.right, scope);
				const { operator } = expression;
				if (operator === "%" && typeof left === "string") return formatPercent(python, left, right);
				return python.binary(operator, left, right);
			}
			case "compare": {
				let left = this.evaluate(expression.first, scope);
				return expression.rest.every(({ operator, value }) => {
					const right = this.evaluate(value, scope);
					const holds = python.compare(operator, left, right);
					left = right;
					return holds;
				});
			}
			case "condition": {
				const { test, then, otherwise, line } = expression;
				if (this.#isTrue(test, scope)) return this.evaluate(then, scope);
				if (otherwise) return this.evaluate(otherwise, scope);
				return new Undefined(
					`the inline if-expression on line ${line} was false and has no else`,
				);
			}
		}
	}

	#arguments({ positional, named, more, moreNamed }: ArgumentNodes, scope: Scope): Arguments {
		const values = positional.map((value) => this.evaluate(value, scope));
		if (more) {
			for (const value of this.python.list(this.evaluate(more, scope))) {
				values.push(value);
			}
		}
		const byName = new Map(named.map(({ name, value }) => [name, this.evaluate(value, scope)]));
		if (moreNamed) {
			const dict = this.evaluate(moreNamed, scope);
			for (const key of this.python.iterate(dict)) {
				byName.set(this.python.string(key), getItem(this.python, dict, key));
			}
		}
		return new Arguments(values, byName);
	}

	#call(callee: Value, args: Arguments): Value {
		if (callee instanceof Undefined) callee.fail();
		if (callee instanceof Thing && callee.parts.call) return callee.parts.call(args);
		throw new TemplateError(`'${this.python.typeOf(callee)}' object is not callable`);
	}
}

/** The members of an object that do not change. */
export function memberOf(members: Record<string, Value>): (name: string) => Value | undefined {
	return (name) => Object.hasOwn(members, name) ? members[name] : undefined;
}

/** The variable `loop`: what a loop goes over, one item ahead where it is asked for. */
class Loop {
	readonly #python: Python;
	readonly #over: Value | undefined;
	readonly #depth: number;
	#items: Iterator<Value>;
	#index = -1;
	#before: Value | undefined;
	#current: Value | undefined;
	#ahead: Value[] = [];
	#changed: Value | undefined;
	readonly thing: Thing;

	/** @param over What has a length, if it has one without going over all items. */
	constructor(
		python: Python,
		items: Iterator<Value>,
		over: Value | undefined,
		depth: number,
		recurse: (over: Value) => Value,
	) {
		this.#python = python;
		this.#items = items;
		this.#over = over;
		this.#depth = depth;
		const { call } = functionOf("loop", "iterable", ([inner]) => recurse(inner!)).parts;
		this.thing = new Thing("LoopContext", "of a loop", {
			call,
			member: (name) => this.#member(name),
		});
	}

	next(): Value | undefined {
		const next = this.#peek();
		this.#ahead.shift();
		this.#index++;
		[this.#before, this.#current] = [this.#current, next];
		return next;
	}

	#peek(): Value | undefined {
		if (this.#ahead.length === 0) {
			const next = this.#items.next();
			if (!next.done) this.#ahead.push(next.value);
		}
		return this.#ahead[0];
	}

	/** The number of all items. */
	get #length(): number {
		const over = this.#over;
		if (over !== undefined && this.#python.typeOf(over) !== "generator") {
			return this.#python.length(over);
		}
		const rest = { [Symbol.iterator]: () => this.#items };
		const ahead = [...this.#ahead, ...this.#python.budget.collect(rest)];
		this.#ahead = ahead;
		return this.#index + 1 + ahead.length;
	}

	#member(name: string): Value | undefined {
		const index = this.#index;
		switch (name) {
			case "index":
				return BigInt(index + 1);
			case "index0":
				return BigInt(index);
			case "revindex":
				return BigInt(this.#length - index);
			case "revindex0":
				return BigInt(this.#length - index - 1);
			case "first":
				return index === 0;
			case "last":
				return this.#peek() === undefined;
			case "length":
				return BigInt(this.#length);
			case "depth":
				return BigInt(this.#depth + 1);
			case "depth0":
				return BigInt(this.#depth);
			case "previtem":
				return this.#before ?? new Undefined("there is no previous item");
			case "nextitem":
				return this.#peek() ?? new Undefined("there is no next item");
			case "cycle":
				return new Thing("function", name, {
					call: ({ positional }) => {
						if (positional.length === 0) throw new TemplateError("no items for cycling given");
						return positional[index % positional.length];
					},
				});
			case "changed":
				return new Thing("function", name, {
					call: ({ positional }) => {
						const last = this.#changed;
						this.#changed = new Tuple(positional);
						return last === undefined || !this.#python.equals(last, this.#changed);
					},
				});
		}
		return undefined;
	}
}
