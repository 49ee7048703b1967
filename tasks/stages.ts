import { didYouMean } from "../base/did_you_mean.ts";
import { type JsonSchema, jsonSchemaOf } from "../pipeline/config/json_schema.ts";
import { needsOf } from "../pipeline/config/config.ts";
import { namedStages } from "../pipeline/config/recipes.ts";
import type { Stage } from "../pipeline/stage.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import { runCommand, usageErrors } from "./task.ts";

const HELP = `Usage: deno task stages [NAME]

Lists the stages of pipeline files, or describes one: its options with values and defaults, how often
it runs, the artifacts that it takes and gives, and the recipes that have it.

Options
  --help   Print this

Exit codes: 0 done, 2 bad arguments.
`;

/** Columns of a line. */
const WIDTH = 100;

const stages = namedStages(STAGES);

await runCommand(
	{ name: "stages", help: HELP, options: {} },
	({ positionals: [name, ...more] }) => {
		const usageError = usageErrors("stages");
		if (more.length > 0) throw usageError(`Give one stage at most, found ${more.length + 1}`);
		if (name === undefined) {
			return console.log(
				stages.map(({ name, scope, summary }) =>
					`${name.padEnd(18)} once per ${scope.padEnd(7)} ${summary}`
				).join("\n"),
			);
		}
		const stage = stages.find((stage) => stage.name === name);
		if (stage) return console.log(description(stage));
		const names = stages.map(({ name }) => name);
		const guess = didYouMean(name, names);
		const isRecipe = RECIPES.some((recipe) => recipe.name === name);
		throw usageError(
			`There is no stage "${name}"` +
				(isRecipe ? ", but a recipe of that name" : guess ? `; did you mean "${guess}"?` : "") +
				`${guess ? "" : ";"} stages: ${names.join(", ")}`,
		);
	},
);

function description(stage: Stage): string {
	const { name, scope, summary, options, gives, excludes = [], presets } = stage;
	const { properties = {} } = jsonSchemaOf(options);
	const defaults = options.safeParse({}).data ?? {};
	const needs = needsOf(stage, defaults);
	const isChoice = typeof stage.needs === "function";
	const having = RECIPES.filter(({ stages }) => stages.some(([own]) => own === name));
	const rows: [string, readonly string[]][] = [
		[isChoice ? "takes, with the defaults" : "takes", needs],
		["gives", gives],
		["does not go with", excludes],
		["in the recipes", having.map(({ name }) => name)],
	];
	const { reference } = presets ?? {};
	const changed = typeof reference === "function" ? reference({}) : reference;
	const lines = [`${name}: ${summary}`, `Runs once per ${scope}`];
	for (const [label, words] of rows) {
		if (words.length > 0) lines.push(`${label}: ${words.join(", ")}`);
	}
	if (changed && Object.keys(changed).length > 0) {
		lines.push(`in mode: reference: ${JSON.stringify(changed)}`);
	}
	const texts = Object.entries(properties).flatMap(([key, schema]) =>
		optionLines(key, schema as JsonSchema, "  ")
	);
	return [...lines, texts.length > 0 ? "\nOptions" : "\nNo options", ...texts].join("\n");
}

/** The lines about an option, and about those within it. */
function optionLines(key: string, schema: JsonSchema, indent: string): string[] {
	const inner = [
		schema,
		schema.items,
		...schema.anyOf ?? [],
		...(schema.items as JsonSchema)?.anyOf ?? [],
	]
		.flatMap((part) => Object.entries((part as JsonSchema)?.properties ?? {}));
	const preset = schema.default === undefined ? "" : `, default ${JSON.stringify(schema.default)}`;
	const about = `${indent}${key}: ${valuesText(schema)}${preset}`;
	return [
		about,
		...wrapped(schema.description ?? "", `${indent}    `),
		...inner.flatMap(([key, part]) => optionLines(key, part as JsonSchema, `${indent}    `)),
	];
}

/** What values a schema allows. */
function valuesText(schema: JsonSchema): string {
	const { anyOf, oneOf, enum: words, const: word, type, minimum, maximum } = schema;
	const { exclusiveMinimum: above, exclusiveMaximum: below } = schema;
	const options = anyOf ?? oneOf;
	if (options) {
		return [...new Set(options.map((one) => valuesText(one as JsonSchema)))].join(" or ");
	}
	if (words) return words.map((word) => JSON.stringify(word)).join(", ");
	if (word !== undefined) return JSON.stringify(word);
	if (type === "array") return `list of: ${valuesText(schema.items as JsonSchema)}`;
	const names: Record<string, string> = {
		integer: "whole number",
		object: "map",
		boolean: "true, false",
	};
	const least = above !== undefined
		? `above ${above}`
		: minimum !== undefined
		? `from ${minimum}`
		: "";
	const most = below !== undefined
		? `below ${below}`
		: maximum !== undefined
		? `up to ${maximum}`
		: "";
	return [names[String(type)] ?? type ?? "any", least, most].filter(Boolean).join(" ");
}

function wrapped(text: string, indent: string): string[] {
	const lines: string[] = [];
	for (const word of text.split(" ").filter(Boolean)) {
		const last = lines.at(-1);
		if (last !== undefined && indent.length + last.length + word.length < WIDTH) {
			lines.push(`${lines.pop()} ${word}`);
		} else lines.push(word);
	}
	return lines.map((line) => indent + line);
}
