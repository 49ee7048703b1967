// Writes the sections of README and docs/ that come from the code: keys of a pipeline file, stages with
// their options, recipes, families. A test checks that they are up to date.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { listed } from "../base/figures.ts";
import { ARCHITECTURES } from "../models/architectures/mod.ts";
import { type JsonSchema, jsonSchemaOf, pipelineFields } from "../pipeline/config/json_schema.ts";
import type { Stage } from "../pipeline/stage.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";

const PROJECT = join(import.meta.dirname!, "..");

/** Pages about single stages. */
const PAGES: Record<string, string> = {
	download: "small-hosts.md",
	allocate: "allocate.md",
	rotate: "rotation.md",
	"propagate-error": "correction.md",
	arb: "methods.md",
	hbllm: "methods.md",
	"row-search": "recipes.md#effort-of-row-search",
	rtn: "integer-grids.md",
	gptq: "integer-grids.md",
	levels: "levels.md",
	"pb-llm": "methods.md",
	trellis: "trellis.md",
	"refit-norm": "correction.md#the-final-norm-refit-norm",
	pack: "results.md#size-by-options-of-pack",
	export: "export.md",
	evaluate: "metrics.md",
};

/** Options of every stage that quantizes whole linear layers, which have a page of their own. */
const COMMON = ["overrides", "skip"];

const HEAD = ["key", "values", "default", ""];

const SECTIONS: Record<string, () => string> = {
	fields: () => table(HEAD, rowsOf(jsonSchemaOf(pipelineFields), {}, [])),
	stages() {
		const known = new Map<string, string>();
		const named = STAGES.filter(({ completes }) => !completes);
		return named.map((stage) => stageSection(stage, known)).join("\n\n");
	},
	recipes: () =>
		table(
			["recipe", "", "stages between `download` and `pack`"],
			RECIPES.map(({ name, summary, stages }) => [code(name), summary, chainText(stages)]),
		),
	families: () =>
		table(
			["`model_type`", "models", "beyond LLaMA"],
			families().map(([type, { models = "", features = "" }]) => [code(type), models, features]),
		),
	"family-list": () => `${families().map(([, { models }]) => models).join("; ")}.`,
};

const PAGES_WITH_SECTIONS = ["README.md", "docs/pipeline.md", "docs/families.md"];

/** The pages with sections from the code, by path, as they are and as they should be. */
export function pagesFromCode(): { path: string; text: string; wanted: string }[] {
	return PAGES_WITH_SECTIONS.map((path) => {
		const text = readFileSync(join(PROJECT, path), "utf8");
		const wanted = text.replace(
			/(<!-- from the code: ([\w-]+) -->\n\n)[^]*?(\n\n<!-- end -->)/g,
			(_, begin, name, end) => begin + SECTIONS[name]() + end,
		);
		return { path, text, wanted };
	});
}

function families() {
	return Object.entries(ARCHITECTURES);
}

function code(text: string): string {
	return `\`${text}\``;
}

/** A table without spaces beside the bars, since it is not meant to be written by hand. */
function table(head: string[], rows: string[][]): string {
	return [head, head.map(() => "---"), ...rows]
		.map((cells) => `|${cells.map((cell) => cell.replaceAll("|", "\\|")).join("|")}|`).join("\n");
}

/** A chain without its first stage, `download`, and its last ones from `pack` on. */
function chainText(stages: (typeof RECIPES)[number]["stages"]): string {
	return code(
		stages.filter(([name]) => !["download", "pack", "export"].includes(name))
			.map(([name, options]) => {
				const text = Object.entries(options ?? {}).map(([key, value]) => `${key}: ${value}`);
				return text.length > 0 ? `${name} { ${text.join(", ")} }` : name;
			}).join(", "),
	);
}

/** @param known The stage that has an option first, by all that is said of the option. */
function stageSection(stage: Stage, known: Map<string, string>): string {
	const { name, summary, scope, presets } = stage;
	const reference = typeof presets?.reference === "function"
		? presets.reference({})
		: presets?.reference ?? {};
	const schema = jsonSchemaOf(stage.options);
	const common = COMMON.filter((key) => schema.properties?.[key]);
	const where = scope === "linear" ? "linear layer" : scope;
	const page = PAGES[name] === undefined ? "" : ` [More](${PAGES[name]}).`;
	const also = common.length === 0 ? "" : "\n\n" +
		`And ${listed(common.map(code), "and")} ([allocate.md](allocate.md#rules-overrides-and-skip)).`;
	const rows = rowsOf(schema, reference, COMMON).map((row) => {
		const [key, values, defaults, description] = row;
		const text = JSON.stringify([key.replace(/.*\./, ""), values, description]);
		const first = known.get(text);
		known.set(text, first ?? name);
		return first === undefined || description.length < 40
			? row
			: [key, `as in ${code(first)}`, defaults, ""];
	});
	const options = rows.length === 0 ? "No options." : table(HEAD, rows);
	return `### ${code(name)}\n\n${summary}. Once per ${where}.${page}\n\n${options}${also}`;
}

function rowsOf(
	schema: JsonSchema,
	reference: Record<string, unknown>,
	leftOut: readonly string[],
	path = "",
): string[][] {
	const entries = Object.entries(schema.properties ?? {}) as [string, JsonSchema][];
	return entries.filter(([key]) => !leftOut.includes(key)).flatMap(([key, value]) => {
		const inner = [value, ...alternatives(value.items as JsonSchema)].find((one) => one.properties);
		const isMap = inner === value;
		// Some descriptions end with their default.
		const [, description, said] = /^(.*?)(?:; default ([^;]+))?$/s.exec(value.description ?? "")!;
		const ours = schema.required?.includes(key)
			? "required"
			: isMap || value.default === undefined
			? said ?? ""
			: `${value.default}`;
		const theirs = reference[key] === undefined || `${reference[key]}` === ours
			? ""
			: `${ours && "; "}reference: ${reference[key]}`;
		return [
			[code(path + key), isMap ? "map" : valuesText(value), ours + theirs, description],
			...(inner ? rowsOf(inner, {}, [], `${path}${key}.`) : []),
		];
	});
}

function alternatives(schema: JsonSchema | undefined): JsonSchema[] {
	return schema ? [schema, ...(schema.anyOf ?? []) as JsonSchema[]] : [];
}

/** What a value may be, in words. */
function valuesText(schema: JsonSchema): string {
	const { type, minimum, maximum, exclusiveMinimum } = schema;
	if (schema.const !== undefined) return `${schema.const}`;
	if (schema.enum) return schema.enum.join(", ");
	if (schema.anyOf) return schema.anyOf.map((one) => valuesText(one as JsonSchema)).join("; ");
	if (type === "array") return `list: ${valuesText(schema.items as JsonSchema)}`.replace(/: $/, "");
	if (type === undefined) return "";
	if (type === "object") return "map";
	if (type === "boolean") return "true, false";
	if (type === "string") return schema.pattern?.includes("[MG]") ? "such as 12GB" : "text";
	const from = exclusiveMinimum === undefined ? `${minimum ?? ""}` : `above ${exclusiveMinimum}`;
	return maximum === undefined ? (from ? `from ${from}` : "number") : `${from} to ${maximum}`;
}

if (import.meta.main) {
	for (const { path, text, wanted } of pagesFromCode()) {
		if (text !== wanted) writeFileSync(join(PROJECT, path), wanted);
	}
}
