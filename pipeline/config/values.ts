import type { z } from "zod";
import { didYouMean } from "../../base/did_you_mean.ts";
import { plural } from "../../base/figures.ts";
import { jsonSchemaOf, knownKeys, schemaAt } from "./json_schema.ts";

/** The keys and indices that lead to a value. */
export type Path = readonly PropertyKey[];

/** A problem of a value: of the key or the value at `path`. */
export interface Issue {
	path: Path;
	part: "key" | "value";
	message: string;
}

/**
 * The parsed value, or its issues with readable messages.
 *
 * @param title Name of the value in messages; empty for the pipeline itself.
 */
export function checkValue<T extends z.ZodObject>(
	schema: T,
	value: unknown,
	title: string,
): { data?: z.output<T>; issues: Issue[] } {
	const result = schema.safeParse(value, { error: requirement });
	if (result.success) return { data: result.data, issues: [] };
	const json = jsonSchemaOf(schema);
	const nameOf = (path: Path) => [title, ...path].filter((part) => part !== "").join(".");
	const at = (path: Path) => path.reduce((inner: unknown, key) => Object(inner)[key], value);

	const given = result.error.issues.slice(0, MOST_ISSUES);
	const issues = given.flatMap(innerIssues).flatMap((issue): Issue[] => {
		const { path } = issue;
		if (issue.code === "unrecognized_keys") {
			const known = knownKeys(json, path);
			const map = nameOf(path) || "the pipeline";
			const rest = issue.keys.length - MOST_ISSUES;
			return issue.keys.slice(0, MOST_ISSUES).map((key, i) => ({
				path: [...path, key],
				part: "key",
				message: `Unknown key "${cut(key)}" in ${map}${hint(key, known, "known keys")}` +
					(i === MOST_ISSUES - 1 && rest > 0 ? `; ${rest} more keys of ${map} are unknown` : ""),
			}));
		}
		const parent = path.slice(0, -1);
		const key = path.at(-1);
		const found = at(path);
		if (found === undefined && key !== undefined && !Object.hasOwn(Object(at(parent)), key)) {
			if (issue.code === "custom" && !schemaAt(json, parent)?.required?.includes(String(key))) {
				return [{ path, part: "value", message: text(issue, "") }];
			}
			const description = schemaAt(json, path)?.description;
			const message = `${nameOf(parent) || "The pipeline"} lacks "${String(key)}"` +
				(description ? `: ${description}` : "");
			return [{ path: parent, part: "value", message }];
		}
		const guess = typeof found === "string" ? didYouMean(found, choicesOf(issue)) : undefined;
		const meant = guess === undefined ? "" : `; did you mean "${guess}"?`;
		return [{ path, part: "value", message: text(issue, `, found ${show(found)}${meant}`) }];
	});
	return { issues };

	function text({ path, message }: z.core.$ZodIssue, rest: string): string {
		return `${nameOf(path) || "The pipeline"} ${message}${rest}`;
	}
}

/** The most issues of a value, and unknown keys of a map, that are told of. */
const MOST_ISSUES = 10;

const kinds: Record<string, string> = {
	int: "a whole number",
	number: "a number",
	string: "a string",
	boolean: "true or false",
	array: "a list",
	tuple: "a list",
	object: "a map",
	record: "a map",
	null: "null",
};

