import { z } from "zod";
import { BYTES_PATTERN } from "../../base/units.ts";
import { VERSION } from "../../base/version.ts";
import { PRECISIONS } from "../../gpu/device.ts";
import { BACKENDS } from "../../hosts/deno_gpu.ts";
import { inHome, isPlainPath, NO_HOME } from "../../storage/home.ts";
import type { StageDeclaration } from "./config.ts";
import { MOST_STAGES } from "./limits.ts";
import { namedStages, type Recipe } from "./recipes.ts";

/** What is known of a path. */
export interface PathForm {
	isPath: true;
	/** Whether it need not exist. */
	mayLack?: boolean;
	/** Words that are no paths. */
	names?: readonly string[];
}

/** The schemas of paths; those that are made of them are paths, too. */
export const PATHS = z.registry<PathForm>();

/** The schema of a path of this machine. */
export const pathOption = z.string().min(1).overwrite((path) => inHome(path))
	.refine(isPlainPath, NO_HOME).register(PATHS, { isPath: true });

const SIZE = 'must be like "12GB" or "512MB"';
const memorySize = z.string(SIZE).regex(BYTES_PATTERN, SIZE);

/** A JSON Schema, draft 2020-12. */
export type JsonSchema = z.core.JSONSchema.BaseSchema;

/** The top-level keys of a pipeline file. The items of `stages` are checked against the stages. */
export const pipelineFields = z.strictObject({
	name: z.string()
		.regex(
			/^[A-Za-z0-9][A-Za-z0-9._-]*$/,
			'must be letters, digits, ".", "_" and "-", beginning with a letter or digit',
		)
		.describe("the name of the run, used in paths"),
	model: pathOption.describe(
		"the folder of a model, with config.json and its weights, or its name on the hub",
	),
	recipe: z.string().optional().describe(
		"a chain of stages by its name; stages is then a map of options, by stage",
	),
	output: pathOption.optional().describe(
		"the folder of the run; out/NAME if left out",
	),
	seed: z.int().min(0).max(2 ** 32 - 1).default(0).describe("the seed of every random choice"),
	mode: z.enum(["default", "reference"]).default("default").describe(
		"reference: the stages' defaults imitate the program that its authors released",
	),
	gpu: z.strictObject({
		adapter: z.union([z.string().min(1), z.int().min(0)]).default("auto").describe(
			"auto: hardware where there is some, else software; hardware; software; or one of those that doctor lists, " +
				"by its number, a part of its name, or its PCI address",
		),
		backend: z.enum(BACKENDS).optional().describe(
			"whose WebGPU: deno; dawn, which has tensor cores (the command dawn installs it); or auto: dawn where it is " +
				"installed and finds tensor cores. BILLM_BACKEND if left out, else deno",
		),
		precision: z.enum(PRECISIONS).default("f32").describe(
			"f16 rounds the factors of large products and of attention to f16 where there are tensor cores; sums " +
				"stay f32",
		),
		memory: memorySize.optional().describe(
			"GPU memory to stay under; as much as there is if left out. Changes the time, not the result",
		),
		"host-memory": memorySize.optional()
			.describe(
				"host memory for activations that GPU memory has no room for, beyond which they go to a file in the " +
					"folder of the run; most of what is free if left out. Changes the time, not the result",
			),
	}).default({ adapter: "auto", precision: "f32" }).describe("where the kernels run"),
	stages: z.array(z.unknown()).min(1).max(MOST_STAGES).describe("the stages to run, in this order"),
	matrix: z.unknown().optional().describe(
		"makes the file a grid: lists of values, a cell for each combination of them",
	),
});

/** The JSON Schema of the input of a zod schema: keys with a default are not required. */
export function jsonSchemaOf(schema: z.ZodType): JsonSchema {
	const { $schema: _, ...rest } = z.toJSONSchema(schema, {
		io: "input",
		unrepresentable: "any",
		override: ({ jsonSchema }) => { // the limits of exact integers are implementation details
			if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
			if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
		},
	});
	return rest;
}

/** The part of a JSON Schema for a value at `path`; undefined if there is none. */
export function schemaAt(
	schema: JsonSchema | undefined,
	path: readonly PropertyKey[],
): JsonSchema | undefined {
	if (schema === undefined || path.length === 0) return schema;
	for (const option of schema.anyOf ?? schema.oneOf ?? []) {
		const found = schemaAt(option as JsonSchema, path);
		if (found) return found;
	}
	const [key, ...rest] = path;
	const child = typeof key === "number"
		? schema.prefixItems?.[key] ?? schema.items
		: schema.properties?.[String(key)] ?? schema.additionalProperties;
	return typeof child === "object" ? schemaAt(child as JsonSchema, rest) : undefined;
}

/** The known keys of a map at `path`. */
export function knownKeys(schema: JsonSchema, path: readonly PropertyKey[]): string[] {
	const found = schemaAt(schema, path);
	const options = found?.anyOf ?? found?.oneOf ?? [found];
	const keys = options.flatMap((option) => Object.keys((option as JsonSchema)?.properties ?? {}));
	return [...new Set(keys)];
}

