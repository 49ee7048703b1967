import { type Token, tokensOf } from "./lexer.ts";
import { TemplateError } from "./limits.ts";
import type { ArgumentNodes, Expression, Signature, Statement, Target } from "./nodes.ts";
import { NONE, type Value } from "./values.ts";

/** Names that are values. */
const CONSTANTS = new Map<string, Value>([
	["true", true],
	["True", true],
	["false", false],
	["False", false],
	["none", NONE],
	["None", NONE],
]);

/**
 * The statements of a template.
 *
 * @param source The template; its line ends are LF.
 * @throws {TemplateError}
 */
export function parse(source: string): Statement[] {
	return new Parser(tokensOf(source)).template();
}

class Parser {
	readonly #tokens: Token[];
	#at = 0;
	/** The loops around the current statement, within the innermost macro or block of a call. */
	#loops = 0;
	/** The names that are read in the current macro. */
	#names = new Set<string>();

	constructor(tokens: Token[]) {
		this.#tokens = tokens;
	}

	template(): Statement[] {
		const body = this.#statements([]);
		if (this.#token.type !== "end") this.#unexpected();
		return body;
	}

	get #token(): Token {
		return this.#tokens[this.#at];
	}

	#fail(message: string, line = this.#token.line): never {
		throw new TemplateError(message, line);
	}

	#unexpected(wanted = ""): never {
		this.#fail(`unexpected "${this.#token.text}"${wanted && `, expected ${wanted}`}`);
	}

	#is(type: Token["type"], text?: string): boolean {
		const token = this.#token;
		return token.type === type && (text === undefined || token.text === text);
	}

	#isOperator(...operators: string[]): boolean {
		return this.#is("operator") && operators.includes(this.#token.text);
	}

	#next(): Token {
		return this.#tokens[this.#at++];
	}

	#skip(type: Token["type"], text: string): boolean {
		const is = this.#is(type, text);
		if (is) this.#at++;
		return is;
	}

	#expect(type: Token["type"], text?: string): Token {
		if (!this.#is(type, text)) this.#unexpected(text === undefined ? `a ${type}` : `"${text}"`);
		return this.#next();
	}

	/** Statements up to a tag of one of these names, which is the current token then. */
	#statements(ends: readonly string[]): Statement[] {
		const statements: Statement[] = [];
		for (;;) {
			const { type, text, line } = this.#token;
			if (type === "end") {
				if (ends.length > 0) this.#fail(`the template ends before "${ends.at(-1)}"`);
				return statements;
			}
			this.#at++;
			if (type === "data") statements.push({ kind: "text", text, line });
			else if (type === "{{") {
				statements.push({ kind: "print", value: this.#tuple(), line });
				this.#expect("}}");
			} else {
				if (this.#is("name") && ends.includes(this.#token.text)) return statements;
				statements.push(...this.#statement());
				this.#expect("%}");
			}
		}
	}

	/** The body of a tag, up to a tag of one of these names. @returns It and that name. */
	#body(...ends: string[]): { body: Statement[]; end: string } {
		this.#skip("operator", ":");
		this.#expect("%}");
		const body = this.#statements(ends);
		return { body, end: this.#next().text };
	}

	/** A body in which break and continue concern no loop around it. */
	#ownBody(end: string): Statement[] {
		const loops = this.#loops;
		this.#loops = 0;
		const { body } = this.#body(end);
		this.#loops = loops;
		return body;
	}

	#statement(): Statement[] {
		const { text: tag, line } = this.#expect("name");
		switch (tag) {
			case "for":
				return [this.#for(line)];
			case "if":
				return [this.#if(line)];
			case "set":
				return [this.#set(line)];
			case "with":
				return [this.#with(line)];
			case "macro": {
				const name = this.#name();
				const parameters = this.#parameters();
				return [{ kind: "macro", name, ...this.#macro(parameters, "endmacro"), line }];
			}
			case "call": {
				const parameters = this.#isOperator("(") ? this.#parameters() : { names: [], defaults: [] };
				const call = this.#expression();
				if (call.kind !== "call") this.#fail("call needs the call of a macro", line);
				return [{ kind: "call-block", call, ...this.#macro(parameters, "endcall"), line }];
			}
			case "filter": {
				const filter = this.#filters(this.#filter(undefined));
				return [{ kind: "filter-block", filter, body: this.#ownBody("endfilter"), line }];
			}
			case "generation": // marks the answers for training
				return [{
					kind: "with",
					targets: [],
					values: [],
					body: this.#ownBody("endgeneration"),
					line,
				}];
			case "print": {
				const printed: Statement[] = [];
				while (!this.#is("%}")) {
					if (printed.length > 0) this.#expect("operator", ",");
					printed.push({ kind: "print", value: this.#expression(), line });
				}
				return printed;
			}
			case "break":
			case "continue":
				if (this.#loops === 0) this.#fail(`"${tag}" outside of a loop`, line);
				return [{ kind: tag, line }];
		}
		return this.#fail(`the tag "${tag}" is not supported here`, line);
	}

	#for(line: number): Statement {
		const target = this.#target("in");
		if (target.kind === "name" && target.name === "loop") {
			this.#fail('"loop" is the loop itself', line);
		}
		this.#expect("name", "in");
		const over = this.#tuple(false, "recursive");
		const test = this.#skip("name", "if") ? this.#expression() : undefined;
		const isRecursive = this.#skip("name", "recursive");
		this.#loops++;
		const { body, end } = this.#body("else", "endfor");
		this.#loops--;
		const otherwise = end === "else" ? this.#body("endfor").body : [];
		return { kind: "for", target, over, test, isRecursive, body, otherwise, line };
	}

	#if(line: number): Statement {
		const branches: { test: Expression; body: Statement[] }[] = [];
		for (;;) {
			const test = this.#tuple(false);
			const { body, end } = this.#body("elif", "else", "endif");
			branches.push({ test, body });
			if (end === "elif") continue;
			const otherwise = end === "else" ? this.#body("endif").body : [];
			return { kind: "if", branches, otherwise, line };
		}
	}

	#set(line: number): Statement {
		const target = this.#target();
		if (this.#skip("operator", "=")) return { kind: "set", target, value: this.#tuple(), line };
		const filter = this.#isOperator("|") ? this.#filters(undefined) : undefined;
		return { kind: "set-block", target, filter, body: this.#ownBody("endset"), line };
	}

	#with(line: number): Statement {
		const targets: Target[] = [];
		const values: Expression[] = [];
		while (!this.#is("%}")) {
			if (targets.length > 0) this.#expect("operator", ",");
			targets.push(this.#target());
			this.#expect("operator", "=");
			values.push(this.#expression());
		}
		return { kind: "with", targets, values, body: this.#body("endwith").body, line };
	}

	/** The signature and the body of a macro. */
	#macro(
		parameters: Omit<Signature, "uses">,
		end: string,
	): { signature: Signature; body: Statement[] } {
		const around = this.#names;
		this.#names = new Set();
		const body = this.#ownBody(end);
		const signature = { ...parameters, uses: this.#names };
		this.#names = around.union(this.#names);
		return { signature, body };
	}

	#parameters(): Omit<Signature, "uses"> {
		const signature: Omit<Signature, "uses"> = { names: [], defaults: [] };
		this.#expect("operator", "(");
		while (!this.#isOperator(")")) {
			if (signature.names.length > 0) this.#expect("operator", ",");
			signature.names.push(this.#name());
			if (this.#skip("operator", "=")) signature.defaults.push(this.#expression());
			else if (signature.defaults.length > 0) {
				this.#fail("a parameter without a default follows one with a default");
			}
		}
		this.#at++;
		return signature;
	}

	/** A name that can be assigned to. */
	#name(): string {
		const { text } = this.#expect("name");
		if (CONSTANTS.has(text)) this.#fail(`cannot assign to "${text}"`);
		return text;
	}

	/** A target, or several with commas, up to a name. */
	#target(end?: string): Target {
		const targets: Target[] = [];
		let isSeveral = false;
		while (targets.length === 0 || this.#skip("operator", ",")) {
			isSeveral = targets.length > 0;
			if (isSeveral && (this.#isOperator("=", ")") || end !== undefined && this.#is("name", end))) {
				break;
			}
			targets.push(this.#oneTarget());
		}
		return isSeveral ? { kind: "several", targets } : targets[0];
	}

	#oneTarget(): Target {
		if (this.#skip("operator", "(")) {
			const target = this.#target();
			this.#expect("operator", ")");
			return target;
		}
		const name = this.#name();
		if (!this.#skip("operator", ".")) return { kind: "name", name };
		return { kind: "member", of: name, name: this.#expect("name").text };
	}

	/** An expression, or a tuple without parentheses. */
	#tuple(hasConditions = true, end?: string, isEmpty = false): Expression {
		const { line } = this.#token;
		const items: Expression[] = [];
		let isTuple = false;
		for (;;) {
			const isEnd = this.#is("}}") || this.#is("%}") || this.#isOperator(")") ||
				end !== undefined && this.#is("name", end);
			if (isEnd) break;
			items.push(hasConditions ? this.#expression() : this.#or());
			if (!this.#skip("operator", ",")) break;
			isTuple = true;
		}
		if (!isTuple && items.length > 0) return items[0];
		if (!isTuple && !isEmpty) this.#unexpected("an expression");
		return { kind: "tuple", items, line };
	}

	#expression(): Expression {
		let value = this.#or();
		for (let { line } = this.#token; this.#skip("name", "if"); line = this.#token.line) {
			const test = this.#or();
			const otherwise = this.#skip("name", "else") ? this.#expression() : undefined;
			value = { kind: "condition", test, then: value, otherwise, line };
		}
		return value;
	}

	/** Operands of a level with operators of it between them, from the left. */
	#chain(
		kind: "and" | "or" | "binary",
		operand: () => Expression,
		skip: () => boolean,
	): Expression {
		let left = operand();
		for (let token = this.#token; skip(); token = this.#token) {
			const { text: operator, line } = token;
			left = { kind, operator, left, right: operand(), line };
		}
		return left;
	}

	#skipOperator(...operators: string[]): boolean {
		const is = this.#isOperator(...operators);
		if (is) this.#at++;
		return is;
	}

	#or = (): Expression => this.#chain("or", this.#and, () => this.#skip("name", "or"));

	#and = (): Expression => this.#chain("and", this.#not, () => this.#skip("name", "and"));

	#not = (): Expression => {
		const { line } = this.#token;
		return this.#skip("name", "not") ? { kind: "not", of: this.#not(), line } : this.#compare();
	};

	#compare(): Expression {
		const { line } = this.#token;
		const first = this.#sum();
		const rest: { operator: string; value: Expression }[] = [];
		for (;;) {
			const { text: operator } = this.#token;
			const isNotIn = this.#is("name", "not") && this.#tokens[this.#at + 1].type === "name" &&
				this.#tokens[this.#at + 1].text === "in";
			if (isNotIn) this.#at++;
			else if (!this.#isOperator("==", "!=", "<", "<=", ">", ">=") && !this.#is("name", "in")) {
				break;
			}
			this.#at++;
			rest.push({ operator: isNotIn ? "not in" : operator, value: this.#sum() });
		}
		return rest.length === 0 ? first : { kind: "compare", first, rest, line };
	}

	#sum = (): Expression => this.#chain("binary", this.#concat, () => this.#skipOperator("+", "-"));

	#concat = (): Expression => {
		const { line } = this.#token;
		const items = [this.#product()];
		while (this.#skip("operator", "~")) items.push(this.#product());
		return items.length === 1 ? items[0] : { kind: "concat", items, line };
	};

	#product = (): Expression =>
		this.#chain("binary", this.#power, () => this.#skipOperator("*", "/", "//", "%"));

	#power = (): Expression => this.#chain("binary", this.#unary, () => this.#skipOperator("**"));

	#unary = (): Expression => this.#filters(this.#signed());

	#signed(): Expression {
		const { text: operator, line } = this.#token;
		const value: Expression = this.#skipOperator("-", "+")
			? { kind: "sign", operator, of: this.#signed(), line }
			: this.#primary();
		return this.#postfix(value);
	}

	#primary(): Expression {
		const { type, text, number, line } = this.#token;
		if (type === "name") {
			this.#at++;
			const constant = CONSTANTS.get(text);
			this.#names.add(text);
			return constant === undefined
				? { kind: "name", name: text, line }
				: { kind: "value", value: constant, line };
		}
		if (type === "string") {
			let value = "";
			while (this.#is("string")) value += this.#next().text;
			return { kind: "value", value, line };
		}
		if (type === "number") {
			this.#at++;
			return { kind: "value", value: number!, line };
		}
		if (this.#skip("operator", "(")) {
			const value = this.#tuple(true, undefined, true);
			this.#expect("operator", ")");
			return value;
		}
		if (this.#skip("operator", "[")) {
			return { kind: "list", items: this.#listed("]", () => this.#expression()), line };
		}
		if (this.#skip("operator", "{")) {
			const entries = this.#listed("}", (): [Expression, Expression] => {
				const key = this.#expression();
				this.#expect("operator", ":");
				return [key, this.#expression()];
			});
			return { kind: "dict", entries, line };
		}
		return this.#unexpected("an expression");
	}

	/** What stands between commas up to a bracket, after the last of which a comma may stand. */
	#listed<Item>(end: string, item: () => Item): Item[] {
		const items: Item[] = [];
		while (!this.#skip("operator", end)) {
			if (items.length > 0) {
				this.#expect("operator", ",");
				if (this.#skip("operator", end)) break;
			}
			items.push(item());
		}
		return items;
	}

	/** Attributes, items and calls after an expression. */
	#postfix(value: Expression): Expression {
		for (;;) {
			const { line } = this.#token;
			if (this.#isOperator("(")) value = { kind: "call", of: value, args: this.#arguments(), line };
			else if (this.#skip("operator", "[")) {
				const keys = this.#listed("]", () => this.#subscript());
				if (keys.length === 0) this.#unexpected("a key");
				const key: Expression = keys.length === 1 ? keys[0] : { kind: "tuple", items: keys, line };
				value = { kind: "item", of: value, key, line };
			} else if (this.#skip("operator", ".")) {
				const { type, text, number } = this.#next();
				if (type === "name") value = { kind: "attribute", of: value, name: text, line };
				else if (typeof number === "bigint") {
					value = { kind: "item", of: value, key: { kind: "value", value: number, line }, line };
				} else this.#fail(`unexpected "${text}", expected a name or a number`, line);
			} else return value;
		}
	}

	/** A key, or a slice. */
	#subscript(): Expression {
		const { line } = this.#token;
		const isEnd = () => this.#isOperator(":", "]", ",");
		const bounds = [isEnd() ? undefined : this.#expression()];
		while (bounds.length < 3 && this.#skip("operator", ":")) {
			bounds.push(isEnd() ? undefined : this.#expression());
		}
		if (bounds.length > 1) return { kind: "slice", bounds, line };
		return bounds[0] ?? this.#unexpected("a key");
	}

	#arguments(): ArgumentNodes {
		const { line } = this.#expect("operator", "(");
		const args: ArgumentNodes = { positional: [], named: [] };
		this.#listed(")", () => {
			const isAfter = args.more || args.moreNamed;
			const following = this.#tokens[this.#at + 1];
			if (this.#skip("operator", "*")) {
				if (isAfter) this.#fail("only one argument may have *", line);
				args.more = this.#expression();
			} else if (this.#skip("operator", "**")) {
				if (args.moreNamed) this.#fail("only one argument may have **", line);
				args.moreNamed = this.#expression();
			} else if (this.#is("name") && following.type === "operator" && following.text === "=") {
				const name = this.#next().text;
				this.#at++;
				args.named.push({ name, value: this.#expression() });
			} else {
				if (isAfter || args.named.length > 0) {
					this.#fail("an argument without a name follows one with a name", line);
				}
				args.positional.push(this.#expression());
			}
		});
		return args;
	}

	/** Filters, tests and calls after an expression. */
	#filters(value: Expression): Expression;
	#filters(value: Expression | undefined): Expression | undefined;
	#filters(value: Expression | undefined): Expression | undefined {
		for (;;) {
			const { line } = this.#token;
			if (this.#skip("operator", "|")) value = this.#filter(value);
			else if (!value) return value;
			else if (this.#skip("name", "is")) value = this.#test(value, line);
			else if (this.#isOperator("(")) {
				value = { kind: "call", of: value, args: this.#arguments(), line };
			} else return value;
		}
	}

	#filter(of: Expression | undefined): Expression {
		const { line } = this.#token;
		const name = this.#dottedName();
		const args = this.#isOperator("(") ? this.#arguments() : { positional: [], named: [] };
		return { kind: "filter", of, name, args, line };
	}

	#test(of: Expression, line: number): Expression {
		const isNegated = this.#skip("name", "not");
		const name = this.#dottedName();
		let args: ArgumentNodes = { positional: [], named: [] };
		if (this.#isOperator("(")) args = this.#arguments();
		else if (this.#isArgumentOfTest()) {
			if (this.#is("name", "is")) this.#fail("tests cannot follow each other");
			args.positional.push(this.#postfix(this.#primary()));
		}
		const test: Expression = { kind: "test", of, name, args, line };
		return isNegated ? { kind: "not", of: test, line } : test;
	}

	#isArgumentOfTest(): boolean {
		const { type, text } = this.#token;
		if (type === "name") return !["else", "or", "and"].includes(text);
		return type === "string" || type === "number" || this.#isOperator("[", "{");
	}

	#dottedName(): string {
		let name = this.#expect("name").text;
		while (this.#skip("operator", ".")) name += `.${this.#expect("name").text}`;
		return name;
	}
}