/** The requirement that a value violates, to follow its name: "must be at least 1". */
function requirement(issue: z.core.$ZodRawIssue): string | undefined {
	switch (issue.code) {
		case "invalid_type": {
			const wantsNumber = issue.expected === "int" || issue.expected === "number";
			if (wantsNumber && typeof issue.input === "number" && !Number.isFinite(issue.input)) {
				return "must be a finite number";
			}
			// For a string in place of an integer, zod expects "number".
			const isWhole = wantsNumber && (issue.inst as z.ZodNumber | undefined)?.isInt;
			return `must be ${kinds[isWhole ? "int" : issue.expected] ?? issue.expected}`;
		}
		case "invalid_value":
			return mustBeOneOf(issue.values);
		case "too_small":
			return boundText(issue.origin, "at least", "more than", issue.minimum, issue.inclusive);
		case "too_big":
			return boundText(issue.origin, "at most", "less than", issue.maximum, issue.inclusive);
		case "not_multiple_of":
			return `must be a multiple of ${issue.divisor}`;
		case "invalid_format":
			return `must match ${issue.pattern ?? issue.format}`;
		case "invalid_union": {
			const options = issue.errors.map((errors) => errors[0].message.replace(/^must be /, ""));
			return options.length > 0
				? `must be ${[...new Set(options)].join(" or ")}`
				: mustBeOneOf(choicesOf(issue));
		}
	}
}

function mustBeOneOf(values: readonly unknown[]): string {
	return `must be ${values.length > 1 ? "one of " : ""}${values.map(show).join(", ")}`;
}

function boundText(
	origin: string,
	inclusive: string,
	exclusive: string,
	bound: unknown,
	isInclusive = true,
): string {
	const limit = `${isInclusive ? inclusive : exclusive} ${bound}`;
	const unit = origin === "string" ? "character" : origin === "array" ? "item" : undefined;
	if (!unit) return `must be ${limit}`;
	if (limit === "at least 1") return "must not be empty";
	return `must have ${limit} ${plural(Number(bound), unit)}`;
}

/** The issues to report: for a union, those of the option that matches the kind of the value. */
function innerIssues(
	issue: z.core.$ZodIssue,
	_: number,
	all: z.core.$ZodIssue[],
): z.core.$ZodIssue[] {
	if (issue.code === "invalid_union") {
		const isOfOtherKind = ({ code, path }: z.core.$ZodIssue) =>
			path.length === 0 && (code === "invalid_type" || code === "invalid_value");
		const near = issue.errors.find((errors) => !errors.some(isOfOtherKind));
		return near
			? near.map((inner) => ({ ...inner, path: [...issue.path, ...inner.path] }))
				.flatMap(innerIssues)
			: [issue];
	}
	// zod reports a huge integer twice; the bound of the option is more informative.
	const isExactness = "note" in issue && (issue.code === "too_big" || issue.code === "too_small");
	const hasOther = all.some((other) =>
		other !== issue && other.path.join(".") === issue.path.join(".")
	);
	return isExactness && hasOther ? [] : [issue];
}

/** The valid words. */
function choicesOf(issue: z.core.$ZodIssue | z.core.$ZodRawIssue): string[] {
	if (issue.code === "invalid_value") {
		return (issue.values as unknown[]).filter((value) => typeof value === "string");
	}
	if (issue.code !== "invalid_union") return [];
	const options = "options" in issue ? issue.options as unknown[] : [];
	return [
		...options.filter((value) => typeof value === "string"),
		...(issue.errors as z.core.$ZodIssue[][]).flat().flatMap(choicesOf),
	];
}

/** The end of a message about an unknown word: the nearest known one, or all of them. */
export function hint(word: string, known: readonly string[], title = "its stages"): string {
	const guess = didYouMean(word, known);
	if (guess !== undefined) return `; did you mean "${guess}"?`;
	return known.length > 0 ? `; ${title}: ${known.join(", ")}` : "";
}

/** A value as JSON, cut after 60 characters. */
export function show(value: unknown): string {
	if (typeof value === "number") return String(value); // JSON has no NaN
	const proto = Object(value) === value ? Object.getPrototypeOf(value) : null;
	if (proto !== null && proto !== Object.prototype && !Array.isArray(value)) {
		return `a ${proto.constructor.name}`;
	}
	return cut(JSON.stringify(value) ?? String(value));
}

/** A text that is cut after some letters. */
export function cut(text: string, letters = 60): string {
	return text.length > letters ? `${text.slice(0, letters)}…` : text;
}