/**
 * The JSON Schema of a pipeline file, draft 2020-12, for completion and checks in editors.
 *
 * It covers the given stages and recipes. A `use:` stage may have any options because its module is not
 * read.
 */
export function pipelineJsonSchema(
	all: readonly StageDeclaration[],
	recipes: readonly Recipe[] = [],
): JsonSchema {
	const stages = namedStages(all);
	const { properties: fields = {}, required = [], ...rest } = jsonSchemaOf(pipelineFields);
	const { recipe: { description }, ...properties } = fields as Record<string, JsonSchema>;
	const hasRecipes = recipes.length > 0;
	if (hasRecipes) {
		properties.recipe = {
			description,
			anyOf: recipes.map(({ name, summary }) => ({ const: name, description: summary })),
		};
	}
	const optionsOf = new Map(stages.map((stage) => [stage.name, jsonSchemaOf(stage.options)]));
	const listOf = ({ name, listOption }: StageDeclaration) =>
		listOption === undefined ? [] : [optionsOf.get(name)!.properties![listOption]];
	const named = (stage: StageDeclaration, others: JsonSchema[]) => [stage.name, {
		title: stage.name,
		description: stage.summary,
		anyOf: [optionsOf.get(stage.name)!, { type: "null" }, ...listOf(stage), ...others],
	}];
	properties.stages = {
		...properties.stages,
		items: {
			anyOf: [
				{
					title: "A stage with options",
					type: "object",
					properties: Object.fromEntries(stages.map((stage) => named(stage, []))),
					minProperties: 1,
					maxProperties: 1,
					additionalProperties: false,
				},
				{
					title: "A custom stage",
					type: "object",
					properties: {
						use: {
							type: "string",
							description: "a module whose default export is a stage, from this file's folder",
						},
					},
					required: ["use"],
				},
				{
					title: "A stage without options",
					anyOf: stages.map(({ name, summary }) => ({ const: name, description: summary })),
				},
			],
		},
		...(hasRecipes && {
			type: ["array", "object"],
			description: "the stages to run, in this order; beside recipe, a map of options by stage: " +
				"false leaves a stage out",
			properties: Object.fromEntries(stages.map((stage) => named(stage, [{ const: false }]))),
			additionalProperties: false,
		}),
	} as JsonSchema;
	const { model, recipe, seed, mode, gpu, stages: list } = properties;
	const settings: Record<string, JsonSchema> = {
		model,
		...(hasRecipes && { recipe }),
		seed,
		mode,
		gpu,
		stages: list,
		...pathsOf("gpu", gpu),
	};
	for (const [name, options] of optionsOf) {
		settings[`stages.${name}`] = hasRecipes ? { anyOf: [options, { const: false }] } : options;
		Object.assign(settings, pathsOf(`stages.${name}`, options));
	}
	return {
		$schema: "https://json-schema.org/draft/2020-12/schema",
		$id: `urn:billm:pipeline:${VERSION}`,
		title: "Pipeline",
		...rest,
		// A matrix may provide the other required keys.
		required: required.filter((key) => key === "name"),
		anyOf: [
			...hasRecipes ? formsOf(required) : [{ required }],
			{ required: ["matrix"] },
		],
		properties: {
			...properties,
			matrix: { ...properties.matrix, ...matrixSchema(settings) },
		},
	};
}

/** The schemas of files with a list of stages, and with a recipe. */
function formsOf(required: string[]): JsonSchema[] {
	const others = required.filter((key) => key !== "stages");
	return [
		{ required, not: { required: ["recipe"] }, properties: { stages: { type: "array" } } },
		{ required: [...others, "recipe"], properties: { stages: { type: "object" } } },
	];
}

/** The schemas of a map's keys by their paths. */
function pathsOf(path: string, schema: JsonSchema): Record<string, JsonSchema> {
	return Object.fromEntries(
		Object.entries(schema.properties ?? {})
			.map(([key, inner]) => [`${path}.${key}`, inner as JsonSchema]),
	);
}

/** @param settings Schemas of the values that a matrix may vary, by path. */
function matrixSchema(settings: Record<string, JsonSchema>): JsonSchema {
	const maps = (description: string) => ({
		description,
		type: "array",
		items: { type: "object", minProperties: 1 },
	});
	const lists = Object.entries(settings).map(([path, schema]) => [path, {
		description: `values of ${path}`,
		type: "array",
		minItems: 1,
		items: schema,
	}]);
	return {
		type: "object",
		minProperties: 1,
		properties: {
			include: maps("values to add to matching combinations, or additional cells"),
			exclude: maps("combinations to leave out"),
			...Object.fromEntries(lists),
		},
		patternProperties: { "^stages\\.": { type: "array", minItems: 1 } },
		additionalProperties: {
			description: "named variants, each of which sets several values",
			type: "array",
			minItems: 1,
			items: {
				type: "object",
				properties: {
					name: { type: "string", description: "its name in the names of cells" },
					...settings,
				},
				patternProperties: { "^stages\\.": {} },
				required: ["name"],
				additionalProperties: false,
			},
		},
	};
}
