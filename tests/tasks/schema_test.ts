import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { RECIPES, STAGES } from "../../stages/mod.ts";
import { startTask } from "../start_task.ts";

const EXAMPLES = join(import.meta.dirname!, "../../examples");

interface Schema {
	type?: string | string[];
	not?: Schema;
	const?: unknown;
	enum?: unknown[];
	anyOf?: Schema[];
	properties?: Record<string, Schema>;
	required?: string[];
	patternProperties?: Record<string, Schema>;
	additionalProperties?: boolean | Schema;
	minProperties?: number;
	maxProperties?: number;
	items?: Schema;
	minItems?: number;
	minimum?: number;
	maximum?: number;
	minLength?: number;
	pattern?: string;
}

const TYPES: Record<string, (value: unknown) => boolean> = {
	object: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
	array: Array.isArray,
	string: (value) => typeof value === "string",
	number: (value) => typeof value === "number",
	integer: Number.isInteger,
	boolean: (value) => typeof value === "boolean",
	null: (value) => value === null,
};

/** Whether a value meets a schema, as far as the schema uses the words above. */
function meets(value: unknown, schema: Schema): boolean {
	const within = (size: number, least = -Infinity, most = Infinity) =>
		size >= least && size <= most;
	const types = [schema.type ?? []].flat();
	if (types.length > 0 && !types.some((type) => TYPES[type](value))) return false;
	if (schema.not && meets(value, schema.not)) return false;
	if ("const" in schema && value !== schema.const) return false;
	if (schema.enum && !schema.enum.includes(value)) return false;
	if (schema.anyOf && !schema.anyOf.some((option) => meets(value, option))) return false;
	if (typeof value === "number") return within(value, schema.minimum, schema.maximum);
	if (typeof value === "string") {
		return within(value.length, schema.minLength) && new RegExp(schema.pattern ?? "").test(value);
	}
	if (Array.isArray(value)) {
		return within(value.length, schema.minItems) &&
			value.every((item) => meets(item, schema.items ?? {}));
	}
	if (!TYPES.object(value)) return true;
	const members = Object.entries(value as object);
	return within(members.length, schema.minProperties, schema.maxProperties) &&
		(schema.required ?? []).every((key) => Object.hasOwn(value as object, key)) &&
		members.every(([key, member]) => {
			const patterns = Object.entries(schema.patternProperties ?? {})
				.filter(([pattern]) => new RegExp(pattern).test(key)).map(([, known]) => known);
			const known = [schema.properties?.[key], ...patterns].filter((known) => known !== undefined);
			const { additionalProperties: others = true } = schema;
			if (known.length === 0) return typeof others === "boolean" ? others : meets(member, others);
			return known.every((known) => meets(member, known));
		});
}

Deno.test("the schema task prints a JSON Schema that fits the examples and refuses mistakes", async () => {
	const { code, stdout, stderr } = await startTask("schema", []);
	assert.deepEqual([code, stderr], [0, ""]);
	const schema = JSON.parse(stdout);
	assert.equal(schema.$schema, "https://json-schema.org/draft/2020-12/schema");
	const [{ properties }] = schema.properties.stages.items.anyOf;
	assert.deepEqual(
		Object.keys(properties),
		STAGES.filter(({ completes }) => !completes).map(({ name }) => name),
	);

	const files = ["", "baselines"].flatMap((folder) =>
		readdirSync(join(EXAMPLES, folder)).map((name) => join(folder, name))
	).filter((name) => name.endsWith(".yaml"));
	assert.ok(files.length >= 10);
	for (const file of files) {
		assert.ok(meets(parse(readFileSync(join(EXAMPLES, file), "utf8")), schema), file);
	}

	const good = { name: "a", model: "m", stages: ["download", { hessian: { damping: 0.1 } }] };
	assert.ok(meets(good, schema));
	assert.ok(
		meets({ ...good, stages: [{ use: "./mine.ts", anything: 3 }, { pack: null }] }, schema),
	);
	assert.deepEqual(
		schema.properties.recipe.anyOf,
		RECIPES.map(({ name, summary }) => ({ const: name, description: summary })),
	);
	const byRecipe = { name: "a", model: "m", recipe: "light" };
	const stages = { hessian: { damping: 0.1 }, pack: null, compensate: false };
	assert.ok(meets(byRecipe, schema));
	assert.ok(meets({ ...byRecipe, stages }, schema));
	const { model: _, ...lacking } = good;
	const bad = [
		lacking,
		{ ...good, nmae: "b" },
		{ ...good, seed: -1 },
		{ ...good, mode: "fast" },
		{ ...good, stages: [] },
		{ ...good, stages: ["downlaod"] },
		{ ...good, stages: [{ hessian: { damping: 11 } }] },
		{ ...good, stages: [{ hessian: { dampin: 0.1 } }] },
		{ ...good, stages: [{ calibrate: { samples: 4 } }] },
		{ ...good, stages: [{ compensate: { "block-size": 100 } }] },
		{ ...good, stages: [{ download: {}, pack: {} }] },
		{ ...good, stages },
		{ ...good, recipe: "light" },
		{ ...byRecipe, recipe: "lihgt" },
		{ ...byRecipe, stages: { hessian: { damping: 11 } } },
		{ ...byRecipe, stages: { hesian: {} } },
		{ ...byRecipe, stages: { hessian: true } },
		{ ...byRecipe, stages: { use: "./mine.ts" } },
	];
	for (const value of bad) assert.ok(!meets(value, schema), JSON.stringify(value));

	// A matrix may give what the file does not.
	const goodMatrices = [
		{ model: ["a", "b"], method: [{ name: "x", stages: ["download"], mode: "reference" }] },
		{ model: ["a"], "stages.calibrate.samples": [1, 2], "stages.mine.anything": ["x"] },
		{ "stages.pack": [{ scales: "i4" }, {}], "gpu.memory": ["2GB"], exclude: [{ seed: 1 }] },
		{ recipe: ["light", "default"], method: [{ name: "x", recipe: "rtn" }] },
		{ "stages.rotate": [false, {}], method: [{ name: "x", stages: { rotate: false } }] },
		{ method: [{ name: "x", "stages.hessian.damping": 0.5 }], include: [{ method: "x", seed: 2 }] },
	];
	for (const matrix of goodMatrices) {
		assert.ok(meets({ name: "a", matrix }, schema), JSON.stringify(matrix));
		assert.ok(meets({ ...good, matrix }, schema), JSON.stringify(matrix));
	}
	const badMatrices = [
		[],
		{},
		{ model: "a" },
		{ model: [] },
		{ model: [3] },
		{ modell: ["a"] },
		{ mode: ["fast"] },
		{ recipe: ["lihgt"] },
		{ "stages.rotate": [true] },
		{ "stages.calibrate.samples": [0] },
		{ "stages.mine.anything": "x" },
		{ method: [{ mode: "reference" }] },
		{ method: [{ name: "x", mdoe: "reference" }] },
		{ method: [{ name: "x", "stages.hessian.damping": 11 }] },
		{ include: { model: "a" } },
		{ exclude: [{}] },
	];
	for (const matrix of badMatrices) {
		assert.ok(!meets({ ...good, matrix }, schema), JSON.stringify(matrix));
	}
	const { name: __, ...nameless } = good;
	assert.ok(!meets({ ...nameless, matrix: { seed: [1] } }, schema));
});
