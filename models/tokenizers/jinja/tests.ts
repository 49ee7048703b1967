import { isLower, isUpper } from "./methods.ts";
import { isNumber, type Python } from "./python.ts";
import {
	type Bind,
	binder,
	Dict,
	Items,
	NONE,
	Thing,
	Tuple,
	Undefined,
	type Value,
} from "./values.ts";

/** A test, as in `x is odd`. */
export interface Test {
	bind: Bind;
	run: (python: Python, value: Value, values: (Value | undefined)[]) => boolean;
}

function plain(run: (value: Value, python: Python) => boolean): Test {
	return { bind: binder(""), run: (python, value) => run(value, python) };
}

function comparison(operator: string): Test {
	return {
		bind: binder("other"),
		run: (python, value, [other]) => python.compare(operator, value, other!),
	};
}

function remainder(python: Python, value: Value, divisor: Value): Value {
	return python.binary("%", value, divisor);
}

const [equal, unequal] = [comparison("=="), comparison("!=")];
const [less, more] = [comparison("<"), comparison(">")];
const [atMost, atLeast] = [comparison("<="), comparison(">=")];

/** The tests of Jinja by name. */
export const TESTS: Record<string, Test> = {
	boolean: plain((value) => typeof value === "boolean"),
	callable: plain((value) =>
		value instanceof Undefined || value instanceof Thing && value.parts.call !== undefined
	),
	defined: plain((value) => !(value instanceof Undefined)),
	divisibleby: {
		bind: binder("num"),
		run: (python, value, [by]) => python.equals(remainder(python, value, by!), 0n),
	},
	even: plain((value, python) => python.equals(remainder(python, value, 2n), 0n)),
	false: plain((value) => value === false),
	float: plain((value) => typeof value === "number"),
	in: comparison("in"),
	integer: plain((value) => typeof value === "bigint"),
	iterable: plain((value, python) => python.isIterable(value)),
	lower: plain((value, python) => isLower(python.text(value))),
	mapping: plain((value) => value instanceof Dict),
	none: plain((value) => value === NONE),
	number: plain((value) => isNumber(value)),
	odd: plain((value, python) => python.equals(remainder(python, value, 2n), 1n)),
	sameas: {
		bind: binder("other"),
		run: (_, value, [other]) => value === other,
	},
	sequence: plain((value) =>
		typeof value === "string" || Array.isArray(value) || value instanceof Tuple ||
		value instanceof Dict || value instanceof Undefined ||
		value instanceof Items && value.type === "range"
	),
	string: plain((value) => typeof value === "string"),
	true: plain((value) => value === true),
	undefined: plain((value) => value instanceof Undefined),
	upper: plain((value, python) => isUpper(python.text(value))),
	"==": equal,
	eq: equal,
	equalto: equal,
	"!=": unequal,
	ne: unequal,
	"<": less,
	lt: less,
	lessthan: less,
	"<=": atMost,
	le: atMost,
	">": more,
	gt: more,
	greaterthan: more,
	">=": atLeast,
	ge: atLeast,
};
