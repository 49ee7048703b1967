import type { Value } from "./values.ts";

/** The arguments of a call as they are written. */
export interface ArgumentNodes {
	positional: Expression[];
	named: { name: string; value: Expression }[];
	/** After `*`. */
	more?: Expression;
	/** After `**`. */
	moreNamed?: Expression;
}

/** An expression. */
export type Expression =
	& { line: number }
	& (
		| { kind: "value"; value: Value }
		| { kind: "name"; name: string }
		| { kind: "list" | "tuple" | "concat"; items: Expression[] }
		| { kind: "dict"; entries: [key: Expression, value: Expression][] }
		| { kind: "attribute"; of: Expression; name: string }
		| { kind: "item"; of: Expression; key: Expression }
		| { kind: "slice"; bounds: (Expression | undefined)[] }
		| { kind: "call"; of: Expression; args: ArgumentNodes }
		| { kind: "filter"; of: Expression | undefined; name: string; args: ArgumentNodes }
		| { kind: "test"; of: Expression; name: string; args: ArgumentNodes }
		| { kind: "sign"; operator: string; of: Expression }
		| { kind: "not"; of: Expression }
		| { kind: "binary" | "and" | "or"; operator: string; left: Expression; right: Expression }
		| { kind: "compare"; first: Expression; rest: { operator: string; value: Expression }[] }
		| { kind: "condition"; test: Expression; then: Expression; otherwise: Expression | undefined }
	);

/** What `set` and `for` assign to: a name, a member of a namespace, or several of them. */
export type Target =
	| { kind: "name"; name: string }
	| { kind: "member"; of: string; name: string }
	| { kind: "several"; targets: Target[] };

/** The parameters of a macro; the defaults are those of the last ones. */
export interface Signature {
	names: string[];
	defaults: Expression[];
	/** Those of the names "caller", "varargs" and "kwargs" that the body uses. */
	uses: ReadonlySet<string>;
}

/** A statement. */
export type Statement =
	& { line: number }
	& (
		| { kind: "text"; text: string }
		| { kind: "print"; value: Expression }
		| {
			kind: "for";
			target: Target;
			over: Expression;
			test: Expression | undefined;
			isRecursive: boolean;
			body: Statement[];
			otherwise: Statement[];
		}
		| { kind: "if"; branches: { test: Expression; body: Statement[] }[]; otherwise: Statement[] }
		| { kind: "set"; target: Target; value: Expression }
		| { kind: "set-block"; target: Target; filter: Expression | undefined; body: Statement[] }
		| { kind: "with"; targets: Target[]; values: Expression[]; body: Statement[] }
		| { kind: "macro"; name: string; signature: Signature; body: Statement[] }
		| {
			kind: "call-block";
			call: Expression & { kind: "call" };
			signature: Signature;
			body: Statement[];
		}
		| { kind: "filter-block"; filter: Expression; body: Statement[] }
		| { kind: "break" | "continue" }
	);
